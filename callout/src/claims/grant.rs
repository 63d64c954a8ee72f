//! What a user may do, as the JSON that stands in its claims.

use std::sync::Arc;

use fleet_wire::permissions::{Identity, Permissions};
use serde::Serialize;

use super::token::VERSION;

/// The part of a user's claims that does not change from one connection to the next: `"name":…,"nats":{…}`.
/// Made once for each device, so that an authorization only signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant(Arc<str>);

#[derive(Serialize)]
struct Nats<'a> {
    #[serde(rename = "pub")]
    publish: Subjects<'a>,
    #[serde(rename = "sub")]
    subscribe: Subjects<'a>,
    subs: i64,
    data: i64,
    payload: i64,
    allowed_connection_types: [&'static str; 1],
    #[serde(rename = "type")]
    kind: &'static str,
    version: u8,
}

#[derive(Serialize)]
struct Subjects<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    allow: &'a [String],
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    deny: &'static [&'static str],
}

impl<'a> Subjects<'a> {
    fn of(allow: &'a [String]) -> Self {
        // To nats-server an empty list of allowed subjects allows all of them.
        Self { allow, deny: if allow.is_empty() { &[">"] } else { &[] } }
    }
}

/// nats-server's "no limit of its own".
const UNLIMITED: i64 = -1;

impl Grant {
    /// The grant of an identity, from [`Permissions::of`].
    pub fn of(identity: &Identity) -> Self {
        let permissions = Permissions::of(identity);
        let nats = Nats {
            publish: Subjects::of(&permissions.publish),
            subscribe: Subjects::of(&permissions.subscribe),
            subs: permissions.max_subscriptions.map_or(UNLIMITED, i64::from),
            data: UNLIMITED,
            payload: permissions.max_payload.map_or(UNLIMITED, i64::from),
            // No websocket, MQTT or leaf node gets in with a user's claims.
            allowed_connection_types: ["STANDARD"],
            kind: "user",
            version: VERSION,
        };
        let name = serde_json::Value::from(identity.to_string());
        // Strings and numbers always become JSON.
        let nats = serde_json::to_string(&nats).unwrap_or_default();
        Self(format!(r#""name":{name},"nats":{nats}"#).into())
    }

    /// The members of the claims' object, without braces.
    pub fn as_json_members(&self) -> &str {
        &self.0
    }
}
