//! Commands that write settings: set, delete, import.
//!
//! A secret never comes from an argument, which other users of the machine could read: from the standard input, or
//! from a question that does not show the answer.

use std::io::{IsTerminal as _, Read as _};

use harmony_config::{
    ConfigManager, FieldPath, File, Key, Model,
    chain::{Export, Written},
    source::{Document, Source as _},
};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    describe::{About, Described},
    error::Error,
    field::Field,
    home::{self, Home},
    output::{self, Format},
};

/// Most bytes of what is read.
const LIMIT: u64 = 1 << 20;

/// Sets a field of an item, or all of it. The value of a secret is read from the standard input or asked for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config set BrocadeSwitchAuth host sw-1.example
  harmony-config set BrocadeSwitchAuth password < password.txt
  harmony-config set BrocadeSwitchAuth password        (asks)
  harmony-config set BrocadeSwitchAuth --file auth.toml
  harmony-config set BrocadeSwitchAuth --file - < auth.json
  harmony-config set --service switchd --schema auth.schema.json BrocadeSwitchAuth host sw-1.example")]
pub struct Set {
    /// Key of the item.
    key: Key,
    /// The field; without it the whole item is set, from --file.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    field: Option<Field>,
    /// Its value: text as it is, all else as JSON. Not for secrets.
    #[arg(allow_hyphen_values = true)]
    value: Option<String>,
    /// The whole item, in the place of what there is: .toml, .yaml, .json, or - for JSON on the standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<std::path::PathBuf>,
    /// Only if the item has this revision; 0: only if there is none yet. With --file.
    #[arg(long, value_name = "NUMBER", requires = "file")]
    expected: Option<u64>,
    #[command(flatten)]
    about: About,
}

impl Set {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database_or_new().await?;
        let item = match home::item(&database, &self.key).await {
            Ok(item) => Some(item),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let places: Vec<_> = self.field.iter().map(|field| &field.0).collect();
        let mut described = Described::of(&database, &self.key, item.as_ref(), &self.about, &places).await?;
        let change = match (&self.field, &self.file) {
            (Some(Field(place)), _) => Some((place, described.value(place, &self.text(&described, place)?)?)),
            (None, Some(_)) => None,
            (None, None) => {
                return Err(Error::Usage {
                    what: "neither a field nor a file was given".to_owned(),
                    next: "see `harmony-config set --help`".to_owned(),
                });
            }
        };
        described.warn();
        let chain = home.chain(database);
        let key = self.key.as_str();
        let written = match (change, &self.file) {
            (Some((place, value)), _) => {
                described.refuse_unfit(item.as_ref())?;
                chain.register_model(described.model)?;
                chain.set_field(key, place, Some(value)).await?
            }
            (None, Some(file)) => {
                let values = document(file, &described.model).await?;
                described.seal_unknown(item.as_ref(), &values);
                chain.register_model(described.model)?;
                chain.set_values(key, values, self.expected).await?
            }
            (None, None) => return Ok(()),
        };
        tell(home, &self.key, &written)
    }

    fn text(&self, described: &Described, place: &FieldPath) -> Result<Zeroizing<String>, Error> {
        let secret = described.model.touches_secret(place);
        match &self.value {
            Some(_) if secret => Err(Error::Usage {
                what: format!(
                    "{place} is secret, and other users of this machine can read arguments: nothing was set. Your \
                     shell may have kept the value in its history"
                ),
                next: format!(
                    "write it to the standard input: harmony-config set {} {place} < FILE",
                    self.key
                ),
            }),
            Some(value) => Ok(Zeroizing::new(value.clone())),
            None if std::io::stdin().is_terminal() => ask(place, secret),
            None => {
                let mut text = input()?;
                // One line end is the file's or `echo`'s.
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                Ok(text)
            }
        }
    }
}

fn ask(place: &FieldPath, secret: bool) -> Result<Zeroizing<String>, Error> {
    let question = format!("{place}:");
    let answer = match secret {
        true => {
            inquire::Password::new(&question).with_display_mode(inquire::PasswordDisplayMode::Masked).prompt()
        }
        false => inquire::Text::new(&question).prompt(),
    };
    answer.map(Zeroizing::new).map_err(|error| Error::Usage {
        what: format!("no value for {place}: {error}. Nothing was set"),
        next: "answer the question, or write the value to the standard input".to_owned(),
    })
}

