//! What a program says about its settings: the [`Config`] trait, and the [`Model`] that sources work with.
//!
//! Sources and stores never see the Rust type: they see its key, its JSON Schema, its schema version and which places
//! are secret.

use schemars::{JsonSchema, Schema};
use serde::{Serialize, de::DeserializeOwned};

use crate::key::{FieldPath, Key};

/// A struct of settings: `#[derive(Config, JsonSchema, Serialize, Deserialize)]`.
///
/// Doc comments of fields become descriptions, `#[serde(default)]` makes a field optional.
pub trait Config: Serialize + DeserializeOwned + JsonSchema + Clone + Send + Sync + 'static {
    /// The name under which every source keeps it. By default the name of the type.
    const KEY: &'static str;

    /// Names of the fields marked `#[config(secret)]`, as serde writes them.
    const SECRETS: &'static [&'static str] = &[];
}

/// Version of a schema: a hash of what values must look like, and of nothing else. Sixteen hex digits.
///
/// Equal for two models that accept the same values; the order of fields, descriptions, titles, defaults and
/// the versions of compiler and crates do not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SchemaVersion(pub String);

/// A model without its Rust type.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its key.
    pub key: Key,
    /// JSON Schema (draft 2020-12) of the values.
    pub schema: Schema,
    /// Version of that schema.
    pub version: SchemaVersion,
    /// Places whose values are secret; what lies in them is, too.
    pub secrets: Vec<FieldPath>,
}

impl Model {
    /// Whether the value at `place` is secret, or has a secret in it, or lies in one.
    #[must_use]
    pub fn touches_secret(&self, place: &FieldPath) -> bool {
        self.secrets.iter().any(|secret| secret.covers(place) || place.covers(secret))
    }
}
