//! What the values of an item have to look like: from a schema, where there is one; else as they are now.
//!
//! The command has no Rust types. A place that is sealed in the database stays secret, whatever a schema says.

use std::path::{Path, PathBuf};

use harmony_config::{
    FieldPath, Key, Model,
    database::{Database, Item, MADE_UP},
    schema::{Extent, Step, faults},
    source::{Document, put},
};
use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::{error::Error, field::Field, output};

/// What is said about an item's values.
#[derive(Debug, Clone, clap::Args)]
pub struct About {
    /// JSON Schema of the values [default: the one that the service kept with them].
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// A field that is secret besides those that are known to be; may be repeated.
    #[arg(long, value_name = "FIELD")]
    pub secret: Vec<Field>,
}

/// A model, and whether anybody described it.
pub struct Described {
    /// The model.
    pub model: Model,
    /// Whether names and types are checked.
    pub has_schema: bool,
}

impl Described {
    /// The model of an item, from the schema that was named, else from the one that is kept, else from the item.
    ///
    /// # Errors
    /// When a schema cannot be read, or is none.
    pub async fn of(
        database: &Database,
        key: &Key,
        item: Option<&Item>,
        about: &About,
        fields: &[&FieldPath],
    ) -> Result<Self, Error> {
        let marked: Vec<_> = about.secret.iter().map(|field| field.0.clone()).collect();
        let kept = match &about.schema {
            Some(file) => Some(read(file)?),
            None => database.schema(key).await?,
        };
        let (mut model, has_schema) = match kept {
            Some(schema) => (Model::new(key.clone(), schema, marked)?, true),
            None => (open(key, item, &marked, fields)?, false),
        };
        for place in item.into_iter().flat_map(|item| &item.secrets) {
            if !model.secrets.contains(place) {
                model.secrets.push(place.clone());
            }
        }
        Ok(Self { model, has_schema })
    }

    /// For values as a whole: where no schema says which fields are secret, those that the item does not have yet
    /// are. So no secret is ever kept in plain text for want of a schema.
    pub fn seal_unknown(&mut self, item: Option<&Item>, values: &Document) {
        if self.has_schema {
            return;
        }
        for name in values.keys() {
            let place = FieldPath::root().join(name);
            let is_known = item.is_some_and(|item| {
                item.values.contains_key(name) || item.secrets.iter().any(|secret| place.covers(secret))
            });
            if !is_known && !self.model.secrets.contains(&place) {
                output::note(&format!(
                    "note: nothing says whether {place} is secret, so it is kept as a secret"
                ));
                self.model.secrets.push(place);
            }
        }
    }

