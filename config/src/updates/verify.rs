//! Whether an update may take effect: decisions, without a clock, a file or a key of its own.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::envelope::{BadEnvelope, Envelope, Head, KeyId, LIMIT, Payload, PublicKey, hash};
use crate::{
    key::{FieldPath, Key},
    model::{Model, SchemaVersion},
    schema::{Extent, faults},
    source::Document,
};

/// Why an update is refused. What was in effect stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More bytes than any update has.
    #[error(
        "the update is refused: it has {size} bytes, and at most {LIMIT} are accepted. Send fewer values at once"
    )]
    TooLarge {
        /// Bytes.
        size: usize,
    },
    /// No update, or cut, or of another version.
    #[error(
        "the update is refused: {why}. Sign it again, with the version of the library that is in use here"
    )]
    Malformed {
        /// Where it broke off, never what stands there.
        why: String,
    },
    /// Signed with a key that is not trusted here.
    #[error(
        "the update is refused: it is signed with the key {key_id}, and trusted are {trusted}. If that signer shall be \
         trusted, put his public key into this program's settings"
    )]
    UnknownKey {
        /// The key.
        key_id: KeyId,
        /// Those that are trusted.
        trusted: String,
    },
    /// Not what was signed.
    #[error(
        "the update is refused: its signature with the key {key_id} does not hold. It was changed on its way"
    )]
    Signature {
        /// The key that it names.
        key_id: KeyId,
    },
    /// For somebody else.
    #[error(
        "the update is refused: it is for {found:?}, and this is {own:?}. Deliver it there, or sign one for here"
    )]
    Audience {
        /// Its audience.
        found: String,
        /// Whose updates are accepted here.
        own: String,
    },
    /// Not newer than what was accepted.
    #[error(
        "the update is refused: its epoch is {found}, and {last} was accepted already. An old one was delivered again, \
         or two signers count without each other: sign it with a higher epoch"
    )]
    Replayed {
        /// Its epoch.
        found: u64,
        /// The highest that was accepted.
        last: u64,
    },
    /// Delivered too late.
    #[error(
        "the update is refused: it expired at {expires}, and the clock of this machine says {now}. If the clock is \
         right, sign it again; if not, set the clock (devices without a battery start with a wrong one)"
    )]
    Expired {
        /// Until when it was good.
        expires: Timestamp,
        /// What time it is here, at least.
        now: Timestamp,
    },
    /// The payload is not the one that was signed.
    #[error("the update is refused: its payload is not the one that was signed. It was changed or exchanged")]
    PayloadHash,
    /// The payload is sealed, and not to this machine.
    #[error(
        "the update is refused: it is sealed, and not to a key of this machine. Seal it to the recipient that this \
         machine shows, too (it changes when the encryption key is rotated)"
    )]
    Recipient,
    /// For another version of a model.
    #[error(
        "the update is refused: its values of {key} are for schema {}, and this program has {}. Sign it for the version of \
         the program that runs here, or update the program first",
        found.0, own.0
    )]
    SchemaVersion {
        /// The model.
        key: Key,
        /// For which schema the values are.
        found: SchemaVersion,
        /// The program's.
        own: SchemaVersion,
    },
    /// Values that the model cannot have.
    #[error(
        "the update is refused: its values of {key} do not fit this program: {why}. Correct them, and sign it again with \
         a higher epoch"
    )]
    Unfit {
        /// The model.
        key: Key,
        /// Each place, with what belongs there and the type of what is there; never a value.
        why: String,
    },
    /// A secret that everybody on the way could read.
    #[error(
        "the update is refused: it has the secret {place} of {key} in plain text. Seal it to its recipients, and change \
         the secret, since it was readable on the way"
    )]
    PlainSecret {
        /// The model.
        key: Key,
        /// The place.
        place: String,
    },
}

impl Refusal {
    /// One word, for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::UnknownKey { .. } => "unknown_key",
            Self::Signature { .. } => "signature",
            Self::Audience { .. } => "audience",
            Self::Replayed { .. } => "replayed",
            Self::Expired { .. } => "expired",
            Self::PayloadHash => "payload_hash",
            Self::Recipient => "recipient",
            Self::SchemaVersion { .. } => "schema_version",
            Self::Unfit { .. } => "unfit",
            Self::PlainSecret { .. } => "plain_secret",
        }
    }

    /// Whether somebody who is not trusted made or changed it, as far as can be told.
    #[must_use]
    pub fn is_forgery(&self) -> bool {
        matches!(self, Self::UnknownKey { .. } | Self::Signature { .. } | Self::PayloadHash)
    }
}

