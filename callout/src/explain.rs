//! Says what an identity may do: the same function as the service's, for people.

use std::fmt::Write as _;

use fleet_wire::{
    enrollment::TokenId,
    keys::IdentityKey,
    permissions::{Identity, Permissions},
};
use serde::Serialize;

/// What is understood.
const FORMS: &str =
    "device:NAME, component:vk-nats, component:enroller, token[:ID], applicant[:KEY] or person[:KEY]";

/// Why nothing can be explained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no identity: expected {FORMS}")]
pub struct ExplainError {
    given: String,
}

/// The permissions of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Its name as a user at NATS.
    pub identity: String,
    /// What it may do. Where the identity was given without a key or id, a placeholder stands for it.
    #[serde(flatten)]
    pub permissions: Permissions,
}

/// A stand-in of the right grammar, and the text that is shown for it.
const SAMPLE_ID: &str = "00000000000000000000";
const SAMPLE_KEY: &str = "UCFIOX77D2ZYIUKXPLGVV7XEAVCWK2G5PSE6BEEGHICVPPD26SPRO5B3";

/// Explains an identity.
///
/// # Errors
/// [`ExplainError`] if it is none.
pub fn explain(identity: &str) -> Result<Explanation, ExplainError> {
    let refused = || ExplainError { given: identity.to_owned() };
    let (kind, name) = match identity.split_once(':') {
        Some((kind, name)) => (kind, Some(name)),
        None => (identity, None),
    };
    let key = |name: Option<&str>| -> Result<(IdentityKey, Option<&'static str>), ExplainError> {
        let placeholder = if name.is_none() { Some(SAMPLE_KEY) } else { None };
        Ok((name.unwrap_or(SAMPLE_KEY).parse().map_err(|_| refused())?, placeholder))
    };
    let (parsed, placeholder) = match (kind, name) {
        ("device", Some(name)) => (Identity::Device(name.parse().map_err(|_| refused())?), None),
        ("component", Some("vk-nats")) => (Identity::ClusterSide, None),
        ("component", Some("enroller")) => (Identity::Enroller, None),
        ("token", name) => {
            let placeholder = if name.is_none() { Some(SAMPLE_ID) } else { None };
            let id: TokenId = name.unwrap_or(SAMPLE_ID).parse().map_err(|_| refused())?;
            (Identity::TokenHolder(id), placeholder)
        }
        ("applicant", name) => {
            let (key, placeholder) = key(name)?;
            (Identity::Applicant(key), placeholder)
        }
        ("person", name) => {
            let (key, placeholder) = key(name)?;
            (Identity::Administrator(key), placeholder)
        }
        _ => return Err(refused()),
    };
    let shown = |text: &str| match placeholder {
        Some(SAMPLE_ID) => text.replace(SAMPLE_ID, "<id>"),
        Some(key) => text.replace(key, "<key>"),
        None => text.to_owned(),
    };
    let permissions = Permissions::of(&parsed);
    Ok(Explanation {
        identity: shown(&parsed.to_string()),
        permissions: Permissions {
            publish: permissions.publish.iter().map(|subject| shown(subject)).collect(),
            subscribe: permissions.subscribe.iter().map(|subject| shown(subject)).collect(),
            ..permissions
        },
    })
}

impl Explanation {
    /// For people.
    pub fn table(&self) -> String {
        let Permissions { publish, subscribe, max_subscriptions, max_payload } = &self.permissions;
        let limit = |limit: &Option<u32>, unit: &str| match limit {
            Some(limit) => format!("{limit}{unit}"),
            None => "the server's".to_owned(),
        };
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<15}{value}");
        };
        row("IDENTITY", &self.identity);
        for (name, subjects) in [("MAY PUBLISH", publish), ("MAY SUBSCRIBE", subscribe)] {
            if subjects.is_empty() {
                row(name, "nothing");
            }
            for (at, subject) in subjects.iter().enumerate() {
                row(if at == 0 { name } else { "" }, subject);
            }
        }
        row("SUBSCRIPTIONS", &limit(max_subscriptions, " at most"));
        row("MESSAGE SIZE", &limit(max_payload, " bytes at most"));
        text
    }
}

#[cfg(test)]
#[path = "tests/explain.rs"]
mod tests;
