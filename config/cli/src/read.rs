//! Commands that read settings: get, list, search, explain, reveal, template, export.

use clap::ValueEnum;
use harmony_config::{
    Actor, FieldPath, Key,
    chain::{Explanation, Secrets, TemplateFormat, template},
    source::{Document, value_at},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    describe::{About, Described, open},
    error::Error,
    field::Field,
    home::{self, Home},
    output::{self, Format, MASK},
};

/// Shows an item, or a field of it, as it is in the database; secrets are masked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config get BrocadeSwitchAuth
  harmony-config get BrocadeSwitchAuth tls.ca_file
  harmony-config get BrocadeSwitchAuth -o json
  harmony-config get BrocadeSwitchAuth --revision 12")]
pub struct Get {
    /// Key of the item.
    pub key: Key,
    /// A field of it; then its bare value is printed.
    pub field: Option<Field>,
    /// As it was at this revision.
    #[arg(long, value_name = "NUMBER")]
    pub revision: Option<u64>,
}

impl Get {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database().await?;
        let revision = match self.revision {
            Some(revision) => revision,
            None => home::item(&database, &self.key).await?.revision,
        };
        // Unlike a list, this compares the values with the audit log.
        let found = database.version(database.service(), &self.key, revision).await?;
        let item = found.ok_or_else(|| Error::NotFound {
            what: format!("{} had no {} at revision {revision}", database.service(), self.key),
            next: format!("`harmony-config history {}` shows what there was", self.key),
        })?;
        if let Some(Field(place)) = self.field {
            let secret = item.secrets.iter().any(|secret| secret.covers(&place));
            let value = match value_at(&item.values, &place) {
                _ if secret => Value::from(MASK),
                Some(value) => value.clone(),
                None => return Err(no_field(&self.key, &place)),
            };
            if secret {
                output::note(&format!(
                    "note: {place} is secret; `harmony-config reveal {} {place}` shows it",
                    self.key
                ));
            }
            return match home.output {
                Format::Json => output::json(&value),
                Format::Table => output::print(&format!("{}\n", output::plain(&output::cell(&value)))),
            };
        }
        match home.output {
            Format::Json => output::json(&json!({
                "service": item.service,
                "key": item.key,
                "revision": item.revision,
                "schema_version": item.schema_version,
                "updated_at": item.updated_at,
                "values": item.values,
                "secrets": item.secrets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })),
            Format::Table => {
                let mut rows = Vec::new();
                leaves(&FieldPath::root(), &item.values, &mut rows);
                rows.extend(item.secrets.iter().map(|place| vec![place.to_string(), MASK.to_owned()]));
                rows.sort();
                output::print(&output::table(&["FIELD", "VALUE"], &rows))
            }
        }
    }
}

fn no_field(key: &Key, place: &FieldPath) -> Error {
    Error::NotFound {
        what: format!("{key} has no {place} in the database"),
        next: format!(
            "`harmony-config get {key}` shows what it has; `harmony-config explain {key}` asks all sources"
        ),
    }
}

fn leaves(at: &FieldPath, fields: &Document, rows: &mut Vec<Vec<String>>) {
    for (name, value) in fields {
        let place = at.join(name);
        match value {
            Value::Object(fields) if !fields.is_empty() => leaves(&place, fields, rows),
            value => rows.push(vec![place.to_string(), output::cell(value)]),
        }
    }
}

/// Lists items: of all services, or of one with --service.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config list
  harmony-config list --service switchd -o json")]
pub struct List {}

