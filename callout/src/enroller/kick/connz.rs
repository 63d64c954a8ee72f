//! What a nats-server says of its connections.

use std::time::Duration;

use fleet_wire::name::DeviceName;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

/// A connection of the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Id of its server.
    pub server: String,
    /// Its number there.
    pub id: u64,
    /// The device that it was authorized as; `None` for every other user.
    pub device: Option<DeviceName>,
    /// For how long it has stood, by the server's own clock.
    pub age: Option<Duration>,
    /// Where it comes from.
    pub address: String,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Id of the server.
    pub server: String,
    /// What it lists.
    pub connections: Vec<Connection>,
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnzError {
    /// It is no such JSON.
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The server refused.
    #[error("the server refused: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    data: Option<Data>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Server {
    id: String,
}

#[derive(Deserialize)]
struct ApiError {
    description: String,
}

#[derive(Deserialize)]
struct Data {
    now: String,
    #[serde(default)]
    connections: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    cid: u64,
    #[serde(default)]
    authorized_user: String,
    start: String,
    #[serde(default)]
    ip: String,
    #[serde(default)]
    port: i64,
}

impl Page {
    /// Reads an answer to CONNZ.
    ///
    /// # Errors
    /// [`ConnzError`].
    pub fn read(payload: &[u8]) -> Result<Self, ConnzError> {
        let answer: Answer = serde_json::from_slice(payload)?;
        if let Some(error) = answer.error {
            return Err(ConnzError::Refused(error.description));
        }
        let Some(data) = answer.data else { return Err(ConnzError::Refused("it holds no list".to_owned())) };
        let now: Option<Timestamp> = data.now.parse().ok();
        let connection = |entry: Entry| Connection {
            server: answer.server.id.clone(),
            id: entry.cid,
            device: entry.authorized_user.strip_prefix("device:").and_then(|name| name.parse().ok()),
            age: match (now, entry.start.parse::<Timestamp>()) {
                (Some(now), Ok(start)) => now.duration_since(start).try_into().ok(),
                _ => None,
            },
            address: format!("{}:{}", entry.ip, entry.port),
        };
        Ok(Self {
            server: answer.server.id.clone(),
            connections: data.connections.into_iter().map(connection).collect(),
        })
    }

    /// Whether there may be more.
    pub fn is_full(&self, page: usize) -> bool {
        self.connections.len() >= page
    }
}
