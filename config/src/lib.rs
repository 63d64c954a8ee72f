//! Typed settings from an ordered chain of sources.
//!
//! A program says what its settings are (a struct with `#[derive(Config)]`), and the chain says where they come from:
//! environment, local file, SQLite, a secret store, and, only where a person sits in front of it, a prompt.
//!
//! ```
//! use harmony_config::{Config, ConfigError, ConfigManager, Environment, File, Secret};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! /// How to reach a switch.
//! #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
//! struct Switch {
//!     /// Its address.
//!     host: String,
//!     /// What it asks for.
//!     password: Secret<String>,
//!     /// Its port.
//!     #[serde(default = "ssh")]
//!     port: u16,
//! }
//!
//! fn ssh() -> u16 {
//!     22
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ConfigError> {
//! let variables = [("HARMONY_CONFIG_Switch__HOST", "sw-1"), ("HARMONY_CONFIG_Switch__PASSWORD", "hunter2")];
//! let settings = ConfigManager::builder()
//!     .source(Environment::new().with_variables(variables)) // without `with_variables`: those of the process
//!     .source(File::folder("/etc/example"))
//!     .build();
//!
//! // Everything that is missing, at once, with every way to set it.
//! settings.require_all().of::<Switch>().check().await?;
//! let switch: Switch = settings.get().await?;
//! assert_eq!((switch.host.as_str(), switch.port), ("sw-1", 22));
//! assert!(!format!("{switch:?}").contains("hunter2"));
//!
//! // For code that needs it often: always the last good value, no allocation.
//! let handle = settings.handle::<Switch>().await?;
//! assert_eq!(handle.current().password.expose(), "hunter2");
//! println!("{}", settings.explain::<Switch>().await?);
//! # Ok(())
//! # }
//! ```
//!
//! # What wins
//!
//! The first source of the chain that has a field wins it; tables merge field by field, except where the schema has
//! several shapes to choose from (an enum): there the first source's is taken whole. A source that cannot be asked is
//! gone on without, or its last known good values stand in, read-only; logs, [`Health`] and
//! [`explain`](ConfigManager::explain) say so. A source that has something unreadable stops the chain: to pass over it
//! would silently use another value.
//!
//! # What is kept
//!
//! [`set`](ConfigManager::set) and the answers of [`get_or_prompt`](ConfigManager::get_or_prompt) go to the first source
//! that keeps what is set ([`Source::should_persist`]), never to the environment or a file. Unknown fields are refused
//! there, and reported where they are read.
//!
//! # When a model changes
//!
//! Each model has a [`SchemaVersion`], a hash of what its values must look like. Values that were stored under another
//! version are read as they are if they still fit, else by the model's
//! [`migrate_from`](macro@Config) function, else refused with an error that says how to go on.
//!
//! # Features
//!
//! | feature | for |
//! |---|---|
//! | `sqlite` (default) | the database, and [`ConfigManager::of_this_user`] |
//! | `prompt` (default) | questions on a terminal |
//! | `validate` (default) | bounds, lengths and patterns of the schema; types and names are checked without it |
//! | `yaml` (default) | files in YAML; TOML and JSON are read without it |
//! | `updates` (default) | signed updates at run time, from a file |
//! | `nats` | signed updates from NATS, too |
//! | `openbao` | OpenBao (or Vault) as a store |

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
#[cfg(feature = "openbao")]
pub mod openbao;
pub mod schema;
pub mod seal;
pub mod secret;
pub mod source;
pub mod store;
#[cfg(feature = "updates")]
pub mod updates;
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
pub use store::{Store, StorePath, StoreSource};
