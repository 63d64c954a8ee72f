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

impl StaticKey {
    const ALL: [Self; 4] = [Self::Callout, Self::Issuer, Self::Xkey, Self::Kicker];

    /// Its entry in the Secret.
    pub fn entry(self) -> &'static str {
        match self {
            Self::Callout => "callout.nk",
            Self::Issuer => "issuer.nk",
            Self::Xkey => "xkey.nk",
            Self::Kicker => "kicker.nk",
        }
    }

    fn refuse(self, reason: impl fmt::Display) -> KeyError {
        KeyError::Nkey { what: format!("`{}`", self.entry()), reason: reason.to_string() }
    }

    fn fresh(self) -> Result<Zeroizing<String>, KeyError> {
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

/// The static keys of a fleet.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsAuth(BTreeMap<StaticKey, Zeroizing<String>>);

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
            let Some(value) = data.and_then(|data| data.get(key.entry())) else { continue };
            let seed = std::str::from_utf8(&value.0).map_err(|error| key.refuse(error))?.trim();
            key.public(seed)?;
            keys.insert(key, Zeroizing::new(seed.to_owned()));
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
            if let std::collections::btree_map::Entry::Vacant(entry) = self.0.entry(key) {
                entry.insert(key.fresh()?);
                made.push(key);
            }
        }
        Ok((self, made))
    }

    /// With another key instead of this one.
    ///
    /// # Errors
    /// None in practice.
    pub fn rotated(mut self, key: StaticKey) -> Result<Self, KeyError> {
        self.0.insert(key, key.fresh()?);
        Ok(self)
    }

    /// As a Secret.
    pub fn secret(&self, namespace: &str) -> Secret {
        let data =
            self.0.iter().map(|(key, seed)| (key.entry().to_owned(), ByteString(seed.as_bytes().to_vec())));
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
        let of = |key: StaticKey| match self.0.get(&key) {
            Some(seed) => key.public(seed),
            None => Err(key.refuse("it is missing")),
        };
        Ok(NatsPublic {
            callout: of(StaticKey::Callout)?,
            issuer: of(StaticKey::Issuer)?,
            xkey: of(StaticKey::Xkey)?,
            kicker: of(StaticKey::Kicker)?,
        })
    }
}

impl NatsPublic {
    /// The part of nats-server's configuration that makes it ask the callout. Public keys only.
    pub fn server_config(&self) -> String {
        let Self { callout, issuer, xkey, kicker } = self;
        format!(
            "\
# Harmony Fleet: who may connect is decided by the auth callout. Public keys only.
accounts {{
  # Devices and the cluster side; users come from the callout alone.
  # nats-server takes no limits from a callout's answer; these hold for each connection.
  FLEET {{ limits {{ max_payload: {MAX_PAYLOAD}, max_subscriptions: {MAX_SUBSCRIPTIONS} }} }}
  AUTH {{ users: [ {{ nkey: {callout} }} ] }}
  SYS {{ users: [ {{ nkey: {kicker} }} ] }}
}}
system_account: SYS
authorization {{
  auth_callout {{
    issuer: {issuer}
    auth_users: [ {callout}, {kicker} ]
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
    fn a_rotation_changes_one_key() {
        let (keys, _) = NatsAuth::default().complete().unwrap();
        let rotated = keys.clone().rotated(StaticKey::Issuer).unwrap();
        let (before, after) = (keys.public().unwrap(), rotated.public().unwrap());
        assert_ne!(before.issuer, after.issuer);
        assert_eq!(NatsPublic { issuer: before.issuer.clone(), ..after }, before);
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
