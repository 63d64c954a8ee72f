//! A device's account at an identity provider, as an intent carries it to the device.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// The identity provider of a fleet's devices: what all of them have to know to ask it for tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceIssuer {
    /// Its URL, exactly as its tokens have it in `iss`.
    pub issuer: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Sent as the parameter `audience`, for providers that want it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// CA of its certificate (PEM); `None` trusts the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// An account there, and what proves it. The record names its subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceAccount {
    /// Where it is.
    pub issuer: DeviceIssuer,
    /// What proves it.
    pub proof: AccountProof,
}

/// What proves an account to its provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum AccountProof {
    /// The JSON file of a registered key (RFC 7523), as Zitadel writes it.
    KeyFile(Carried),
    /// A secret (client credentials).
    Client {
        /// The client's id.
        id: String,
        /// Its secret.
        secret: Carried,
    },
}

/// A secret on its way. `Debug` does not show it, and its memory is wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Carried(Zeroizing<String>);

impl Carried {
    /// From text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, to be written to a private file.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carried(…)")
    }
}

impl Serialize for Carried {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Carried {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
