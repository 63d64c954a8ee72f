//! The form of an update.
//!
//! ```text
//! {"format":1,
//!  "head":"<base64url of JSON: keyId, audience, epoch, issued, expires, payloadHash>",
//!  "signature":"<base64url: Ed25519 of "harmony-config update 1\0" and the bytes of head>",
//!  "payload":"<base64url of JSON: salt, items [key, schemaVersion, values]>",
//!  "sealed":{"sender":"X…","keys":{"X…":"<base64url>"}}}     only where the payload is encrypted
//! ```
//!
//! The signature is over the head alone, so that a stranger's megabyte costs one check of a few hundred bytes. The head
//! has the hash of the payload in plain text: so what is sealed to a recipient can be sealed anew with a key of its own
//! and still be verified. The salt keeps that hash from telling what is in the payload.
//!
//! Parsing says what is there, never whether it may be used.

use std::{collections::BTreeMap, fmt, str::FromStr};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::Timestamp;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{key::Key, model::SchemaVersion, source::Document};

/// Largest envelope in bytes: what NATS carries by default.
pub const LIMIT: usize = 1 << 20;
pub(super) const FORMAT: u32 = 1;
const PREFIX: &str = "ed25519:";
const PUBLIC_KEY: usize = 32;

/// A public key whose signatures can be trusted, as text `ed25519:<base64url>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; PUBLIC_KEY]);

/// A text is no public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no public key of a signer: those look like ed25519:<43 characters>, as the signer's machine shows it"
)]
pub struct BadPublicKey;

impl PublicKey {
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Short name of the key: first half of its hash.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(HEXLOWER.encode(&Sha256::digest(self.0)[..8]))
    }

    pub(super) fn verifies(&self, head: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&signed(head), signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let bytes = text.strip_prefix(PREFIX).and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
        bytes.and_then(|bytes| Self::from_bytes(&bytes)).ok_or(BadPublicKey)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = BadPublicKey;

    fn try_from(text: String) -> Result<Self, BadPublicKey> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// Short name of a public key: 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a stranger's text.
        self.0.chars().take(16).try_for_each(|letter| write!(out, "{}", letter.escape_default()))
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// Which key has signed.
    pub key_id: KeyId,
    /// For whom it is.
    pub audience: String,
    /// Grows with each update for an audience.
    pub epoch: u64,
    /// When it was signed, by the signer's clock.
    pub issued: Timestamp,
    /// Until when it may be delivered, by the receiver's clock.
    pub expires: Timestamp,
    /// SHA-256 of the payload in plain text, in hex.
    pub payload_hash: String,
}

/// What is delivered.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    pub(super) head: Head,
    /// As it was signed.
    pub(super) head_bytes: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// Plain, or `nonce | ciphertext | tag`.
    pub(super) payload: Vec<u8>,
    pub(super) sealed: Option<SealedTo>,
}

/// To whom the payload is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealedTo {
    /// A key of this update alone.
    pub(super) sender: String,
    /// The payload's key, sealed to each recipient.
    pub(super) keys: BTreeMap<String, Base64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    head: Base64,
    signature: Base64,
    payload: Base64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedTo>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Bytes as base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Base64(pub(super) Vec<u8>);

impl TryFrom<String> for Base64 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        BASE64URL_NOPAD.decode(text.as_bytes()).map(Self).map_err(|_| "no base64url")
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        BASE64URL_NOPAD.encode(&bytes.0)
    }
}

/// Why bytes are no update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadEnvelope {
    #[error("it has {0} bytes")]
    TooLarge(usize),
    #[error("{0}")]
    Malformed(String),
}

impl Envelope {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadEnvelope> {
        if bytes.len() > LIMIT {
            return Err(BadEnvelope::TooLarge(bytes.len()));
        }
        let Format { format } = read("the envelope", bytes)?;
        if format != FORMAT {
            return Err(BadEnvelope::Malformed(format!(
                "it has format {format}, and {FORMAT} is known here"
            )));
        }
        let written: Written = read("the envelope", bytes)?;
        let head = read("the head", &written.head.0)?;
        Ok(Self {
            head,
            head_bytes: written.head.0,
            signature: written.signature.0,
            payload: written.payload.0,
            sealed: written.sealed,
        })
    }

    pub(super) fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Written {
            format: FORMAT,
            head: Base64(self.head_bytes.clone()),
            signature: Base64(self.signature.clone()),
            payload: Base64(self.payload.clone()),
            sealed: self.sealed.clone(),
        })
    }
}

/// What the signature is over.
pub(super) fn signed(head: &[u8]) -> Vec<u8> {
    [b"harmony-config update 1\0", head].concat()
}

/// As it stands in the head.
pub(super) fn hash(payload: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(payload))
}

/// The values.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Payload {
    /// Random, 16 bytes.
    pub(super) salt: Base64,
    /// One for each model.
    pub(super) items: Vec<WrittenItem>,
}

/// The values of one model.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenItem {
    pub(super) key: Key,
    pub(super) schema_version: SchemaVersion,
    pub(super) values: Document,
}

// Values may be secret.
impl fmt::Debug for Payload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.keys()).finish()
    }
}

impl Payload {
    pub(super) fn parse(plain: &[u8]) -> Result<Self, BadEnvelope> {
        let payload: Self = read("the payload", plain)?;
        let mut keys: Vec<_> = payload.keys().collect();
        keys.sort_unstable();
        if keys.windows(2).any(|two| two.first() == two.last()) {
            return Err(BadEnvelope::Malformed("two items have one key".to_owned()));
        }
        Ok(payload)
    }

    pub(super) fn item(&self, key: &Key) -> Option<&WrittenItem> {
        self.items.iter().find(|item| item.key == *key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.items.iter().map(|item| &item.key)
    }

    /// The models whose values differ.
    pub(super) fn difference(before: Option<&Self>, after: Option<&Self>) -> Vec<Key> {
        let both = [before, after].into_iter().flatten();
        let mut keys: Vec<_> = both.flat_map(Self::keys).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        let values =
            |payload: Option<&Self>, key: &Key| payload.and_then(|payload| payload.item(key)).cloned();
        keys.retain(|key| values(before, key) != values(after, key));
        keys
    }
}

/// Says where JSON broke off, never what stands there: that may be secret.
fn read<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, BadEnvelope> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let why = match error.classify() {
            serde_json::error::Category::Data => "does not have the fields that it should",
            _ => "is no JSON",
        };
        BadEnvelope::Malformed(format!("{what} {why} (line {line}, column {column})"))
    })
}
