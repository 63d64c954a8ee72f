//! The sealed request to enroll, and its answer.
//!
//! ```text
//! byte 0      version, 1
//! bytes 1-56  the sender's public curve key, X…
//! rest        NaCl box: JSON of EnrollRequest (to the enroller's key), or of EnrollReply (to the device's)
//! ```
//!
//! A box can be reflected and moved, so the statement inside repeats the door through which it comes, and
//! the answer repeats the statement's nonce.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::{KeyPair, XKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{door::Door, token::EnrollmentToken};
use crate::{
    keys::{CurveKey, IdentityKey, SignedKeyStatement},
    message::Refusal,
    name::DeviceName,
};

/// Largest sealed request or answer, in bytes: a certificate request and the fleet's keys fit many times.
pub const MAX_ENROLL_MESSAGE: usize = 32 * 1024;
const VERSION: u8 = 1;
const KEY_LENGTH: usize = 56;
const SIGNATURE_DOMAIN: &[u8] = b"harmony-fleet enrollment request v1\n";
const ROTATION_DOMAIN: &[u8] = b"harmony-fleet key rotation v1\n";

/// Why a request or an answer was not made or not believed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is too long, too short or of another version.
    #[error("not a sealed enrollment message: {0}")]
    Frame(&'static str),
    /// The box does not open: other keys, or damaged on the way.
    #[error("the enrollment message cannot be opened with this key")]
    Box,
    /// What it contains is no JSON of the expected shape.
    #[error("the enrollment message cannot be read: {0}")]
    Json(#[source] serde_json::Error),
    /// The statement was made for another way in.
    #[error("the request was made for another subject than the one it came by")]
    Door,
    /// The statement is not signed by the key that it names.
    #[error("the request is not signed by the identity key that it names")]
    Signature,
    /// The box came from another key than the statement names.
    #[error("the request was sealed with another curve key than the one it names")]
    Sender,
    /// The answer belongs to another request.
    #[error("the answer belongs to another request")]
    Nonce,
    /// A key could not be used.
    #[error("a key cannot be used: {0}")]
    Key(String),
}

/// What the device says of itself: signed as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollStatement {
    /// The subject of the request, so that it passes through no other door.
    pub subject: String,
    /// Random; the answer repeats it.
    pub nonce: String,
    /// The name that the device wants, or has.
    pub device: DeviceName,
    /// The (new) identity key.
    pub identity_key: IdentityKey,
    /// The (new) curve key.
    pub curve_key: CurveKey,
}

/// What shows that the wish is legitimate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// HMAC with the token's secret over the statement, URL-safe base64.
    Token(String),
    /// A PKCS#10 request (PEM), signed by the identity key with the device's name as common name: somebody
    /// has to approve it.
    CertificateRequest(String),
    /// The old identity key's signature over the statement, URL-safe base64.
    Rotation(String),
}

/// A request as it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollRequest {
    /// JSON of an [`EnrollStatement`], exactly as signed.
    pub statement: String,
    /// The identity key's signature over the statement, URL-safe base64.
    pub signature: String,
    /// Why it should be granted.
    pub proof: Proof,
}

/// What became of the wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The device is a member, with the keys of the statement.
    Enrolled,
    /// Somebody has to approve it first: ask again later. For people: what they are to do.
    Pending(String),
    /// No.
    Refused(Refusal),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrollReply {
    /// The nonce of the statement.
    pub nonce: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The newest statement of the fleet's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SignedKeyStatement>,
}

impl EnrollStatement {
    /// With a fresh nonce, for a door.
    pub fn new(door: &Door, device: DeviceName, identity_key: IdentityKey, curve_key: CurveKey) -> Self {
        let nonce: [u8; 16] = rand::random();
        Self {
            subject: door.subject(),
            nonce: URL_SAFE_NO_PAD.encode(nonce),
            device,
            identity_key,
            curve_key,
        }
    }

    fn signed(&self, identity: &KeyPair) -> Result<(String, String), SealError> {
        let statement = serde_json::to_string(self).map_err(SealError::Json)?;
        let signature = sign(identity, SIGNATURE_DOMAIN, &statement)?;
        Ok((statement, signature))
    }

    /// A request that a token's secret vouches for.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn with_token(
        &self,
        identity: &KeyPair,
        token: &EnrollmentToken,
    ) -> Result<EnrollRequest, SealError> {
        let (statement, signature) = self.signed(identity)?;
        let proof = Proof::Token(URL_SAFE_NO_PAD.encode(token.mac(&statement)));
        Ok(EnrollRequest { statement, signature, proof })
    }

    /// A request that somebody has to approve.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn with_certificate_request(
        &self,
        identity: &KeyPair,
        pem: String,
    ) -> Result<EnrollRequest, SealError> {
        let (statement, signature) = self.signed(identity)?;
        Ok(EnrollRequest { statement, signature, proof: Proof::CertificateRequest(pem) })
    }

    /// A request for new keys that the old identity key vouches for.
    ///
    /// # Errors
    /// When a key cannot sign.
    pub fn with_rotation(&self, identity: &KeyPair, old: &KeyPair) -> Result<EnrollRequest, SealError> {
        let (statement, signature) = self.signed(identity)?;
        let proof = Proof::Rotation(sign(old, ROTATION_DOMAIN, &statement)?);
        Ok(EnrollRequest { statement, signature, proof })
    }
}

