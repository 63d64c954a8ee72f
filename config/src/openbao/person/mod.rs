//! A person at an identity provider: by a code that is confirmed in a browser anywhere (RFC 8628).
//!
//! ```text
//! log_in ─► the flow of harmony-login ─► Session ─► file (0600)
//! session ─► from the file, renewed by its refresh token when it is about to end ─► file
//! ```
//!
//! What a person may do is decided by the store, which verifies the token. The role is read from the token only to
//! ask for it. Nothing here waits for a person, but [`Person::log_in`].

mod error;
mod http;

use std::{path::PathBuf, time::Duration};

use harmony_login::{Client, PrivateFile, Tokens, claims, is_fresh};
pub use harmony_login::{PersonError, Verification};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use error::ProviderError;

use super::{
    error::SettingsError,
    secret::Secret,
    settings::{OpenBaoSettings, ProviderToken},
    tls::{self, Trust},
    transport::secure,
};

/// Zitadel's claim with the roles.
const ROLES_CLAIM: &str = "urn:zitadel:iam:org:project:roles";
/// How long one request to the provider may take.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Who is logged in, for people to read. It decides nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The account at the provider, from its signed ID token.
    pub subject: Option<String>,
    /// The roles that the access token names.
    pub roles: Vec<String>,
    /// When the access token ends.
    pub expires: Timestamp,
    /// Whether it can be renewed without the person.
    pub renewable: bool,
}

/// Where a person logs in, and as which client.
#[derive(Debug)]
pub(super) struct Person {
    issuer: String,
    client_id: String,
    scopes: Vec<String>,
    audience: Option<String>,
    token: ProviderToken,
    roles_claim: String,
    file: PrivateFile,
    http: reqwest::Client,
}

/// What remains of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Session {
    /// Of which provider and client: another one's is not used.
    issuer: String,
    client_id: String,
    subject: Option<String>,
    access_token: Secret,
    id_token: Option<Secret>,
    refresh_token: Option<Secret>,
    expires: Timestamp,
}

impl Person {
    /// `None` when issuer or client are missing.
    pub(super) fn new(settings: &OpenBaoSettings) -> Result<Option<Self>, SettingsError> {
        let (Some(issuer), Some(client_id)) = (&settings.oidc_issuer, &settings.oidc_client_id) else {
            return Ok(None);
        };
        if !issuer.parse().is_ok_and(|url| secure(&url)) {
            let why = "expected a URL that begins with https://".to_owned();
            return Err(SettingsError::Value { name: "oidc-issuer", why });
        }
        let trust = settings.oidc_ca_file.as_deref().map_or(Trust::System, Trust::File);
        Ok(Some(Self {
            issuer: issuer.clone(),
            client_id: client_id.clone(),
            scopes: settings.oidc_scopes.clone().unwrap_or_default(),
            audience: settings.oidc_audience.clone(),
            token: settings.oidc_token.unwrap_or_default(),
            roles_claim: settings.roles_claim.clone().unwrap_or_else(|| ROLES_CLAIM.to_owned()),
            file: PrivateFile::at(cache_folder(settings)?.join("openbao-login.json")),
            http: tls::client(trust, ASK_WITHIN)?,
        }))
    }

    /// Logs in: shows the code, waits until it is confirmed, denied or too old, and keeps the session.
    pub(super) async fn log_in(
        &self,
        show: &mut (dyn FnMut(&Verification) + Send),
    ) -> Result<Who, ProviderError> {
        let tokens = self.client().log_in(&http::http(&self.http), show, tokio::time::sleep).await?;
        let session = self.session_of(tokens);
        let lock = self.file.lock().await?;
        self.file.save(&session)?;
        drop(lock);
        Ok(self.who(&session))
    }

    /// Forgets the session; whether there was one.
    pub(super) fn log_out(&self) -> Result<bool, ProviderError> {
        Ok(self.file.remove()?)
    }