impl List {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let items = home.unopened()?.list(home.service.as_deref()).await?;
        match home.output {
            Format::Json => {
                let items: Vec<_> = items
                    .iter()
                    .map(|item| {
                        json!({
                            "service": item.service,
                            "key": item.key,
                            "revision": item.revision,
                            "schema_version": item.schema_version,
                            "updated_at": item.updated_at,
                            "secrets": item.secrets.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        })
                    })
                    .collect();
                output::json(&items)
            }
            Format::Table => {
                let rows: Vec<_> = items
                    .iter()
                    .map(|item| {
                        vec![
                            item.service.clone(),
                            item.key.to_string(),
                            item.revision.to_string(),
                            item.schema_version.to_string(),
                            item.secrets.len().to_string(),
                            seconds(item.updated_at),
                        ]
                    })
                    .collect();
                output::print(&output::table(
                    &["SERVICE", "KEY", "REVISION", "SCHEMA", "SECRETS", "UPDATED"],
                    &rows,
                ))
            }
        }
    }
}

/// A time without its fractions of a second.
pub fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// Finds text in keys, names of fields and values; secrets are not looked into.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config search 10.1.2.3
  harmony-config search ca_file --service switchd")]
pub struct Search {
    /// The text, upper or lower case.
    pub text: String,
    /// Most results.
    #[arg(long, default_value_t = 100, value_name = "NUMBER")]
    pub limit: usize,
}

impl Search {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.unopened()?;
        let found = database.search(&self.text, home.service.as_deref(), self.limit).await?;
        match home.output {
            Format::Json => output::json(&found),
            Format::Table => {
                let rows: Vec<_> = found
                    .into_iter()
                    .map(|found| {
                        vec![found.service, found.key.to_string(), found.place, found.revision.to_string()]
                    })
                    .collect();
                output::print(&output::table(&["SERVICE", "KEY", "FIELD", "REVISION"], &rows))
            }
        }
    }
}

/// Says which source gives which field of an item: environment, files, database. Secrets are masked.
#[derive(Debug, clap::Args)]
#[command(after_help = "The environment is that of this command; a service may have another.

Examples:
  harmony-config explain BrocadeSwitchAuth
  harmony-config explain BrocadeSwitchAuth --schema BrocadeSwitchAuth.schema.json -o json")]
pub struct Explain {
    /// Key of the item.
    pub key: Key,
    #[command(flatten)]
    about: About,
}

impl Explain {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database().await?;
        let item = match home::item(&database, &self.key).await {
            Ok(item) => Some(item),
            // With a schema, the other sources can be asked.
            Err(Error::NotFound { .. }) if self.about.schema.is_some() => None,
            Err(error) => return Err(error),
        };
        let described = Described::of(&database, &self.key, item.as_ref(), &self.about, &[]).await?;
        described.warn();
        let chain = home.chain(database);
        chain.register_model(described.model)?;
        let explanation = chain.explain_key(self.key.as_str()).await?;
        match home.output {
            Format::Json => output::json(&in_json(&explanation)),
            Format::Table => {
                let text = explanation.to_string();
                output::print(
                    &text.lines().fold(String::new(), |text, line| text + &output::plain(line) + "\n"),
                )
            }
        }
    }
}

