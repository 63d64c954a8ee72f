//! The other side: signs updates with the updates key of this machine.
//!
//! It never chooses an epoch or a recipient: who signs knows what he has sent, and to whom.

use jiff::Timestamp;
use ring::{
    rand::{SecureRandom as _, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _},
};

use super::{
    envelope::{Base64, Envelope, Head, LIMIT, Payload, PublicKey, WrittenItem, hash, signed},
    recipient::{self, Recipient},
    verify::plain_secret,
};
use crate::{
    key::{FieldPath, Key},
    keyring::{KeyVersion, Keyring, KeyringError, Purpose},
    model::{Model, SchemaVersion},
    source::Document,
};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The keys cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A secret, and nobody to seal it to.
    #[error(
        "nothing was signed: {place} of {key} is secret, and an update without recipients can be read by everybody on \
         its way. Name the recipients, or leave it to a secret store"
    )]
    PlainSecret {
        /// The model.
        key: Key,
        /// The place.
        place: FieldPath,
    },
    /// Two items for one model.
    #[error("nothing was signed: there are two items for {key}")]
    Twice {
        /// The model.
        key: Key,
    },
    /// It would not be accepted.
    #[error("nothing was signed: the update would have {size} bytes, and at most {LIMIT} are accepted")]
    TooLarge {
        /// Bytes.
        size: usize,
    },
    /// The values are not JSON.
    #[error("nothing was signed: the values cannot be written as JSON")]
    Values,
}

/// The values of one model in an update.
#[derive(Clone)]
pub struct Item {
    key: Key,
    version: SchemaVersion,
    values: Document,
    secret: Option<FieldPath>,
}

impl Item {
    /// These values of this model; a part of them is enough.
    #[must_use]
    pub fn new(model: &Model, values: Document) -> Self {
        let secret = plain_secret(model, &values).cloned();
        Self { key: model.key.clone(), version: model.version.clone(), values, secret }
    }
}

// Values may be secret.
impl std::fmt::Debug for Item {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Item")
            .field("key", &self.key)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// An update to be signed: the whole of what its audience gets.
#[derive(Debug, Clone)]
pub struct Draft {
    /// For whom: exactly the text in the receivers' settings.
    pub audience: String,
    /// Higher than of every update for this audience so far.
    pub epoch: u64,
    /// Until when it may be delivered. It stays in effect until a newer one comes.
    pub expires: Timestamp,
    /// What is not in it any more is not set any more.
    pub items: Vec<Item>,
    /// Who can read it; none: everybody, and no secret may be in it.
    pub recipients: Vec<Recipient>,
}

/// Signs with the newest updates key.
#[derive(Debug, Clone)]
pub struct UpdateSigner {
    keyring: Keyring,
}

impl UpdateSigner {
    /// With the keys of this machine.
    #[must_use]
    pub fn new(keyring: Keyring) -> Self {
        Self { keyring }
    }

    /// What receivers have to trust.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn public_key(&self) -> Result<PublicKey, KeyringError> {
        let newest = self.keyring.newest(Purpose::Updates)?;
        public_key(&self.pair(newest)?)
    }

    /// An update, ready to be delivered.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(&self, draft: &Draft) -> Result<Vec<u8>, SignError> {
        for (at, item) in draft.items.iter().enumerate() {
            if draft.items.iter().skip(at + 1).any(|other| other.key == item.key) {
                return Err(SignError::Twice { key: item.key.clone() });
            }
            if let (Some(place), true) = (&item.secret, draft.recipients.is_empty()) {
                return Err(SignError::PlainSecret { key: item.key.clone(), place: place.clone() });
            }
        }
        let mut salt = vec![0; 16];
        SystemRandom::new().fill(&mut salt).map_err(|_| KeyringError::Cipher)?;
        let items = draft.items.iter().map(|item| WrittenItem {
            key: item.key.clone(),
            schema_version: item.version.clone(),
            values: item.values.clone(),
        });
        let payload = Payload { salt: Base64(salt), items: items.collect() };
        let plain =
            serde_json::to_vec(&payload).map(zeroize::Zeroizing::new).map_err(|_| SignError::Values)?;

        let pair = self.pair(self.keyring.newest(Purpose::Updates)?)?;
        let head = Head {
            key_id: public_key(&pair)?.id(),
            audience: draft.audience.clone(),
            epoch: draft.epoch,
            issued: Timestamp::now(),
            expires: draft.expires,
            payload_hash: hash(&plain),
        };
        let head_bytes = serde_json::to_vec(&head).map_err(|_| SignError::Values)?;
        let signature = pair.sign(&signed(&head_bytes)).as_ref().to_vec();
        let (payload, sealed) = match draft.recipients.as_slice() {
            [] => (plain.to_vec(), None),
            recipients => {
                let (payload, sealed) = recipient::seal(&plain, recipients, &head_bytes)?;
                (payload, Some(sealed))
            }
        };
        let envelope = Envelope { head, head_bytes, signature, payload, sealed };
        let bytes = envelope.write().map_err(|_| SignError::Values)?;
        match bytes.len() > LIMIT {
            true => Err(SignError::TooLarge { size: bytes.len() }),
            false => Ok(bytes),
        }
    }

    fn pair(&self, version: KeyVersion) -> Result<Ed25519KeyPair, KeyringError> {
        let seed = self.keyring.updates_seed(version)?;
        Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| KeyringError::Cipher)
    }
}

fn public_key(pair: &Ed25519KeyPair) -> Result<PublicKey, KeyringError> {
    PublicKey::from_bytes(pair.public_key().as_ref()).ok_or(KeyringError::Cipher)
}