    /// The session, with tokens that are good for a while; renewed if need be. Waits for no person.
    pub(super) async fn session(&self) -> Result<Session, ProviderError> {
        if let Some(session) = self.kept()?.filter(|session| session.is_fresh(Timestamp::now())) {
            return Ok(session);
        }
        let lock = self.file.lock().await?;
        // Another program may have renewed it meanwhile, or logged out.
        let known = self.kept()?.ok_or(ProviderError::NotLoggedIn)?;
        if known.is_fresh(Timestamp::now()) {
            return Ok(known);
        }
        let (refresh, subject) = (known.refresh_token.as_ref(), known.subject.as_deref());
        let renewed = self.client().refresh(&http::http(&self.http), refresh, subject).await?;
        let renewed = self.session_of(renewed);
        self.file.save(&renewed)?;
        drop(lock);
        Ok(renewed)
    }

    fn client(&self) -> Client<'_> {
        let Self { issuer, client_id, scopes, audience, .. } = self;
        Client { issuer, client_id, scopes, audience: audience.as_deref() }
    }

    fn session_of(&self, tokens: Tokens) -> Session {
        Session {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            subject: tokens.subject,
            access_token: tokens.access,
            id_token: tokens.id,
            refresh_token: tokens.refresh,
            expires: tokens.expires,
        }
    }

    /// The one role that the person has here.
    pub(super) fn only_role(&self, session: &Session) -> Result<String, String> {
        let roles = self.roles(session);
        match roles.as_slice() {
            [role] => Ok(role.clone()),
            [] => Err(format!(
                "the person has no role in the claim {}; set `role` (OPENBAO_ROLE)",
                self.roles_claim
            )),
            several => Err(format!(
                "the person has several roles, {}; set `role` (OPENBAO_ROLE)",
                several.join(", ")
            )),
        }
    }

    /// What the store gets.
    pub(super) fn token_of(&self, session: &Session) -> Result<Secret, String> {
        let found = match self.token {
            ProviderToken::Access => Some(session.access_token.clone()),
            ProviderToken::Id => session.id_token.clone(),
        };
        let token = found.ok_or("the identity provider gave no ID token")?;
        match claims(token.expose()) {
            Some(_) => Ok(token),
            None => Err(
                "the identity provider's access token is no JWT: let it issue JWTs for this client, or set \
                         `oidc-token` to id"
                    .to_owned(),
            ),
        }
    }

    pub(super) fn who(&self, session: &Session) -> Who {
        Who {
            subject: session.subject.clone(),
            roles: self.roles(session),
            expires: session.expires,
            renewable: session.refresh_token.is_some(),
        }
    }

    fn roles(&self, session: &Session) -> Vec<String> {
        let tokens = [Some(&session.access_token), session.id_token.as_ref()];
        let claims = tokens.into_iter().flatten().filter_map(|token| claims(token.expose()));
        let found = claims.into_iter().find_map(|claims| claims.get(&self.roles_claim).cloned());
        harmony_login::roles(found.as_ref())
    }

    /// What is kept of this provider and client.
    fn kept(&self) -> Result<Option<Session>, ProviderError> {
        let ours = |session: &Session| session.issuer == self.issuer && session.client_id == self.client_id;
        Ok(self.file.load()?.filter(ours))
    }
}

impl Session {
    fn is_fresh(&self, now: Timestamp) -> bool {
        is_fresh(self.expires, now)
    }
}

fn cache_folder(settings: &OpenBaoSettings) -> Result<PathBuf, SettingsError> {
    if let Some(folder) = &settings.cache_folder {
        return Ok(folder.clone());
    }
    let folders = directories::BaseDirs::new().ok_or_else(|| SettingsError::Value {
        name: "cache-folder",
        why: "the user has no home folder, so it has to be set".to_owned(),
    })?;
    Ok(folders.data_dir().join("harmony").join("config"))
}
