//! The chain as a program uses it: who wins, what stops it, what is kept where.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod environment;
#[cfg(feature = "sqlite")]
mod fallback;
mod file;
mod kept;
mod outside;
mod reading;
#[cfg(feature = "openbao")]
mod slow;
mod store;
mod telling;
mod watching;
mod writing;

use harmony_config::{Config, ConfigManager, Environment, File, Model, Secret};
use kept::Kept;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A VLAN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Config)]
pub struct Vlan {
    /// Its number.
    pub id: u16,
    /// What people call it.
    pub name: String,
    #[serde(default = "mtu")]
    #[schemars(range(min = 576))]
    pub mtu: u32,
    #[serde(default)]
    pub tags: Vec<String>,
    pub switch: Option<Switch>,
}

fn mtu() -> u32 {
    1500
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Switch {
    /// Its address.
    pub host: String,
    /// What it asks for.
    pub password: Secret<String>,
}

pub fn model() -> Model {
    Model::of::<Vlan>().unwrap()
}

/// Environment, then the files of a folder, then a keeping source.
pub fn chain(folder: &std::path::Path, variables: &[(&str, &str)]) -> (ConfigManager, Kept) {
    let kept = Kept::new(folder.join("kept"));
    let manager = ConfigManager::builder()
        .source(Environment::new().with_variables(variables.iter().copied()))
        .source(File::folder(folder))
        .source(kept.clone())
        .build();
    (manager, kept)
}
