//! Where requests to enroll are put, one subject for each way of asking.

use std::fmt;

use super::token::TokenId;
use crate::{keys::IdentityKey, name::DeviceName, subject};

const PREFIX: &str = "fleet.enroll.v1";

/// Which way a request came, and with that: what its sender has proved to the broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Door {
    /// By the id of a token: nothing yet. The secret's MAC in the request proves the rest.
    Token(TokenId),
    /// By an identity key that no record knows; its signature over the connection's nonce was checked.
    Key(IdentityKey),
    /// As a member, for new keys.
    Device(DeviceName),
}

/// Why a subject is none of a request to enroll.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a subject of {PREFIX}: {0:?}")]
pub struct DoorError(String);

impl Door {
    /// Reads a subject.
    ///
    /// # Errors
    /// [`DoorError`] for everything that [`Door::subject`] does not make.
    pub fn parse(subject: &str) -> Result<Self, DoorError> {
        let refused = || DoorError(subject.chars().take(120).collect());
        let rest =
            subject.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).ok_or_else(refused)?;
        let (kind, name) = rest.split_once('.').ok_or_else(refused)?;
        match kind {
            "token" => name.parse().map(Self::Token).map_err(|_| refused()),
            "key" => name.parse().map(Self::Key).map_err(|_| refused()),
            "device" => name.parse().map(Self::Device).map_err(|_| refused()),
            _ => Err(refused()),
        }
    }

    /// The subject of requests.
    pub fn subject(&self) -> String {
        match self {
            Self::Token(id) => format!("{PREFIX}.token.{id}"),
            Self::Key(key) => format!("{PREFIX}.key.{key}"),
            Self::Device(device) => format!("{PREFIX}.device.{device}"),
        }
    }

    /// Prefix of the inbox for answers, without a trailing dot. No device's name contains `_`, so none of
    /// these is a device's inbox.
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Token(id) => format!("_INBOX._token.{id}"),
            Self::Key(key) => format!("_INBOX._key.{key}"),
            Self::Device(device) => subject::inbox_prefix(device),
        }
    }

    /// Whether `reply` lies in this sender's own inbox. Asked before every answer, since nats-server does
    /// not check the reply subject of a publish.
    pub fn is_own_inbox(&self, reply: &str) -> bool {
        subject::is_in_inbox(&self.inbox_prefix(), reply)
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(id) => write!(f, "enrollment token {id}"),
            Self::Key(key) => write!(f, "identity key {key}"),
            Self::Device(device) => write!(f, "device {device}"),
        }
    }
}

/// What the enroller subscribes to: all doors.
pub fn enroll_wildcard() -> String {
    format!("{PREFIX}.>")
}
