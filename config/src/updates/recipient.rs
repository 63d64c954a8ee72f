//! Updates that only their recipients read: the payload is encrypted with a random key, and that to each recipient.
//!
//! A recipient's key is derived from the machine's encryption key, so that it needs no fourth key to be kept and
//! rotates with it. Sealing is around what is signed: it hides, and proves nothing.

use std::{collections::BTreeMap, fmt, str::FromStr};

use nkeys::XKey;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    envelope::{Base64, Envelope, SealedTo},
    verify::Refusal,
};
use crate::{
    keyring::{Keyring, KeyringError, Purpose},
    updates::UpdatesError,
};

const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;

/// To whom updates are sealed: the public key of a machine, `X…` as NATS writes curve keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(String);

/// A text is no recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no recipient of updates: those are 56 characters that begin with X, as the machine shows it"
)]
pub struct BadRecipient;

impl FromStr for Recipient {
    type Err = BadRecipient;

    fn from_str(text: &str) -> Result<Self, BadRecipient> {
        XKey::from_public_key(text).map(|key| Self(key.public_key())).map_err(|_| BadRecipient)
    }
}

impl TryFrom<String> for Recipient {
    type Error = BadRecipient;

    fn try_from(text: String) -> Result<Self, BadRecipient> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.0
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// This machine's newest.
pub(super) fn newest(keyring: &Keyring) -> Result<Recipient, KeyringError> {
    let version = keyring.newest(Purpose::Encryption)?;
    Ok(Recipient(XKey::new_from_raw(*keyring.recipient_seed(version)?).public_key()))
}

/// The payload for these recipients; `bound`: what it belongs to.
pub(super) fn seal(
    plain: &[u8],
    recipients: &[Recipient],
    bound: &[u8],
) -> Result<(Vec<u8>, SealedTo), KeyringError> {
    let random = SystemRandom::new();
    let (mut key, mut seed, mut nonce) = (Zeroizing::new([0; KEY]), Zeroizing::new([0; KEY]), [0; NONCE]);
    for bytes in [key.as_mut_slice(), seed.as_mut_slice(), &mut nonce] {
        random.fill(bytes).map_err(|_| KeyringError::Cipher)?;
    }
    let sender = XKey::new_from_raw(*seed);
    let mut keys = BTreeMap::new();
    for recipient in recipients {
        let to = XKey::from_public_key(&recipient.0).map_err(|_| KeyringError::Cipher)?;
        let sealed = sender.seal(key.as_slice(), &to).map_err(|_| KeyringError::Cipher)?;
        keys.insert(recipient.0.clone(), Base64(sealed));
    }
    let mut body = Zeroizing::new(Vec::with_capacity(plain.len() + TAG));
    body.extend_from_slice(plain);
    cipher(&key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut *body)
        .map_err(|_| KeyringError::Cipher)?;
    Ok(([&nonce, body.as_slice()].concat(), SealedTo { sender: sender.public_key(), keys }))
}

/// The payload in plain text.
pub(super) fn open(keyring: &Keyring, envelope: &Envelope) -> Result<Zeroizing<Vec<u8>>, UpdatesError> {
    let Some(SealedTo { sender, keys }) = &envelope.sealed else {
        return Ok(Zeroizing::new(envelope.payload.clone()));
    };
    let malformed = |why: &str| Refusal::Malformed { why: why.to_owned() };
    let sender = XKey::from_public_key(sender).map_err(|_| malformed("the sender's key is none"))?;
    // The newest first: it is nearly always that.
    for version in keyring.versions(Purpose::Encryption)?.into_iter().rev() {
        let own = XKey::new_from_raw(*keyring.recipient_seed(version)?);
        let Some(sealed) = keys.get(&own.public_key()) else { continue };
        let refused = || Refusal::PayloadHash;
        let key = own.open(&sealed.0, &sender).map(Zeroizing::new).map_err(|_| refused())?;
        let key: Zeroizing<[u8; KEY]> = Zeroizing::new(key.as_slice().try_into().map_err(|_| refused())?);
        let mut body = Zeroizing::new(envelope.payload.clone());
        let nonce = *body.first_chunk::<NONCE>().ok_or_else(refused)?;
        let length = cipher(&key)?
            .open_within(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&envelope.head_bytes),
                &mut body,
                NONCE..,
            )
            .map_err(|_| refused())?
            .len();
        body.truncate(length);
        return Ok(body);
    }
    Err(Refusal::Recipient.into())
}

fn cipher(key: &[u8; KEY]) -> Result<LessSafeKey, KeyringError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| KeyringError::Cipher)
}