    /// Refuses to change a part of values that are stored under another schema and do not fit this one: what does not
    /// fit would be lost, and only the service can migrate it.
    ///
    /// # Errors
    /// [`Error::Refused`], with what does not fit.
    pub fn refuse_unfit(&self, item: Option<&Item>) -> Result<(), Error> {
        let Some(item) = item.filter(|item| self.has_schema && item.schema_version != self.model.version)
        else {
            return Ok(());
        };
        let found = faults(self.model.schema.as_value(), &item.values, Extent::Part);
        let mut wrong: Vec<_> = found.iter().map(ToString::to_string).collect();
        let unknown = |place: &&FieldPath| matches!(self.model.root().find(place), Step::Unknown);
        wrong.extend(
            item.secrets.iter().filter(unknown).map(|place| format!("{place} is no field of this model")),
        );
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Error::Refused {
            what: format!(
                "{} is stored under schema {}, and what is there does not fit schema {}: {}",
                item.key,
                item.schema_version,
                self.model.version,
                wrong.join("; ")
            ),
            next: "let the service migrate it, name its schema with --schema, or set the whole with --file"
                .to_owned(),
        })
    }

    /// Says that nothing is checked, where that is so.
    pub fn warn(&self) {
        if !self.has_schema {
            output::note(&format!(
                "note: no schema of {} is known, so names and types are not checked. Name it with --schema, or let the \
                 service write once",
                self.model.key
            ));
        }
    }

    /// Text as the value of a field, by the type that the schema gives it.
    ///
    /// # Errors
    /// When the field is not text, and this is no JSON.
    pub fn value(&self, place: &FieldPath, text: &str) -> Result<Value, Error> {
        let found = self.model.root().find(place);
        let types = match &found {
            Step::To(place) => place.types(),
            Step::Open | Step::Unknown => Vec::new(),
        };
        let takes_text = types.contains(&"string");
        let only_text = takes_text && types.iter().all(|name| matches!(*name, "string" | "null"));
        // A password of digits is text.
        let untyped_secret = types.is_empty() && self.model.touches_secret(place);
        if only_text || untyped_secret {
            return Ok(Value::String(text.to_owned()));
        }
        match (serde_json::from_str(text), found) {
            (Ok(value), _) => Ok(value),
            (Err(_), _) if takes_text || types.is_empty() => Ok(Value::String(text.to_owned())),
            (Err(_), found) => Err(Error::Usage {
                what: match found {
                    Step::To(at) => format!("{place}: expected {}, found text that is none", at.expected()),
                    _ => format!("{place}: found text that is no JSON"),
                },
                next: "numbers, true and false are written without quotes; lists and tables as JSON, e.g. [\"a\", \"b\"]"
                    .to_owned(),
            }),
        }
    }
}

fn read(file: &Path) -> Result<Schema, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io {
        what: format!("the schema {} cannot be read", file.display()),
        source,
    })?;
    let wrong = |why: String| Error::Refused {
        what: format!("{} is no JSON Schema: {why}", file.display()),
        next: "write it with schemars, e.g. serde_json::to_string(&Model::of::<T>()?.schema)".to_owned(),
    };
    let value: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    Schema::try_from(value).map_err(|error| wrong(error.to_string()))
}

/// A model that takes anything, and has the secrets and the version of what is there.
///
/// # Errors
/// When none can be made.
pub fn open(
    key: &Key,
    item: Option<&Item>,
    marked: &[FieldPath],
    fields: &[&FieldPath],
) -> Result<Model, Error> {
    let mut shape = item.map(|item| item.values.clone()).unwrap_or_default();
    let secrets = item.into_iter().flat_map(|item| &item.secrets).chain(marked);
    for place in secrets.chain(fields.iter().copied()) {
        if harmony_config::source::value_at(&shape, place).is_none() {
            put(&mut shape, place, Value::Null);
        }
    }
    let mut schema = open_table(&shape);
    schema[MADE_UP] = true.into();
    let schema = Schema::try_from(schema).map_err(|error| Error::Refused {
        what: format!("no schema can be made for {key}: {error}"),
        next: "name one with --schema".to_owned(),
    })?;
    let all: Vec<_> =
        item.into_iter().flat_map(|item| item.secrets.clone()).chain(marked.iter().cloned()).collect();
    let mut model = Model::new(key.clone(), schema, all)?;
    if let Some(item) = item {
        model.version = item.schema_version.clone();
    }
    Ok(model)
}

fn open_table(shape: &Document) -> Value {
    let fields: Map<_, _> = shape
        .iter()
        .map(|(name, value)| {
            let schema = match value {
                Value::Object(fields) => open_table(fields),
                _ => json!({}),
            };
            (name.clone(), schema)
        })
        .collect();
    json!({ "type": "object", "properties": fields, "additionalProperties": true })
}

/// A model of a schema that was named, where there is no database.
///
/// # Errors
/// When none was named, or it is none.
pub fn of_file(key: &Key, about: &About) -> Result<Option<Model>, Error> {
    let marked: Vec<_> = about.secret.iter().map(|field| field.0.clone()).collect();
    about.schema.as_deref().map(|file| Ok(Model::new(key.clone(), read(file)?, marked)?)).transpose()
}