impl From<BadEnvelope> for Refusal {
    fn from(bad: BadEnvelope) -> Self {
        match bad {
            BadEnvelope::TooLarge(size) => Self::TooLarge { size },
            BadEnvelope::Malformed(why) => Self::Malformed { why },
        }
    }
}

/// Whom this program believes what.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) audience: String,
    keys: BTreeMap<KeyId, PublicKey>,
    models: BTreeMap<Key, Model>,
}

impl Trust {
    pub(super) fn new(audience: String, trusted: Vec<PublicKey>, models: Vec<Model>) -> Self {
        let keys = trusted.into_iter().map(|key| (key.id(), key)).collect();
        let models = models.into_iter().map(|model| (model.key.clone(), model)).collect();
        Self { audience, keys, models }
    }

    pub(super) fn trusts(&self, key: &KeyId) -> bool {
        self.keys.contains_key(key)
    }

    pub(super) fn knows(&self, key: &Key) -> bool {
        self.models.contains_key(key)
    }

    /// Who says it, and to whom.
    pub(super) fn authenticate(&self, bytes: &[u8]) -> Result<Envelope, Refusal> {
        let envelope = Envelope::parse(bytes)?;
        self.check(&envelope)?;
        Ok(envelope)
    }

    /// As [`Self::authenticate`], for one that was parsed already.
    pub(super) fn check(&self, envelope: &Envelope) -> Result<(), Refusal> {
        let Head { key_id, audience, .. } = &envelope.head;
        let Some(key) = self.keys.get(key_id) else {
            let trusted: Vec<_> = self.keys.keys().map(ToString::to_string).collect();
            let trusted = if trusted.is_empty() { "none".to_owned() } else { trusted.join(", ") };
            return Err(Refusal::UnknownKey { key_id: key_id.clone(), trusted });
        };
        if !key.verifies(&envelope.head_bytes, &envelope.signature) {
            return Err(Refusal::Signature { key_id: key_id.clone() });
        }
        if *audience != self.audience {
            let found = audience.chars().take(80).collect();
            return Err(Refusal::Audience { found, own: self.audience.clone() });
        }
        Ok(())
    }

    /// Whether it is its time. `last`: the highest epoch that was accepted; `now`: at least what time it is.
    pub(super) fn admit(&self, head: &Head, last: Option<u64>, now: Timestamp) -> Result<(), Refusal> {
        if let Some(last) = last.filter(|last| head.epoch <= *last) {
            return Err(Refusal::Replayed { found: head.epoch, last });
        }
        if head.expires <= now {
            return Err(Refusal::Expired { expires: head.expires, now });
        }
        Ok(())
    }

    /// Whether the values are those that were signed, and fit.
    pub(super) fn payload(&self, envelope: &Envelope, plain: &[u8]) -> Result<Payload, Refusal> {
        if hash(plain) != envelope.head.payload_hash {
            return Err(Refusal::PayloadHash);
        }
        let payload = Payload::parse(plain)?;
        for item in &payload.items {
            let Some(model) = self.models.get(&item.key) else { continue };
            if model.version != item.schema_version {
                let found = SchemaVersion(item.schema_version.0.chars().take(32).collect());
                let own = model.version.clone();
                return Err(Refusal::SchemaVersion { key: item.key.clone(), found, own });
            }
            if envelope.sealed.is_none()
                && let Some(place) = plain_secret(model, &item.values)
            {
                return Err(Refusal::PlainSecret { key: item.key.clone(), place: place.to_string() });
            }
            let faults = faults(model.schema.as_value(), &item.values, Extent::Part);
            if !faults.is_empty() {
                let faults: Vec<_> = faults.iter().take(8).map(ToString::to_string).collect();
                return Err(Refusal::Unfit { key: item.key.clone(), why: faults.join("; ") });
            }
        }
        Ok(payload)
    }
}

/// A secret place that has a value.
pub(super) fn plain_secret<'m>(model: &'m Model, values: &Document) -> Option<&'m FieldPath> {
    model.secrets.iter().find(|place| {
        let mut here = Some(values);
        let mut names = place.names().iter().peekable();
        if names.peek().is_none() {
            return !values.is_empty();
        }
        while let Some(name) = names.next() {
            let Some(value) = here.and_then(|fields| fields.get(name)).filter(|value| !value.is_null())
            else {
                return false;
            };
            // A list on the way: what is in it has no place of its own.
            here = value.as_object();
            if here.is_none() {
                return names.peek().is_none() || value.is_array();
            }
        }
        true
    })
}
