//! Tokens taken apart and put together again, as forgers do with nothing but public keys.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// What precedes the modulus in the DER form of an RSA key of 2048 bits (SubjectPublicKeyInfo, RFC 3279).
const SPKI_HEAD: &[u8] = b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82\x01\x0f\x00\x30\x82\x01\x0a\x02\x82\x01\x01\x00";
/// What follows it: the exponent 65537.
const SPKI_TAIL: &[u8] = b"\x02\x03\x01\x00\x01";

/// A public RSA key of 2048 bits, in the forms in which somebody might take it for a secret.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// The modulus.
    pub modulus: Vec<u8>,
    /// As PEM.
    pub pem: String,
}

impl PublicKey {
    /// The first key of a key set.
    ///
    /// # Errors
    /// When that is no RSA key of 2048 bits.
    pub fn first_of(keys: &[u8]) -> Result<Self> {
        let keys: Value = serde_json::from_slice(keys)?;
        let modulus = URL_SAFE_NO_PAD.decode(keys["keys"][0]["n"].as_str().context("no RSA key")?)?;
        anyhow::ensure!(modulus.len() == 256, "a modulus of {} bytes", modulus.len());
        let text = STANDARD.encode([SPKI_HEAD, &modulus, SPKI_TAIL].concat());
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        Ok(Self { modulus, pem })
    }
}

/// A part of a token: its header (0) or its claims (1). `Null` if there is none.
#[must_use]
pub fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    part.and_then(|part| serde_json::from_slice(&part).ok()).unwrap_or_default()
}

/// A header or claims, as they stand in a token.
#[must_use]
pub fn encode(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

/// A token without a signature, which says so.
#[must_use]
pub fn unsigned(key_id: &Value, claims: &Value) -> String {
    format!("{}.{}.", encode(&json!({ "alg": "none", "typ": "JWT", "kid": key_id })), encode(claims))
}

/// A token with a MAC in the place of the signature, made with what everybody knows.
#[must_use]
pub fn hmac(key_id: &Value, claims: &Value, secret: &[u8]) -> String {
    let header = encode(&json!({ "alg": "HS256", "typ": "JWT", "kid": key_id }));
    let message = format!("{header}.{}", encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let mac = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_modulus_becomes_a_public_key_as_others_write_it() {
        let keys = json!({ "keys": [{ "n": URL_SAFE_NO_PAD.encode([0xab; 256]) }] }).to_string();
        let key = PublicKey::first_of(keys.as_bytes()).unwrap();
        let der = rustls_pemfile::public_keys(&mut key.pem.as_bytes()).next().unwrap().unwrap();
        assert_eq!(der.len(), 294);
        assert!(der[SPKI_HEAD.len()..].starts_with(&[0xab; 256]));
    }

    #[test]
    fn what_is_put_together_is_taken_apart_again() {
        let claims = json!({ "sub": "a" });
        for token in [unsigned(&json!("k"), &claims), hmac(&json!("k"), &claims, b"x")] {
            assert_eq!((part(&token, 0)["kid"].as_str(), part(&token, 1)), (Some("k"), claims.clone()));
        }
        assert_eq!(part("garbage", 1), Value::Null);
    }
}
