//! The static logins that the auth callout itself needs, and the server's configuration for them.

use std::{collections::BTreeMap, fmt};

use clap::ValueEnum;
use fleet_wire::{
    keys::KeyError,
    permissions::{MAX_PAYLOAD, MAX_SUBSCRIPTIONS},
};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use nkeys::{KeyPair, KeyPairType, XKey};
use zeroize::Zeroizing;

/// Name of the Secret.
pub const NATS_AUTH: &str = "fleet-nats-auth";

/// One of the static keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum StaticKey {
    /// The callout's own login (`SU…`), in account AUTH.
    Callout,
    /// The account key that signs the users of the callout (`SA…`).
    Issuer,
    /// The callout's curve key (`SX…`): the server seals its questions to it.
    Xkey,
    /// The kicker's login (`SU…`), in account SYS.
    Kicker,
}

/// Which of a key's versions; there are two of them only while it is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The one in use.
    Current,
    /// The one that will be.
    Next,
    /// The one that was.
    Previous,
}

impl Slot {
    pub(super) const ALL: [Self; 3] = [Self::Current, Self::Next, Self::Previous];
}

impl StaticKey {
    pub(super) const ALL: [Self; 4] = [Self::Callout, Self::Issuer, Self::Xkey, Self::Kicker];

    /// How people name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Callout => "callout",
            Self::Issuer => "issuer",
            Self::Xkey => "xkey",
            Self::Kicker => "kicker",
        }
    }

    /// Its entry in the Secret, and its file: `callout.nk`, `callout.next.nk`, `callout.previous.nk`.
    pub fn entry(self, slot: Slot) -> String {
        let version = match slot {
            Slot::Current => "",
            Slot::Next => ".next",
            Slot::Previous => ".previous",
        };
        format!("{}{version}.nk", self.name())
    }

    /// Whether the server has a list for it: several can log in, but only one can be issuer or xkey.
    pub fn is_login(self) -> bool {
        matches!(self, Self::Callout | Self::Kicker)
    }

    fn refuse(self, reason: impl fmt::Display) -> KeyError {
        KeyError::Nkey { what: format!("`{}`", self.name()), reason: reason.to_string() }
    }

    pub(super) fn fresh(self) -> Result<Zeroizing<String>, KeyError> {
        match self {
            Self::Callout | Self::Kicker => KeyPair::new_user().seed(),
            Self::Issuer => KeyPair::new_account().seed(),
            Self::Xkey => XKey::new().seed(),
        }
        .map(Zeroizing::new)
        .map_err(|error| self.refuse(error))
    }

    fn public(self, seed: &str) -> Result<String, KeyError> {
        let kind = match self {
            Self::Xkey => {
                return XKey::from_seed(seed).map(|key| key.public_key()).map_err(|error| self.refuse(error));
            }
            Self::Callout | Self::Kicker => KeyPairType::User,
            Self::Issuer => KeyPairType::Account,
        };
        let key = KeyPair::from_seed(seed).map_err(|error| self.refuse(error))?;
        if key.key_pair_type() == kind {
            Ok(key.public_key())
        } else {
            Err(self.refuse("it is the seed of another kind of key"))
        }
    }
}

/// Names of all entries that there may be.
pub fn entries() -> impl Iterator<Item = String> {
    StaticKey::ALL.into_iter().flat_map(|key| Slot::ALL.map(|slot| key.entry(slot)))
}

/// The static keys of a fleet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsAuth(pub(super) BTreeMap<(StaticKey, Slot), Zeroizing<String>>);

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsAuth").field(&self.0.keys().collect::<Vec<_>>()).finish()
    }
}

/// The public halves.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NatsPublic {
    /// Login of the callout (`U…`).
    pub callout: String,
    /// Account key whose users the server believes (`A…`).
    pub issuer: String,
    /// Curve key to which the server seals (`X…`).
    pub xkey: String,
    /// Login of the kicker (`U…`).
    pub kicker: String,
    /// The callout's other login, while it is rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_callout: Option<String>,
    /// The kicker's other login, while it is rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_kicker: Option<String>,
}

impl NatsAuth {
    /// Reads a Secret; what is missing stays missing.
    ///
    /// # Errors
    /// When an entry is no key of its kind.
    pub fn parse(secret: Option<&Secret>) -> Result<Self, KeyError> {
        let data = secret.and_then(|secret| secret.data.as_ref());
        let mut keys = BTreeMap::new();
        for key in StaticKey::ALL {
            for slot in Slot::ALL {
                let Some(value) = data.and_then(|data| data.get(&key.entry(slot))) else { continue };
                let seed = std::str::from_utf8(&value.0).map_err(|error| key.refuse(error))?.trim();
                key.public(seed)?;
                keys.insert((key, slot), Zeroizing::new(seed.to_owned()));
            }
        }
        Ok(Self(keys))
    }

