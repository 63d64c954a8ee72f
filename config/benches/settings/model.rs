//! Settings as services have them.

use harmony_config::{Config, Document, Model};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What a switch's agent is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Config)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: Listen,
    /// Where it logs.
    #[serde(default)]
    pub log: Log,
    /// Whom it asks.
    pub upstream: String,
    /// Networks that may ask it.
    #[serde(default)]
    pub networks: Vec<String>,
    /// Seconds that an answer may take.
    #[serde(default = "thirty")]
    pub timeout: u32,
    /// Times that it asks again.
    #[serde(default = "three")]
    pub retries: u8,
    /// Share of requests that are traced.
    #[serde(default)]
    pub sample: f64,
    /// Whether it only says what it would do.
    #[serde(default)]
    pub dry_run: bool,
    /// What it shows to whom it asks.
    #[serde(default)]
    pub token: Option<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Listen {
    /// Of the host.
    pub host: String,
    /// Of the service.
    #[serde(default = "port")]
    pub port: u16,
}

/// Of logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Log {
    /// The least that is told.
    #[serde(default = "info")]
    pub level: String,
    /// Whether for machines.
    #[serde(default)]
    pub json: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: info(), json: false }
    }
}

fn thirty() -> u32 {
    30
}

fn three() -> u8 {
    3
}

fn port() -> u16 {
    8080
}

fn info() -> String {
    "info".to_owned()
}

/// What the file says; the rest is from the environment, or as the struct has it.
pub const FILE: &str = r#"
name = "agent"
upstream = "nats://nats.example:4222"
networks = ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"]
timeout = 10
sample = 0.25

[listen]
host = "192.0.2.7"
port = 9000

[log]
json = true
"#;

/// What the environment says, for all libraries in the same variables.
pub const VARIABLES: [(&str, &str); 5] = [
    ("HARMONY_CONFIG_Service__LISTEN__PORT", "9443"),
    ("HARMONY_CONFIG_Service__LOG__LEVEL", "debug"),
    ("HARMONY_CONFIG_Service__TIMEOUT", "5"),
    ("HARMONY_CONFIG_Service__DRY_RUN", "true"),
    ("HARMONY_CONFIG_Service__TOKEN", "token-of-nobody"),
];

/// What comes of both.
pub fn expected() -> Service {
    Service {
        name: "agent".to_owned(),
        listen: Listen { host: "192.0.2.7".to_owned(), port: 9443 },
        log: Log { level: "debug".to_owned(), json: true },
        upstream: "nats://nats.example:4222".to_owned(),
        networks: ["192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"].map(str::to_owned).to_vec(),
        timeout: 5,
        retries: 3,
        sample: 0.25,
        dry_run: true,
        token: Some("token-of-nobody".to_owned()),
    }
}

/// One of many items: the same shape, `token` secret.
pub fn item(number: usize) -> Model {
    let service = Model::of::<Service>().unwrap();
    let key = format!("Item{number}").parse().unwrap();
    Model::new(key, service.schema, vec![["token"].into_iter().collect()]).unwrap()
}

/// Its values, other ones in each version.
pub fn values(number: usize, version: usize) -> Document {
    let values = json!({
        "name": format!("agent-{number}"),
        "listen": { "host": "192.0.2.7", "port": 9000 },
        "log": { "level": "info", "json": true },
        "upstream": "nats://nats.example:4222",
        "networks": ["192.0.2.0/24", "198.51.100.0/24"],
        "timeout": version,
        "retries": 3,
        "sample": 0.25,
        "dry_run": false,
        "token": format!("token-{number}-{version}"),
    });
    values.as_object().cloned().unwrap()
}
