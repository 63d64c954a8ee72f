//! What a program says about its settings: the [`Config`] trait, and the [`Model`] that sources work with.
//!
//! Sources and stores never see the Rust type: they see its key, its JSON Schema, its schema version and which places
//! are secret.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    key::{BadKey, FieldPath, Key},
    schema,
    source::Document,
};

/// A struct of settings: `#[derive(Config, JsonSchema, Serialize, Deserialize)]`.
///
/// Doc comments of fields become descriptions, `#[serde(default)]` makes a field optional. `#[serde(alias)]` is not
/// known to the schema: rename a field with a migration instead.
pub trait Config: Serialize + DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static {
    /// The name under which every source keeps it. By default the name of the type.
    const KEY: &'static str;

    /// Names of the fields marked `#[config(secret)]`, as serde reads them.
    const SECRETS: &'static [&'static str] = &[];

    /// Places that are marked as secret, those of `#[config(nested)]` fields included. A [`Secret`](crate::Secret) is
    /// found without being marked.
    #[must_use]
    fn secrets() -> Vec<FieldPath> {
        Self::SECRETS.iter().map(|field| FieldPath::root().join(field)).collect()
    }

    /// How values of older schemas become today's: `#[config(migrate_from("version", function))]`.
    #[must_use]
    fn migrations() -> Vec<Migration> {
        Vec::new()
    }
}

/// Version of a schema: a hash of what values must look like, and of nothing else. Sixteen hex digits.
///
/// Equal for two models that accept the same values; the order of fields, descriptions, titles, defaults and
/// the versions of compiler and crates do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SchemaVersion(pub String);

impl fmt::Display for SchemaVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Turns values that were stored under an older schema into today's.
#[derive(Debug, Clone)]
pub struct Migration {
    /// Version under which the values were stored.
    pub from: SchemaVersion,
    /// Gives values of today's shape, or says why it cannot (without the values: the text is logged). The values may
    /// be a part only, since another source may have the rest.
    pub run: fn(Document) -> Result<Document, String>,
}

impl Migration {
    /// From that version on.
    #[must_use]
    pub fn new(from: &str, run: fn(Document) -> Result<Document, String>) -> Self {
        Self { from: SchemaVersion(from.to_owned()), run }
    }
}

/// A model without its Rust type.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its key.
    pub key: Key,
    /// JSON Schema (draft 2020-12) of the values. Secret places have `writeOnly` and `x-secret`.
    pub schema: Schema,
    /// Version of that schema.
    pub version: SchemaVersion,
    /// Places whose values are secret; what lies in them is, too.
    pub secrets: Vec<FieldPath>,
    /// The places of the schema, prepared with the first use: `Places::default()`.
    pub places: Places,
}

/// The places of a schema, prepared. Clones share what was prepared.
#[derive(Clone, Default)]
pub struct Places(Arc<OnceLock<schema::Shape>>);

impl fmt::Debug for Places {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Places").finish_non_exhaustive()
    }
}

/// Why a type is no model. A mistake of the program, not of its user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The key breaks the rules.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// The schema is not that of a struct.
    #[error(
        "{key} is no model of settings: its schema is not that of a struct with named fields. Put it into a field of one"
    )]
    NoStruct {
        /// The key.
        key: Key,
    },
    /// A secret place is not in the schema: it would be kept in plain text.
    #[error("{key} marks {place} as secret, and its schema has no such field. Use the name that serde reads")]
    NoSuchSecret {
        /// The key.
        key: Key,
        /// The place.
        place: FieldPath,
    },
    /// Two types have one key.
    #[error(
        "two types have the key {key}: {first} and {second}. Give one of them another with #[config(key = \"…\")]"
    )]
    Taken {
        /// The key.
        key: Key,
        /// Name of a type.
        first: &'static str,
        /// Name of the other.
        second: &'static str,
    },
}

impl Model {
    /// The model of a type.
    ///
    /// # Errors
    /// See [`ModelError`]; for a type with `#[derive(Config)]` only what no compiler sees.
    pub fn of<T: Config>() -> Result<Self, ModelError> {
        let key: Key = T::KEY.parse()?;
        let schema =
            SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<T>();
        Self::new(key, schema, T::secrets())
    }

    /// The model of a schema, e.g. of one that another program wrote.
    ///
    /// # Errors
    /// [`ModelError::NoStruct`], [`ModelError::NoSuchSecret`].
    pub fn new(key: Key, schema: Schema, marked: Vec<FieldPath>) -> Result<Self, ModelError> {
        let mut schema = schema.to_value();
        for place in &marked {
            if !schema::mark_secret(&mut schema, place) {
                return Err(ModelError::NoSuchSecret { key, place: place.clone() });
            }
        }
        if !schema::Place::root(&schema).is_struct() {
            return Err(ModelError::NoStruct { key });
        }
        let version = schema::version(&schema);
        let mut secrets = schema::secrets(&schema);
        secrets.extend(marked.into_iter().filter(|place| !secrets.contains(place)).collect::<Vec<_>>());
        secrets.sort();
        secrets.dedup();
        let schema = Schema::try_from(schema).map_err(|_| ModelError::NoStruct { key: key.clone() })?;
        Ok(Self { key, schema, version, secrets, places: Places::default() })
    }

    /// Whether the value at `place` is secret, or has a secret in it, or lies in one.
    #[must_use]
    pub fn touches_secret(&self, place: &FieldPath) -> bool {
        self.secrets.iter().any(|secret| secret.covers(place) || place.covers(secret))
    }

    pub(crate) fn shape(&self) -> &schema::Shape {
        self.places.0.get_or_init(|| schema::Shape::of(self.schema.as_value()))
    }

    /// The whole of its values, as its schema describes it.
    #[must_use]
    pub fn root(&self) -> schema::Place<'_> {
        schema::Place::root(self.schema.as_value())
    }
}
