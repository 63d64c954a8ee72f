//! Key pairs as they stand in files and Secrets. Never printed.

use std::{collections::BTreeMap, fmt};

use fleet_wire::{
    keys::{CurveKey, KeyError},
    name::KeyVersion,
};
use k8s_openapi::ByteString;
use nkeys::{KeyPair, KeyPairType, XKey};
use zeroize::Zeroizing;

fn no_key(what: &str, reason: impl fmt::Display) -> KeyError {
    KeyError::Nkey { what: what.to_owned(), reason: reason.to_string() }
}

/// The fleet's root key: signs statements, and is needed for nothing else.
pub struct RootKey(KeyPair);

impl RootKey {
    /// A fresh one.
    pub fn generate() -> Self {
        Self(KeyPair::new_operator())
    }

    /// From its seed (`SO…`).
    ///
    /// # Errors
    /// When it is no operator's seed.
    pub fn from_seed(seed: &str) -> Result<Self, KeyError> {
        let what = "the fleet's root key";
        let key = KeyPair::from_seed(seed.trim()).map_err(|error| no_key(what, error))?;
        if key.key_pair_type() == KeyPairType::Operator {
            Ok(Self(key))
        } else {
            Err(no_key(what, "expected the seed of an operator, SO…"))
        }
    }

    /// The seed, for the file. Not for logs.
    ///
    /// # Errors
    /// None in practice.
    pub fn seed(&self) -> Result<Zeroizing<String>, KeyError> {
        self.0.seed().map(Zeroizing::new).map_err(|error| no_key("the fleet's root key", error))
    }

    /// The public part (`O…`).
    pub fn public(&self) -> String {
        self.0.public_key()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({})", self.public())
    }
}

/// Curve keys by version, as a Secret holds them: `<version>.nk` with a seed (`SX…`).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<KeyVersion, Zeroizing<String>>);

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Versions").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

impl Versions {
    /// Reads a Secret's data.
    ///
    /// # Errors
    /// When an entry is no `<version>.nk` with the seed of a curve key.
    pub fn parse(data: Option<&BTreeMap<String, ByteString>>) -> Result<Self, KeyError> {
        let mut versions = BTreeMap::new();
        for (name, value) in data.into_iter().flatten() {
            let version: u32 = name
                .strip_suffix(".nk")
                .and_then(|version| version.parse().ok())
                .filter(|version| *version > 0)
                .ok_or_else(|| no_key(name, "expected <version>.nk, counted from 1"))?;
            let seed = std::str::from_utf8(&value.0).map_err(|error| no_key(name, error))?.trim();
            XKey::from_seed(seed).map_err(|error| no_key(name, error))?;
            versions.insert(KeyVersion(version), Zeroizing::new(seed.to_owned()));
        }
        Ok(Self(versions))
    }

    /// As a Secret's data.
    pub fn data(&self) -> BTreeMap<String, ByteString> {
        self.0
            .iter()
            .map(|(version, seed)| (format!("{version}.nk"), ByteString(seed.as_bytes().to_vec())))
            .collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest version.
    pub fn newest(&self) -> Option<KeyVersion> {
        self.0.last_key_value().map(|(version, _)| *version)
    }

    /// All versions, oldest first.
    pub fn all(&self) -> impl Iterator<Item = KeyVersion> {
        self.0.keys().copied()
    }

    /// Makes the version after `above` and after all that are here.
    ///
    /// # Errors
    /// None in practice.
    pub fn add(&mut self, above: Option<KeyVersion>) -> Result<KeyVersion, KeyError> {
        let last = self.newest().max(above).map_or(0, |version| version.0);
        let version = KeyVersion(last + 1);
        let seed = XKey::new().seed().map_err(|error| no_key("a new curve key", error))?;
        self.0.insert(version, Zeroizing::new(seed));
        Ok(version)
    }

    /// Takes a version out.
    pub fn remove(&mut self, version: KeyVersion) -> bool {
        self.0.remove(&version).is_some()
    }

    /// The public halves.
    ///
    /// # Errors
    /// None in practice: the seeds were checked.
    pub fn public(&self) -> Result<BTreeMap<KeyVersion, String>, KeyError> {
        self.0
            .iter()
            .map(|(version, seed)| {
                let key = XKey::from_seed(seed).map_err(|error| no_key("a curve key", error))?;
                Ok((*version, key.public_key()))
            })
            .collect()
    }

    /// The public half of the newest.
    ///
    /// # Errors
    /// [`KeyError::Empty`] when there is none.
    pub fn newest_public(&self) -> Result<CurveKey, KeyError> {
        self.public()?.into_values().next_back().ok_or(KeyError::Empty)?.parse()
    }
}