impl EnrollRequest {
    /// Whether the token's secret vouches for it.
    pub fn vouched_by_token(&self, token: &EnrollmentToken) -> bool {
        let Proof::Token(mac) = &self.proof else { return false };
        URL_SAFE_NO_PAD.decode(mac).is_ok_and(|mac| token.accepts(&self.statement, &mac))
    }

    /// Whether the old identity key vouches for it.
    pub fn vouched_by_key(&self, old: &IdentityKey) -> bool {
        let Proof::Rotation(signature) = &self.proof else { return false };
        verifies(old, ROTATION_DOMAIN, &self.statement, signature)
    }
}

/// Seals a request to the enroller.
///
/// # Errors
/// When it is too large or the keys cannot be used.
pub fn seal_request(request: &EnrollRequest, own: &XKey, enroller: &CurveKey) -> Result<Vec<u8>, SealError> {
    seal(request, own, enroller)
}

/// Opens a request that came through `door`, and checks that its sender holds the keys that it names. What
/// the proof is worth, the caller decides.
///
/// # Errors
/// [`SealError`]: nothing of it is to be believed.
pub fn open_request(
    message: &[u8],
    door: &Door,
    own: &XKey,
) -> Result<(EnrollStatement, EnrollRequest), SealError> {
    let (sender, request): (CurveKey, EnrollRequest) = open(message, own)?;
    let statement: EnrollStatement = serde_json::from_str(&request.statement).map_err(SealError::Json)?;
    if statement.subject != door.subject() {
        return Err(SealError::Door);
    }
    if statement.curve_key != sender {
        return Err(SealError::Sender);
    }
    if !verifies(&statement.identity_key, SIGNATURE_DOMAIN, &request.statement, &request.signature) {
        return Err(SealError::Signature);
    }
    Ok((statement, request))
}

/// Seals an answer to the device's curve key.
///
/// # Errors
/// When it is too large or the keys cannot be used.
pub fn seal_reply(reply: &EnrollReply, own: &XKey, device: &CurveKey) -> Result<Vec<u8>, SealError> {
    seal(reply, own, device)
}

/// Opens the enroller's answer to `statement`.
///
/// # Errors
/// [`SealError`]: nothing of it is to be believed.
pub fn open_reply(
    message: &[u8],
    statement: &EnrollStatement,
    own: &XKey,
    enroller: &CurveKey,
) -> Result<EnrollReply, SealError> {
    let (sender, reply): (CurveKey, EnrollReply) = open(message, own)?;
    if sender != *enroller {
        return Err(SealError::Sender);
    }
    if reply.nonce != statement.nonce {
        return Err(SealError::Nonce);
    }
    Ok(reply)
}

fn seal<T: Serialize>(body: &T, own: &XKey, to: &CurveKey) -> Result<Vec<u8>, SealError> {
    let body = serde_json::to_vec(body).map_err(SealError::Json)?;
    let to = to.xkey().map_err(|error| SealError::Key(error.to_string()))?;
    let sealed = own.seal(&body, &to).map_err(|error| SealError::Key(error.to_string()))?;
    let message = [&[VERSION], own.public_key().as_bytes(), &sealed].concat();
    if message.len() > MAX_ENROLL_MESSAGE {
        return Err(SealError::Frame("it is larger than 32 KiB"));
    }
    Ok(message)
}

fn open<T: DeserializeOwned>(message: &[u8], own: &XKey) -> Result<(CurveKey, T), SealError> {
    if message.len() > MAX_ENROLL_MESSAGE {
        return Err(SealError::Frame("it is larger than 32 KiB"));
    }
    let Some((&[VERSION], rest)) = message.split_at_checked(1) else {
        return Err(SealError::Frame("it is of another version"));
    };
    let (sender, sealed) = rest.split_at_checked(KEY_LENGTH).ok_or(SealError::Frame("it is cut off"))?;
    let sender: CurveKey = std::str::from_utf8(sender)
        .ok()
        .and_then(|sender| sender.parse().ok())
        .ok_or(SealError::Frame("the sender's curve key is none"))?;
    let key = sender.xkey().map_err(|error| SealError::Key(error.to_string()))?;
    let body = own.open(sealed, &key).map_err(|_| SealError::Box)?;
    Ok((sender, serde_json::from_slice(&body).map_err(SealError::Json)?))
}

fn sign(key: &KeyPair, domain: &[u8], statement: &str) -> Result<String, SealError> {
    key.sign(&[domain, statement.as_bytes()].concat())
        .map(|signature| URL_SAFE_NO_PAD.encode(signature))
        .map_err(|error| SealError::Key(error.to_string()))
}

fn verifies(key: &IdentityKey, domain: &[u8], statement: &str, signature: &str) -> bool {
    URL_SAFE_NO_PAD
        .decode(signature)
        .is_ok_and(|signature| key.verifies(&[domain, statement.as_bytes()].concat(), &signature))
}