/// All of the standard input.
fn input() -> Result<Zeroizing<String>, Error> {
    let mut bytes = Zeroizing::new(Vec::new());
    let failed = |source| Error::Io { what: "the standard input cannot be read".to_owned(), source };
    std::io::stdin().lock().take(LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::Refused {
            what: format!("the standard input has more than {LIMIT} bytes: nothing was set"),
            next: "keep large files elsewhere and their path here".to_owned(),
        });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::Refused {
        what: "the standard input is not UTF-8: nothing was set".to_owned(),
        next: "settings are text; write binary values as base64".to_owned(),
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// The values of a file, or of the standard input.
async fn document(file: &std::path::Path, model: &Model) -> Result<Document, Error> {
    if file.as_os_str() == "-" {
        let text = input()?;
        // The text of serde_json's errors would repeat a value, but for those of syntax.
        let value: Value = serde_json::from_str(&text).map_err(|error| Error::Refused {
            what: format!("the standard input is no JSON (line {}, column {})", error.line(), error.column()),
            next: "write an object, e.g. {\"field\": 1}".to_owned(),
        })?;
        return match value {
            Value::Object(values) => Ok(values),
            _ => Err(Error::Refused {
                what: "the standard input is JSON, but no object".to_owned(),
                next: "write an object, e.g. {\"field\": 1}".to_owned(),
            }),
        };
    }
    if !file.exists() {
        return Err(Error::NotFound {
            what: format!("there is no file {}", file.display()),
            next: "name another, or - for JSON on the standard input".to_owned(),
        });
    }
    let layer = File::named_for(file, model.key.clone()).read(model).await;
    let layer =
        layer.map_err(|error| harmony_config::ConfigError::Source { key: model.key.clone(), error })?;
    layer.map(|layer| layer.values).ok_or_else(|| Error::NotFound {
        what: format!("{} has no values", file.display()),
        next: format!("`harmony-config template {}` shows what can stand there", model.key),
    })
}

fn tell(home: &Home, key: &Key, written: &Written) -> Result<(), Error> {
    for (place, at) in &written.overridden {
        output::note(&format!("note: {place} has another value all the same, which wins: {at}"));
    }
    match home.output {
        Format::Json => output::json(&json!({
            "key": key,
            "revision": written.revision,
            "overridden": written.overridden.iter().map(|(place, at)| json!({ "field": place.to_string(), "at": at }))
                .collect::<Vec<_>>(),
        })),
        Format::Table => output::print(&format!("{key} is at revision {}\n", written.revision)),
    }
}

/// Removes an item, or a field of it. `rollback` brings it back.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config delete BrocadeSwitchAuth tls.ca_file
  harmony-config delete BrocadeSwitchAuth")]
pub struct Delete {
    /// Key of the item.
    key: Key,
    /// A field of it.
    field: Option<Field>,
    #[command(flatten)]
    about: About,
}

impl Delete {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let database = home.database().await?;
        let item = home::item(&database, &self.key).await?;
        let described = Described::of(&database, &self.key, Some(&item), &self.about, &[]).await?;
        if self.field.is_some() {
            described.refuse_unfit(Some(&item))?;
        }
        let chain = home.chain(database);
        chain.register_model(described.model)?;
        if let Some(Field(place)) = self.field {
            let is_there = harmony_config::source::value_at(&item.values, &place).is_some()
                || item.secrets.iter().any(|secret| place.covers(secret));
            if !is_there {
                return Err(Error::NotFound {
                    what: format!("{} has no {place} in the database", self.key),
                    next: format!("`harmony-config get {}` shows what it has", self.key),
                });
            }
            let written = chain.set_field(self.key.as_str(), &place, None).await?;
            return tell(home, &self.key, &written);
        }
        let deleted = chain.delete_values(self.key.as_str()).await?;
        for still in &deleted.still {
            output::note(&format!("note: values still stand in {still}"));
        }
        match home.output {
            Format::Json => {
                output::json(&json!({ "key": self.key, "removed": deleted.removed, "still": deleted.still }))
            }
            Format::Table => output::print(&format!(
                "{} is removed; `harmony-config rollback {} --to {}` brings it back\n",
                self.key, self.key, item.revision
            )),
        }
    }
}

/// Takes an export into the database. Secrets that were left out stay as they are there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  harmony-config import switchd.json --service switchd
  age -d switchd.json.age | harmony-config import - --service switchd")]
pub struct Import {
    /// The file; - for the standard input.
    file: std::path::PathBuf,
}

impl Import {
    /// Does it.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let text = match self.file.as_os_str() == "-" {
            true => input()?,
            false => Zeroizing::new(std::fs::read_to_string(&self.file).map_err(|source| Error::Io {
                what: format!("{} cannot be read", self.file.display()),
                source,
            })?),
        };
        let export: Export = serde_json::from_str(&text).map_err(|error| Error::Refused {
            what: format!("this is no export of settings (line {}, column {})", error.line(), error.column()),
            next: "`harmony-config export` writes one".to_owned(),
        })?;
        let database = home.database_or_new().await?;
        let items = database.list(Some(database.service())).await?;
        let chain = ConfigManager::builder().source(database.clone()).build();
        for (key, exported) in &export.items {
            let item = items.iter().find(|item| item.key == *key);
            let omitted: Result<Vec<Field>, _> = exported.omitted.iter().map(|place| place.parse()).collect();
            let secret = omitted.map_err(|why: String| Error::Refused {
                what: format!("this is no export of settings: {why}"),
                next: "`harmony-config export` writes one".to_owned(),
            })?;
            let mut about = About { schema: None, secret: Vec::new() };
            let mut described = Described::of(&database, key, item, &about, &[]).await?;
            if !described.has_schema {
                about.secret = secret;
                described = Described::of(&database, key, item, &about, &[]).await?;
                described.model.version = exported.schema_version.clone();
                described.seal_unknown(item, &exported.values);
            }
            described.warn();
            if !exported.omitted.is_empty() {
                described.refuse_unfit(item)?;
            }
            chain.register_model(described.model)?;
        }
        let done = chain.import(&export).await?;
        match home.output {
            Format::Json => output::json(
                &done
                    .iter()
                    .map(|(key, written)| json!({ "key": key, "revision": written.revision }))
                    .collect::<Vec<_>>(),
            ),
            Format::Table => {
                let rows: Vec<_> = done
                    .iter()
                    .map(|(key, written)| vec![key.to_string(), written.revision.to_string()])
                    .collect();
                output::print(&output::table(&["KEY", "REVISION"], &rows))
            }
        }
    }
}
