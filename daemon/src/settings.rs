//! Settings of a daemon: flags over the environment over a file, from one definition.
//!
//! ```text
//! struct (serde, schemars, Config) ─▶ schema ─┬▶ flags ───────┐
//!                                             ├▶ environment ─┼▶ harmony-config ─▶ the struct, and who gave what
//!                                             └▶ file ────────┘                         │
//!                                     typed settings of the process ◀── checks of several settings at once
//! ```
//!
//! A daemon says once what its settings are: a struct with `#[derive(Config, JsonSchema)]`, serde's `kebab-case` names
//! and real types, whose doc comments are the help texts ([`Daemon`]). [`CommandLine`] makes clap's flags of it and reads
//! all sources. What is wrong is told at once, with setting, value, expectation and place ([`SettingsError`]); so are
//! the daemon's own checks of what depends on several settings ([`Checks`]).

mod checks;
mod error;
mod flags;
mod load;
mod values;

pub use checks::{Checks, Origins};
pub use error::{Fault, SettingsError};
pub use flags::{CommandLine, Part, Whole};
pub use load::Daemon;
pub use values::{NatsUrl, Seconds};

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
