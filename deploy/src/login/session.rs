//! What remains of a login: the tokens, and whose they are.

use harmony_login::{Secret, claims, is_fresh, roles};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Settings, Tokens};

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
    pub(super) fn new(settings: &Settings, tokens: Tokens) -> Self {
        Self {
            settings: settings.clone(),
            subject: tokens.subject,
            access_token: tokens.access,
            refresh_token: tokens.refresh,
            expires: tokens.expires,
        }
    }

    /// Whether the access token can be used for a while.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        is_fresh(self.expires, now)
    }

    /// What the tokens say. It is shown and never decides anything: whoever gets the token verifies it.
    pub fn who(&self, roles_claim: &str) -> Who {
        let claims = claims(self.access_token.expose());
        let text = |claim: &str| Some(claims.as_ref()?.get(claim)?.as_str()?.to_owned());
        let roles = roles(claims.as_ref().and_then(|claims| claims.get(roles_claim)));
        Who {
            subject: self.subject.clone().or_else(|| text("sub")).unwrap_or_else(|| "unknown".to_owned()),
            issuer: self.settings.issuer.clone(),
            roles,
            expires: self.expires,
            renewable: self.refresh_token.is_some(),
        }
    }
}