fn in_json(explanation: &Explanation) -> Value {
    let fields: Vec<_> = explanation
        .fields
        .iter()
        .map(|field| {
            let hides: Vec<_> =
                field.hides.iter().map(|(source, at)| json!({ "source": source, "at": at })).collect();
            json!({
                "field": field.place.to_string(),
                "value": field.value,
                "source": field.source,
                "at": field.at,
                "hides": hides,
            })
        })
        .collect();
    let sources: Vec<_> = explanation
        .sources
        .iter()
        .map(|(source, answer)| json!({ "source": source, "answer": answer.to_string() }))
        .collect();
    let unknown: Vec<_> = explanation
        .unknown
        .iter()
        .map(|field| json!({ "field": field.place.to_string(), "at": field.at, "meant": field.meant }))
        .collect();
    json!({
        "key": explanation.key,
        "schema_version": explanation.version,
        "fields": fields,
        "sources": sources,
        "unknown": unknown,
        "missing": explanation.missing.iter().map(|field| field.place.to_string()).collect::<Vec<_>>(),
        "faults": explanation.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// Shows secrets: an item, or a field of it, in plain text. A line in the audit log is written first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config reveal BrocadeSwitchAuth password
  harmony-config reveal BrocadeSwitchAuth")]
pub struct Reveal {
    /// Key of the item.
    pub key: Key,
    /// A field of it; then its bare value is printed.
    pub field: Option<Field>,
}

impl Reveal {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database().await?;
        let item = home::item(&database, &self.key).await?;
        let place = self.field.map(|field| field.0).unwrap_or_default();
        let is_there = place.names().is_empty()
            || value_at(&item.values, &place).is_some()
            || item.secrets.iter().any(|secret| secret.covers(&place) || place.covers(secret));
        if !is_there {
            return Err(no_field(&self.key, &place));
        }
        let values = database.show(database.service(), &self.key, &place, &Actor::of_this_process()).await?;
        if place.names().is_empty() {
            return output::json(&values);
        }
        let value = value_at(&values, &place).ok_or_else(|| no_field(&self.key, &place))?;
        match (home.output, value) {
            // As it is, for a pipe: a key may have lines.
            (Format::Table, Value::String(text)) => output::print(&format!("{text}\n")),
            (_, value) => output::json(value),
        }
    }
}

/// Format of a template.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum As {
    /// TOML.
    #[default]
    Toml,
    /// YAML.
    Yaml,
    /// JSON, with remarks as members whose names begin with //.
    Json,
}

/// Prints an example file with every field, its description and its default.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config template BrocadeSwitchAuth > ~/.config/harmony/config/BrocadeSwitchAuth.toml
  harmony-config template BrocadeSwitchAuth --format yaml --schema BrocadeSwitchAuth.schema.json")]
pub struct Template {
    /// Key of the item.
    pub key: Key,
    /// Format of the file.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: As,
    #[command(flatten)]
    about: About,
}

impl Template {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let model = match crate::describe::of_file(&self.key, &self.about)? {
            // Needs no database.
            Some(model) => model,
            None => {
                let database = home.database().await?;
                let described = Described::of(&database, &self.key, None, &self.about, &[]).await?;
                if !described.has_schema {
                    return Err(Error::NotFound {
                        what: format!("no schema of {} is known for {}", self.key, database.service()),
                        next: "name it with --schema, or let the service write these settings once"
                            .to_owned(),
                    });
                }
                described.model
            }
        };
        let format = match self.format {
            As::Toml => TemplateFormat::Toml,
            As::Yaml => TemplateFormat::Yaml,
            As::Json => TemplateFormat::Json,
        };
        output::print(&template(&model, format))
    }
}

/// Writes all items of a service as one JSON text, to keep or to move them. Secrets are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config export --service switchd > switchd.json
  harmony-config export --service switchd --reveal-secrets | age -r … > switchd.json.age")]
pub struct Export {
    /// With the secrets in plain text; a line in the audit log is written first for each.
    #[arg(long)]
    pub reveal_secrets: bool,
}

impl Export {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database().await?;
        let items = database.list(Some(database.service())).await?;
        // The database only: what the environment of this command says is not the service's.
        let chain = harmony_config::ConfigManager::builder().source(database.clone()).build();
        for item in &items {
            // As it is stored, whichever schema came later; what that one says is secret is left out, too.
            let about = About { schema: None, secret: Vec::new() };
            let described = Described::of(&database, &item.key, Some(item), &about, &[]).await?;
            let secret: Vec<_> = described
                .model
                .secrets
                .into_iter()
                .filter(|place| value_at(&item.values, place).is_some() || item.secrets.contains(place))
                .collect();
            chain.register_model(open(&item.key, Some(item), &secret, &[])?)?;
        }
        let secrets = if self.reveal_secrets { Secrets::Revealed } else { Secrets::Omitted };
        output::json(&chain.export(secrets).await?)
    }
}
