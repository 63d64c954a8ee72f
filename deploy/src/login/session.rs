//! What remains of a login: the tokens, and whose they are.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::Settings;

/// How much of its life a token must have left to be used.
const MARGIN: SignedDuration = SignedDuration::from_secs(60);

/// A token. `Debug` does not show it, and its memory is wiped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The token itself, to be sent and not to be shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

/// A person's login, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Where, as which client: what a renewal needs.
    pub settings: Settings,
    /// The account at the provider, from its signed ID token; `None` when it gave none.
    pub subject: Option<String>,
    /// For whoever asks who this is.
    pub access_token: Secret,
    /// Renews the other; each is good once with most providers.
    pub refresh_token: Option<Secret>,
    /// When the access token ends.
    pub expires: Timestamp,
}

/// Who a session belongs to, for people to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Who {
    /// The account at the provider.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// The roles in the access token.
    pub roles: Vec<String>,
    /// When the access token ends.
    pub expires: Timestamp,
    /// Whether it can be renewed without the person.
    pub renewable: bool,
}

impl Session {
    /// Whether the access token can be used for a while.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now.checked_add(MARGIN).is_ok_and(|soon| soon < self.expires)
    }

    /// What the tokens say. It is shown and never decides anything: whoever gets the token verifies it.
    pub fn who(&self, roles_claim: &str) -> Who {
        let claims = claims(self.access_token.expose());
        let text = |claim: &str| Some(claims.as_ref()?.get(claim)?.as_str()?.to_owned());
        let roles = match claims.as_ref().and_then(|claims| claims.get(roles_claim)) {
            Some(serde_json::Value::Object(roles)) => roles.keys().cloned().collect(),
            Some(serde_json::Value::Array(roles)) => {
                roles.iter().filter_map(|role| role.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        };
        Who {
            subject: self.subject.clone().or_else(|| text("sub")).unwrap_or_else(|| "unknown".to_owned()),
            issuer: self.settings.issuer.clone(),
            roles,
            expires: self.expires,
            renewable: self.refresh_token.is_some(),
        }
    }
}

/// Providers may give access tokens that nobody but they can read.
fn claims(token: &str) -> Option<serde_json::Value> {
    let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}
