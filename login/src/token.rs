//! What a provider gave, and what can be read in it without believing it.

use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use crate::Secret;

/// How much of its life a token must have left to be used.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// The tokens of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The account at the provider, from its signed ID token; `None` when it gave none.
    pub subject: Option<String>,
    /// For whoever asks who this is.
    pub access: Secret,
    /// The signed one, where the provider gave one.
    pub id: Option<Secret>,
    /// Renews the others; good once with most providers.
    pub refresh: Option<Secret>,
    /// When the access token ends.
    pub expires: Timestamp,
}

/// Whether a token that ends then can be used for a while.
#[must_use]
pub fn is_fresh(expires: Timestamp, now: Timestamp) -> bool {
    now.checked_add(MARGIN).is_ok_and(|soon| soon < expires)
}

/// The claims of a JWT, not verified: that is the business of those who get it. `None` for a token that only its
/// provider can read.
#[must_use]
pub fn claims(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, body, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).ok()?).ok()
}

/// The roles in a claim. Zitadel writes an object of role to organizations; others a list.
#[must_use]
pub fn roles(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::Object(roles)) => roles.keys().cloned().collect(),
        Some(Value::Array(roles)) => {
            roles.iter().filter_map(|role| role.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}
