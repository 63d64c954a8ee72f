//! Public keys as they stand in objects and settings: parsed once, never mistaken for one another.

use std::{fmt, str::FromStr};

use nkeys::{KeyPair, KeyPairType, XKey};
use serde::{Deserialize, Deserializer, Serialize};

use super::KeyError;

fn refuse(what: &'static str, value: &str, reason: impl Into<String>) -> KeyError {
    // Cut, so that hostile input cannot flood a log.
    let value: String = value.chars().take(80).collect();
    KeyError::Nkey { what: format!("{what} {value:?}"), reason: reason.into() }
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The key in nkey's text form, 56 characters.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(value: &str) -> Result<Self, KeyError> {
                $check(value)?;
                Ok(Self(value.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

public_key!(
    /// Public identity key of a device (`U…`, Ed25519): proves who connects, and signs enrollments.
    IdentityKey,
    check_identity
);
public_key!(
    /// Public curve key (`X…`, X25519): what is sealed to it, only its holder opens.
    CurveKey,
    check_curve
);

fn check_identity(value: &str) -> Result<(), KeyError> {
    let what = "the identity key";
    match KeyPair::from_public_key(value) {
        Ok(key) if key.key_pair_type() == KeyPairType::User => Ok(()),
        Ok(_) => Err(refuse(what, value, "expected the public key of a user, U…")),
        Err(error) => Err(refuse(what, value, error.to_string())),
    }
}

fn check_curve(value: &str) -> Result<(), KeyError> {
    XKey::from_public_key(value).map(drop).map_err(|error| refuse("the curve key", value, error.to_string()))
}

impl IdentityKey {
    /// Whether `signature` over `message` was made with the private half.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        // Checked when it was parsed.
        KeyPair::from_public_key(&self.0).is_ok_and(|key| key.verify(message, signature).is_ok())
    }
}

impl CurveKey {
    /// The key, ready to seal to.
    ///
    /// # Errors
    /// None in practice: it was checked when it was parsed.
    pub fn xkey(&self) -> Result<XKey, KeyError> {
        XKey::from_public_key(&self.0).map_err(|error| refuse("the curve key", &self.0, error.to_string()))
    }
}

/// What a person compares before approving a device: `SHA256:` and 43 characters over both public keys.
/// The same on the device, in the request and in the record.
pub fn fingerprint(identity: &IdentityKey, curve: &CurveKey) -> String {
    use base64::Engine as _;
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    hash.update(b"harmony-fleet device keys v1\n");
    hash.update(identity.as_str());
    hash.update(b"\n");
    hash.update(curve.as_str());
    format!("SHA256:{}", base64::engine::general_purpose::STANDARD_NO_PAD.encode(hash.finalize()))
}
