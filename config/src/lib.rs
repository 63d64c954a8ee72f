//! Typed settings from an ordered chain of sources.
//!
//! A program says what its settings are (a struct with `#[derive(Config)]`), and the chain says where they come from:
//! environment, local file, SQLite, a secret store, and, only where a person sits in front of it, a prompt.

// The derive macro names this crate from outside.
extern crate self as harmony_config;

pub mod chain;
#[cfg(feature = "sqlite")]
pub mod database;
pub mod error;
mod global;
pub mod health;
pub mod kept;
pub mod key;
pub mod keyring;
pub mod last_known_good;
pub mod metrics;
pub mod model;
pub mod schema;
pub mod seal;
pub mod secret;
pub mod source;
pub mod witness;

pub use chain::{ConfigManager, Handle, LastGood, LastGoodError, LastGoodLayer};
pub use error::ConfigError;
pub use global::{get, get_or_prompt, global, init, set};
pub use harmony_config_derive::Config;
pub use health::Health;
pub use key::{Actor, FieldPath, Key};
pub use metrics::Metrics;
pub use model::{Config, Migration, Model, ModelError, SchemaVersion};
pub use secret::Secret;
#[cfg(feature = "prompt")]
pub use source::prompt::Terminal;
pub use source::{
    Change, Document, Layer, Source, SourceError, environment::Environment, file::File, given::Given,
};
