//! The fleet's keys: an offline root key that signs, and versions of a curve key that seals.
//!
//! A device pins the public root key at enrollment. Which curve keys the fleet has, it takes only from a
//! [`KeyStatement`] that the root key signed; statements count up and never go back.

mod agreement;
mod public;

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::{KeyPair, KeyPairType, XKey};
use serde::{Deserialize, Serialize};

pub use self::agreement::Agreement;
pub(crate) use self::agreement::BOX_OVERHEAD;
pub use self::public::{CurveKey, IdentityKey, fingerprint};
use crate::{envelope::EnvelopeError, name::KeyVersion};

/// Why keys were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not an nkey of the expected kind.
    #[error("{what} is not a valid nkey: {reason}")]
    Nkey {
        /// Which key.
        what: String,
        /// What nkeys said; never contains key material.
        reason: String,
    },
    /// The statement is not signed by the pinned root key.
    #[error("the statement of the fleet's keys is not signed by the pinned root key {root}")]
    Signature {
        /// The pinned public root key.
        root: String,
    },
    /// The statement cannot be read.
    #[error("the statement of the fleet's keys cannot be read: {0}")]
    Statement(#[source] serde_json::Error),
    /// No key at all.
    #[error("the fleet has no curve key")]
    Empty,
}

/// The fleet's curve keys by version: public at a device, secret at the cluster side.
#[derive(Clone)]
pub struct FleetKeys(Arc<Versions>);

/// At least one key, by its type.
struct Versions {
    newest: (KeyVersion, XKey),
    older: BTreeMap<KeyVersion, XKey>,
}

impl std::fmt::Debug for FleetKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FleetKeys").field(&self.all().map(|(version, _)| version).collect::<Vec<_>>()).finish()
    }
}

impl FleetKeys {
    /// From keys by version; at least one.
    pub fn new(mut keys: BTreeMap<KeyVersion, XKey>) -> Result<Self, KeyError> {
        let newest = keys.pop_last().ok_or(KeyError::Empty)?;
        Ok(Self(Arc::new(Versions { newest, older: keys })))
    }

    /// Secret keys from their seeds (`SX…`).
    pub fn from_seeds(seeds: impl IntoIterator<Item = (KeyVersion, String)>) -> Result<Self, KeyError> {
        let keys = seeds
            .into_iter()
            .map(|(version, seed)| {
                let key = XKey::from_seed(seed.trim()).map_err(|error| KeyError::Nkey {
                    what: format!("the seed of the fleet's curve key {version}"),
                    reason: error.to_string(),
                })?;
                Ok((version, key))
            })
            .collect::<Result<_, KeyError>>()?;
        Self::new(keys)
    }

    /// The key to seal new sessions with.
    pub fn newest(&self) -> (KeyVersion, &XKey) {
        let (version, key) = &self.0.newest;
        (*version, key)
    }

    /// All of them, oldest first.
    fn all(&self) -> impl Iterator<Item = (KeyVersion, &XKey)> {
        self.0.older.iter().map(|(version, key)| (*version, key)).chain([self.newest()])
    }

    /// The key of a version.
    pub fn get(&self, version: KeyVersion) -> Result<&XKey, EnvelopeError> {
        let (newest, key) = self.newest();
        if version == newest {
            return Ok(key);
        }
        self.0.older.get(&version).ok_or(EnvelopeError::KeyVersion(version))
    }

    /// The versions there are, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = KeyVersion> + '_ {
        self.all().map(|(version, _)| version)
    }

    /// The public halves, for a statement.
    pub fn public(&self) -> BTreeMap<KeyVersion, String> {
        self.all().map(|(version, key)| (version, key.public_key())).collect()
    }
}

/// What the root key signs: the fleet's curve keys, and a number that only grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatement {
    /// Counts the statements of this fleet.
    pub sequence: u64,
    /// Public curve keys (`X…`) by version.
    pub curve_keys: BTreeMap<KeyVersion, String>,
    /// The enroller's public curve key, to which requests to enroll are sealed. It is another key than the
    /// versions above: who enrolls devices cannot read what they say, and the other way round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enroller_key: Option<CurveKey>,
}

/// A statement as it travels and as it stands in a file: the signed bytes as they are, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedKeyStatement {
    /// JSON of a [`KeyStatement`], exactly as signed.
    pub statement: String,
    /// Ed25519 signature in URL-safe base64 without padding.
    pub signature: String,
}

const SIGNATURE_DOMAIN: &[u8] = b"harmony-fleet key statement v1\n";

impl SignedKeyStatement {
    /// Signs a statement with the root key (an nkey of kind operator, `SO…`).
    pub fn sign(statement: &KeyStatement, root: &KeyPair) -> Result<Self, KeyError> {
        let statement = serde_json::to_string(statement).map_err(KeyError::Statement)?;
        let signature = root.sign(&[SIGNATURE_DOMAIN, statement.as_bytes()].concat()).map_err(|error| {
            KeyError::Nkey { what: "the fleet's root key".into(), reason: error.to_string() }
        })?;
        Ok(Self { statement, signature: URL_SAFE_NO_PAD.encode(signature) })
    }

    /// Checks the signature against the pinned public root key (`O…`).
    pub fn verify(&self, root: &str) -> Result<KeyStatement, KeyError> {
        let key = KeyPair::from_public_key(root).map_err(|error| KeyError::Nkey {
            what: format!("the fleet's root key {root:?}"),
            reason: error.to_string(),
        })?;
        // The key of a user or a device is not a root, whoever wrote it into the settings.
        if key.key_pair_type() != KeyPairType::Operator {
            return Err(KeyError::Nkey {
                what: format!("the fleet's root key {root:?}"),
                reason: "expected the public key of an operator, O…".to_owned(),
            });
        }
        let refused = || KeyError::Signature { root: root.to_owned() };
        let signature = URL_SAFE_NO_PAD.decode(&self.signature).map_err(|_| refused())?;
        key.verify(&[SIGNATURE_DOMAIN, self.statement.as_bytes()].concat(), &signature)
            .map_err(|_| refused())?;
        serde_json::from_str(&self.statement).map_err(KeyError::Statement)
    }
}

impl KeyStatement {
    /// The public keys, ready to seal with.
    pub fn fleet_keys(&self) -> Result<FleetKeys, KeyError> {
        let keys = self
            .curve_keys
            .iter()
            .map(|(version, public)| {
                let key = XKey::from_public_key(public).map_err(|error| KeyError::Nkey {
                    what: format!("the fleet's curve key {version}"),
                    reason: error.to_string(),
                })?;
                Ok((*version, key))
            })
            .collect::<Result<_, KeyError>>()?;
        FleetKeys::new(keys)
    }
}
