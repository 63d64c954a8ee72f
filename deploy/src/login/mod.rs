//! Logs a person in at the fleet's identity provider: by a code that is confirmed in a browser anywhere.
//!
//! ```text
//! device_flow ─► code, shown by a Prompt ─► polls as the provider says ─► Session ─► Store (0600)
//! load ─► Session, renewed by its refresh token when it is about to end ─► Store
//! ```
//!
//! It owns the session's file and the credential made of it, and nothing else: what a person may do is decided by those who verify the
//! token. Tokens never appear in errors, logs or `Debug`.

mod credential;
mod error;
mod session;
mod store;

use std::{future::Future, path::PathBuf, time::Duration};

use fleet_daemon::oidc::http::{HttpClient, allowed};
use harmony_login::{Client, Http, Tokens};
pub use harmony_login::{PersonError, Secret, Verification};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use credential::Reach;
pub use error::LoginError;
pub use session::{Session, Who};
pub use store::Store;

/// How long one request to the provider may take.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Where people log in, and as which client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The provider's URL, exactly as its tokens have it in `iss`.
    pub issuer: String,
    /// The public client that is registered for `fleet`.
    pub client_id: String,
    /// What is asked for besides `openid` and `offline_access`. With Zitadel the audience is one of them:
    /// `urn:zitadel:iam:org:project:id:<project>:aud`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Sent as the parameter `audience`, for providers that want it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// CA of the provider's certificate (PEM), and the only one trusted; the system's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// Shows a person what to do.
pub trait Prompt {
    /// Called once, before the waiting begins.
    fn show(&mut self, verification: &Verification);
}

impl<F: FnMut(&Verification)> Prompt for F {
    fn show(&mut self, verification: &Verification) {
        self(verification);
    }
}

/// Logs in: shows the code and waits until it is confirmed, denied or too old. Keeps nothing; see
/// [`Store::save`].
pub async fn device_flow(
    settings: &Settings,
    prompt: &mut (impl Prompt + Send),
) -> Result<Session, LoginError> {
    flow(settings, prompt, tokio::time::sleep).await
}

/// The session in the store, with an access token that is good for a while: renewed and kept if need be.
pub async fn load(store: &Store) -> Result<Session, LoginError> {
    let known = store.load()?.ok_or(LoginError::NotLoggedIn)?;
    if known.is_fresh(Timestamp::now()) {
        return Ok(known);
    }
    let _lock = store.lock().await?;
    // Another program may have renewed it meanwhile, or logged out.
    let known = store.load()?.ok_or(LoginError::NotLoggedIn)?;
    if known.is_fresh(Timestamp::now()) {
        return Ok(known);
    }
    let renewed = refresh(&known).await?;
    store.save(&renewed)?;
    Ok(renewed)
}

/// A session with a new access token. The old one's refresh token may be used up, so the new session has to
/// be kept; [`load`] does all of that.
pub async fn refresh(session: &Session) -> Result<Session, LoginError> {
    let Session { settings, refresh_token, subject, .. } = session;
    let (http, client) = (http(settings)?, settings.client());
    let renewed = client.refresh(&http, refresh_token.as_ref(), subject.as_deref()).await?;
    Ok(Session::new(settings, renewed))
}

async fn flow<S: Future<Output = ()>>(
    settings: &Settings,
    prompt: &mut (impl Prompt + Send),
    sleep: impl Fn(Duration) -> S,
) -> Result<Session, LoginError> {
    let mut show = |verification: &Verification| prompt.show(verification);
    let tokens = settings.client().log_in(&http(settings)?, &mut show, sleep).await?;
    Ok(Session::new(settings, tokens))
}

impl Settings {
    fn client(&self) -> Client<'_> {
        let Self { issuer, client_id, scopes, audience, .. } = self;
        Client { issuer, client_id, scopes, audience: audience.as_deref() }
    }
}

/// Our client, as the flow wants one.
fn http(settings: &Settings) -> Result<Http, LoginError> {
    if !settings.issuer.parse().is_ok_and(|uri| allowed(&uri)) {
        return Err(LoginError::Settings("the issuer is not a URL that begins with https://".to_owned()));
    }
    let client = HttpClient::new(settings.ca_file.as_deref(), ASK_WITHIN)?;
    Ok(Http::new(move |request| {
        let client = client.clone();
        async move { client.send(request).await }
    }))
}

#[cfg(test)]
mod tests;