    /// With fresh keys for those that are missing; says which.
    ///
    /// # Errors
    /// None in practice.
    pub fn complete(mut self) -> Result<(Self, Vec<StaticKey>), KeyError> {
        let mut made = Vec::new();
        for key in StaticKey::ALL {
            if let std::collections::btree_map::Entry::Vacant(entry) = self.0.entry((key, Slot::Current)) {
                entry.insert(key.fresh()?);
                made.push(key);
            }
        }
        Ok((self, made))
    }

    /// Entries with their seeds. Not for logs.
    pub fn seeds(&self) -> impl Iterator<Item = (String, &Zeroizing<String>)> {
        self.0.iter().map(|((key, slot), seed)| (key.entry(*slot), seed))
    }

    /// As a Secret.
    pub fn secret(&self, namespace: &str) -> Secret {
        let data = self.seeds().map(|(entry, seed)| (entry, ByteString(seed.as_bytes().to_vec())));
        Secret {
            metadata: ObjectMeta {
                name: Some(NATS_AUTH.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    /// The public halves.
    ///
    /// # Errors
    /// When one is missing.
    pub fn public(&self) -> Result<NatsPublic, KeyError> {
        let of = |key: StaticKey| match self.0.get(&(key, Slot::Current)) {
            Some(seed) => key.public(seed),
            None => Err(key.refuse("it is missing")),
        };
        let other = |key: StaticKey| {
            let seed = self.0.get(&(key, Slot::Next)).or_else(|| self.0.get(&(key, Slot::Previous)));
            seed.map(|seed| key.public(seed)).transpose()
        };
        Ok(NatsPublic {
            callout: of(StaticKey::Callout)?,
            issuer: of(StaticKey::Issuer)?,
            xkey: of(StaticKey::Xkey)?,
            kicker: of(StaticKey::Kicker)?,
            other_callout: other(StaticKey::Callout)?,
            other_kicker: other(StaticKey::Kicker)?,
        })
    }
}

impl NatsPublic {
    /// The part of nats-server's configuration that makes it ask the callout. Public keys only.
    pub fn server_config(&self) -> String {
        let Self { issuer, xkey, .. } = self;
        let both = |one: &str, other: &Option<String>| -> Vec<String> {
            std::iter::once(one.to_owned()).chain(other.clone()).collect()
        };
        let (callouts, kickers) =
            (both(&self.callout, &self.other_callout), both(&self.kicker, &self.other_kicker));
        let users = |keys: &[String]| {
            keys.iter().map(|key| format!("{{ nkey: {key} }}")).collect::<Vec<_>>().join(", ")
        };
        let (auth, sys) = (users(&callouts), users(&kickers));
        let auth_users = [callouts, kickers].concat().join(", ");
        format!(
            "\
# Harmony Fleet: who may connect is decided by the auth callout. Public keys only.
accounts {{
  # Devices and the cluster side; users come from the callout alone.
  # nats-server takes no limits from a callout's answer; these hold for each connection.
  FLEET {{ limits {{ max_payload: {MAX_PAYLOAD}, max_subscriptions: {MAX_SUBSCRIPTIONS} }} }}
  AUTH {{ users: [ {auth} ] }}
  SYS {{ users: [ {sys} ] }}
}}
system_account: SYS
authorization {{
  auth_callout {{
    issuer: {issuer}
    auth_users: [ {auth_users} ]
    account: AUTH
    xkey: {xkey}
  }}
}}
"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_kept_and_what_is_missing_is_made() {
        let (first, made) = NatsAuth::default().complete().unwrap();
        assert_eq!(made, StaticKey::ALL);
        let mut secret = first.secret("harmony-fleet");
        secret.data.as_mut().unwrap().remove("kicker.nk");
        let (second, made) = NatsAuth::parse(Some(&secret)).unwrap().complete().unwrap();
        assert_eq!(made, [StaticKey::Kicker]);
        let (before, after) = (first.public().unwrap(), second.public().unwrap());
        assert_eq!((before.callout, before.issuer, before.xkey), (after.callout, after.issuer, after.xkey));
        assert_ne!(before.kicker, after.kicker);
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let (keys, _) = NatsAuth::default().complete().unwrap();
        let mut secret = keys.secret("harmony-fleet");
        let data = secret.data.as_mut().unwrap();
        data.insert("issuer.nk".into(), data["callout.nk"].clone());
        let error = NatsAuth::parse(Some(&secret)).unwrap_err();
        assert!(error.to_string().contains("another kind"), "{error}");
    }

    #[test]
    fn the_servers_configuration_has_public_keys_only() {
        let (keys, _) = NatsAuth::default().complete().unwrap();
        let config = keys.public().unwrap().server_config();
        for seed in keys.0.values() {
            assert!(!config.contains(&**seed));
        }
        for prefix in ["issuer: A", "xkey: X", "nkey: U"] {
            assert!(config.contains(prefix), "{prefix} in {config}");
        }
    }
}
