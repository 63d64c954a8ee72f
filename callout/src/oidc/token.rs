//! What a token says, and whether it may say so: a pure function of text, keys and the time.
//!
//! Access tokens here are JWTs as RFC 9068 has them, ID tokens of the same issuer pass as well; a `nonce` or
//! `azp` has no meaning, because the connection's own nonce is signed by a key. The cheap questions (size,
//! algorithm, issuer, audience, times) come before the signature, so that most garbage costs nothing; none
//! of them decides for a token, all of them can decide against it.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use openidconnect::core::CoreJwsSigningAlgorithm;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{OidcError, Verified};

/// Largest token, in bytes. A person with hundreds of roles has a few thousand.
pub(super) const MAX_TOKEN: usize = 16 * 1024;
/// By how much clocks may differ.
const SKEW: SignedDuration = SignedDuration::from_secs(60);
/// Longest subject, in bytes. Issuers are held to 255 (OpenID Connect Core §2).
const MAX_SUBJECT: usize = 255;

/// A token that was taken apart. Nothing in it is believed.
pub(super) struct Token<'a> {
    /// Which key it says it was signed with.
    pub(super) key_id: Option<String>,
    /// One of the three algorithms that are accepted.
    pub(super) algorithm: CoreJwsSigningAlgorithm,
    /// What was signed.
    pub(super) message: &'a [u8],
    /// The signature.
    pub(super) signature: Vec<u8>,
    claims: Map<String, Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    cty: Option<Value>,
    crit: Option<Value>,
}

fn malformed(reason: &'static str) -> OidcError {
    OidcError::Malformed(reason)
}

impl<'a> Token<'a> {
    /// Takes a compact JWS apart.
    pub(super) fn parse(text: &'a str) -> Result<Self, OidcError> {
        if text.len() > MAX_TOKEN {
            return Err(malformed("it is larger than 16 KiB"));
        }
        let (message, signature) = text.rsplit_once('.').ok_or(malformed("it is no JWT"))?;
        let (header, claims) = message.split_once('.').ok_or(malformed("it is no JWT"))?;
        if claims.contains('.') {
            return Err(malformed("it is encrypted, or no JWT"));
        }
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| malformed("its header cannot be read"))?;
        let algorithm = algorithm(&header.alg)?;
        // Extensions that have to be understood, and tokens within tokens, are not.
        if header.crit.is_some() || header.cty.is_some() {
            return Err(malformed("its header asks for something that is not supported"));
        }
        if !header.typ.as_deref().is_none_or(is_token_type) {
            return Err(malformed("its type is not that of an access or ID token"));
        }
        let claims =
            serde_json::from_slice(&decode(claims)?).map_err(|_| malformed("its claims cannot be read"))?;
        let signature = decode(signature)?;
        Ok(Self { key_id: header.kid, algorithm, message: message.as_bytes(), signature, claims })
    }

    /// Everything but the signature.
    pub(super) fn check(
        &self,
        issuer: &str,
        audience: &str,
        roles_claim: &str,
        now: Timestamp,
    ) -> Result<Verified, OidcError> {
        if self.text("iss") != Some(issuer) {
            return Err(OidcError::Issuer);
        }
        let for_us = match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        if !for_us {
            return Err(OidcError::Audience);
        }
        let expires = self.time("exp")?.ok_or(malformed("it has no expiry"))?;
        if expires.saturating_add(SKEW).is_ok_and(|end| end <= now) {
            return Err(OidcError::Expired { at: expires });
        }
        for claim in ["nbf", "iat"] {
            if let Some(from) = self.time(claim)?
                && from.saturating_sub(SKEW).is_ok_and(|start| start > now)
            {
                return Err(OidcError::NotYetValid { from });
            }
        }
        let subject = self.text("sub").unwrap_or_default();
        if subject.is_empty() || subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control) {
            return Err(malformed("its subject is missing, too long or not text"));
        }
        Ok(Verified { subject: subject.to_owned(), roles: self.roles(roles_claim)?, expires })
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// A NumericDate (RFC 7519 §2), which may have a fraction.
    fn time(&self, claim: &str) -> Result<Option<Timestamp>, OidcError> {
        let wrong = malformed("a time in it is not a number of seconds");
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let seconds = match (value.as_i64(), value.as_f64()) {
            (Some(seconds), _) => seconds,
            #[expect(clippy::cast_possible_truncation, reason = "saturates, and jiff refuses the ends")]
            (None, Some(seconds)) => seconds.floor() as i64,
            (None, None) => return Err(wrong),
        };
        Timestamp::from_second(seconds).map(Some).map_err(|_| wrong)
    }

    /// Zitadel writes an object whose keys are the roles; others write an array. Nothing else is guessed
    /// at: a claim of another shape is a wrong setting, and silently no roles would hide it.
    fn roles(&self, claim: &str) -> Result<BTreeSet<String>, OidcError> {
        match self.claims.get(claim) {
            None | Some(Value::Null) => Ok(BTreeSet::new()),
            Some(Value::Object(roles)) => Ok(roles.keys().cloned().collect()),
            Some(Value::Array(roles)) => roles
                .iter()
                .map(|role| role.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or(malformed("its roles are not all text")),
            Some(_) => Err(malformed("its roles are neither an object nor an array")),
        }
    }
}

/// Who says to have issued it. For choosing a verifier, and nothing else.
pub(super) fn issuer(text: &str) -> Option<String> {
    if text.len() > MAX_TOKEN {
        return None;
    }
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    let claims = text.split('.').nth(1)?;
    Some(serde_json::from_slice::<Issued>(&decode(claims).ok()?).ok()?.iss)
}

/// Asymmetric ones only: with an HMAC, the public key would be the secret, and `none` needs no key at all.
fn algorithm(name: &str) -> Result<CoreJwsSigningAlgorithm, OidcError> {
    match name {
        "RS256" => Ok(CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256),
        "ES256" => Ok(CoreJwsSigningAlgorithm::EcdsaP256Sha256),
        "EdDSA" => Ok(CoreJwsSigningAlgorithm::EdDsa),
        _ => Err(OidcError::Algorithm),
    }
}

/// What a logout token or a signed event is called must not pass as a token (RFC 9068 §2.1, RFC 8725 §3.11).
fn is_token_type(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.strip_prefix("application/").unwrap_or(&name), "jwt" | "at+jwt")
}

fn decode(part: &str) -> Result<Vec<u8>, OidcError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("it is not base64url"))
}
