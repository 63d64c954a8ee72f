//! The envelope of all NATS JWTs.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Largest token that is looked at, in bytes. A request holds a CONNECT of at most 4 KiB (the server's
/// `max_control_line`) and little else; client certificates are not used here.
pub const MAX_TOKEN: usize = 64 * 1024;

/// The version of claims that is written and read.
pub(super) const VERSION: u8 = 2;

/// `{"typ":"JWT","alg":"ed25519-nkey"}`
const HEADER: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ";
const ALGORITHM: &str = "ed25519-nkey";

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is larger than [`MAX_TOKEN`].
    #[error("the token has {0} bytes, at most {MAX_TOKEN} are read")]
    TooLarge(usize),
    /// It is not `header.payload.signature` in URL-safe base64.
    #[error("not a token: expected three parts of URL-safe base64")]
    Shape,
    /// The header is not that of a NATS JWT of version 2.
    #[error("the token's header is not that of a NATS JWT with alg ed25519-nkey")]
    Header,
    /// A part is no JSON, or lacks a field.
    #[error("the token's {part} cannot be read: {reason}")]
    Json {
        /// `header` or `payload`.
        part: &'static str,
        /// What the parser said; no values.
        reason: String,
    },
    /// The issuer is not a key of the kind that may issue this.
    #[error("the token's issuer is not the public key of a {0}")]
    Issuer(&'static str),
    /// The signature is not the issuer's.
    #[error("the token is not signed by its issuer")]
    Signature,
}

#[derive(Deserialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
}

/// Claims that name who issued them.
pub(super) trait Issued {
    fn issuer(&self) -> &str;
}

/// Decodes a token that a server must have signed, and checks the signature.
///
/// The payload is read before the signature is checked, since it names the key.
pub(super) fn decode_from_server<T: DeserializeOwned + Issued>(token: &[u8]) -> Result<T, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLarge(token.len()));
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Shape);
    };
    check_header(header)?;
    let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Shape);
    // Clients' bearer tokens are in it.
    let plain = Zeroizing::new(decode(payload)?);
    let claims: T = serde_json::from_slice(&plain)
        .map_err(|error| TokenError::Json { part: "payload", reason: describe(&error) })?;
    let issuer = match KeyPair::from_public_key(claims.issuer()) {
        Ok(issuer) if issuer.key_pair_type() == KeyPairType::Server => issuer,
        _ => return Err(TokenError::Issuer("server")),
    };
    let signed = &token[..header.len() + 1 + payload.len()];
    issuer.verify(signed, &decode(signature)?).map_err(|_| TokenError::Signature)?;
    Ok(claims)
}

fn check_header(header: &[u8]) -> Result<(), TokenError> {
    if header == HEADER.as_bytes() {
        return Ok(());
    }
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Shape)?;
    let header: Header<'_> = serde_json::from_slice(&header)
        .map_err(|error| TokenError::Json { part: "header", reason: describe(&error) })?;
    if header.typ.eq_ignore_ascii_case("jwt") && header.alg == ALGORITHM {
        Ok(())
    } else {
        Err(TokenError::Header)
    }
}

/// Signs a payload.
pub(super) fn encode(payload: &str, issuer: &KeyPair) -> Result<String, nkeys::error::Error> {
    let mut token = String::with_capacity(HEADER.len() + payload.len() * 4 / 3 + 96);
    token.push_str(HEADER);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = issuer.sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(token)
}

/// Where and why, but never what: serde repeats values, and values may be secrets.
fn describe(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Io => "input ended",
        serde_json::error::Category::Syntax => "syntax",
        serde_json::error::Category::Data => "a field is missing, doubled or of a wrong type",
        serde_json::error::Category::Eof => "it ends too early",
    };
    format!("{what}, at column {}", error.column())
}
