//! Names and ids, each a type of its own, parsed once at the edge.
//!
//! Swapping two of them is a compile error; a value of these types satisfies its grammar.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a string is not the name it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {expected}")]
pub struct NameError {
    /// What the string was taken for, e.g. `device name`.
    pub what: &'static str,
    /// The offending value, cut to 80 characters so that hostile input cannot flood a log.
    pub value: String,
    /// The grammar in words.
    pub expected: &'static str,
}

fn refuse(what: &'static str, value: &str, expected: &'static str) -> NameError {
    NameError { what, value: value.chars().take(80).collect(), expected }
}

/// RFC 1123 label: 1–63 of `a-z0-9-`, starting and ending alphanumeric.
fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
fn is_subdomain(value: &str) -> bool {
    value.len() <= 253 && value.split('.').all(is_label)
}

fn is_uid(value: &str) -> bool {
    (1..=64).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

macro_rules! string_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as it stands in Kubernetes and on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(value: &str) -> Result<Self, NameError> {
                if $check(value) {
                    Ok(Self(value.to_owned()))
                } else {
                    Err(refuse($what, value, $expected))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(value: String) -> Result<Self, NameError> {
                if $check(&value) {
                    Ok(Self(value))
                } else {
                    Err(refuse($what, &value, $expected))
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .try_into()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

string_name!(
    /// A device: the name of its Node and one NATS token at once.
    DeviceName, "device name", is_label,
    "expected an RFC 1123 label: 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
);
string_name!(
    /// A Kubernetes namespace.
    Namespace, "namespace", is_label,
    "expected an RFC 1123 label: 1 to 63 of a-z, 0-9 and '-'"
);
string_name!(
    /// The name of a pod.
    PodName, "pod name", is_subdomain,
    "expected an RFC 1123 subdomain: labels of a-z, 0-9 and '-' joined by dots, at most 253 characters"
);
string_name!(
    /// The name of a container within its pod.
    ContainerName, "container name", is_label,
    "expected an RFC 1123 label: 1 to 63 of a-z, 0-9 and '-'"
);
string_name!(
    /// `metadata.uid` of a pod. A pod deleted and made again under its old name has a new one.
    PodUid, "pod uid", is_uid,
    "expected 1 to 64 letters, digits, '-' or '_'"
);
string_name!(
    /// Correlates a request with its answer, and names a stream. One NATS token.
    RequestId, "request id", is_uid,
    "expected 1 to 64 letters, digits, '-' or '_'"
);

impl RequestId {
    /// A fresh random id: 96 bits as 16 characters of URL-safe base64.
    pub fn random() -> Self {
        use base64::Engine as _;
        let bytes: [u8; 12] = rand::random();
        Self(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Which pod is meant: never only by name, so that a successor of the same name is not confused with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Namespace of the pod.
    pub namespace: Namespace,
    /// Name of the pod.
    pub name: PodName,
    /// `metadata.uid`.
    pub uid: PodUid,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}({})", self.namespace, self.name, self.uid)
    }
}

/// One of 256 slices of the fleet, the unit in which replicas of the cluster side share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// How many shards there are. Part of the wire contract: it can never change within `fleet.v1`.
    pub const COUNT: usize = 256;

    /// The shard of a device: the first byte of SHA-256 of its name.
    pub fn of(device: &DeviceName) -> Self {
        Self(Sha256::digest(device.as_str().as_bytes())[0])
    }

    /// All shards in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Shard {
    type Err = NameError;

    fn from_str(value: &str) -> Result<Self, NameError> {
        let shard = value.parse().map_err(|_| refuse("shard", value, "expected a number from 0 to 255"))?;
        // "007" and "+7" parse as numbers, but are other NATS tokens than "7".
        let shard = Self(shard);
        if shard.to_string() == value {
            Ok(shard)
        } else {
            Err(refuse("shard", value, "expected a number from 0 to 255 without leading zeros"))
        }
    }
}

/// Version of the fleet's curve key, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyVersion(pub u32);

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which incarnation of the cluster side speaks. A device refuses lower ones than it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OwnerEpoch(pub u64);

impl fmt::Display for OwnerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
