//! A machine's registered key, and the assertions that it signs (RFC 7523).

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls_pemfile::Item;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::OidcError;

/// How long an assertion is good. It is used at once; the rest is for clocks that differ.
const ASSERTION_LIFETIME: i64 = 60;

/// What Zitadel writes for the key of a service user. Other fields are of no use here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyFile {
    key_id: String,
    #[serde(deserialize_with = "super::wiped")]
    key: Zeroizing<String>,
    user_id: String,
}

/// A key that the provider knows by its id.
pub(super) struct MachineKey {
    pub(super) user_id: String,
    key_id: String,
    pair: Pair,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl MachineKey {
    /// Reads the JSON key file. The key in it is RSA (PKCS #1 or PKCS #8) or Ed25519 (PKCS #8), as PEM.
    pub(super) fn load(file: &Path) -> Result<Self, OidcError> {
        let wrong = |reason: &str| OidcError::KeyFile { file: file.to_owned(), reason: reason.to_owned() };
        let text = std::fs::read(file).map(Zeroizing::new).map_err(|error| wrong(&error.to_string()))?;
        // What serde says could repeat parts of the key.
        let parsed: KeyFile = serde_json::from_slice(&text)
            .map_err(|error| wrong(&format!("line {}: it is not such a JSON file", error.line())))?;
        let pair = Pair::from_pem(&parsed.key).map_err(wrong)?;
        Ok(Self { user_id: parsed.user_id, key_id: parsed.key_id, pair })
    }

    /// A JWT that says "I am this user", for the provider `audience` alone, at `now` (seconds since 1970).
    pub(super) fn assertion(&self, audience: &str, now: i64) -> Result<Zeroizing<String>, OidcError> {
        let header = serde_json::json!({ "alg": self.pair.algorithm(), "typ": "JWT", "kid": self.key_id });
        let claims = serde_json::json!({
            "iss": self.user_id, "sub": self.user_id, "aud": audience,
            "iat": now, "exp": now + ASSERTION_LIFETIME,
        });
        let mut jwt = Zeroizing::new(format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        ));
        let signature = self.pair.sign(jwt.as_bytes())?;
        jwt.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut jwt);
        Ok(jwt)
    }
}

impl Pair {
    fn from_pem(pem: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "`key` is neither an RSA key of 2048 to 4096 bits nor an Ed25519 key";
        match rustls_pemfile::read_one(&mut pem.as_bytes()).map_err(|_| "`key` is not PEM")? {
            Some(Item::Pkcs1Key(der)) => RsaKeyPair::from_der(der.secret_pkcs1_der())
                .map(|pair| Self::Rsa(Box::new(pair)))
                .map_err(|_| EXPECTED),
            Some(Item::Pkcs8Key(der)) => {
                let der = der.secret_pkcs8_der();
                if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    return Ok(Self::Ed25519(Box::new(pair)));
                }
                RsaKeyPair::from_pkcs8(der).map(|pair| Self::Rsa(Box::new(pair))).map_err(|_| EXPECTED)
            }
            _ => Err("`key` is not the PEM of a private key"),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, OidcError> {
        match self {
            Self::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| OidcError::Settings("the RSA key cannot sign".to_owned()))?;
                Ok(signature)
            }
        }
    }
}
