//! Tokens of an identity provider for machines: who the process is, for those who ask for more than a key.
//!
//! ```text
//! issuer ─ discovery ─► token endpoint ─ JWT profile (RFC 7523) or client credentials ─► access token
//! ```
//!
//! [`MachineLogin::token`] is called at each connection, so it remembers the token until shortly before it
//! expires and answers within [`FETCH_WITHIN`], whatever the provider does. It never verifies the token (that
//! is for those who accept it) and never writes a secret into an error, a log or `Debug`.

mod clock;
mod error;
pub mod http;
mod key;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ::http::{Request, Uri, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, Deserializer},
};
use tokio::{sync::Mutex, time::Instant};
use zeroize::{Zeroize as _, Zeroizing};

use clock::ProviderClock;
pub use error::OidcError;
use http::HttpClient;
use key::MachineKey;

/// Longest time for a token, discovery included.
pub const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// How long before its end a token is replaced, but never more than a third of its life.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// Assumed when the provider does not say how long a token is good (RFC 6749 lets it).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// How much of the provider's own words is repeated, in characters.
const MAX_SAID: usize = 240;

/// `[token.oidc]`: whom to ask, as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MachineLoginSettings {
    /// The provider, e.g. `https://id.example.com`: exactly what its tokens have as `iss`.
    pub issuer: String,
    /// The client, with `client-secret-file`. With a key file the user stands in the file; when both are
    /// given they have to agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Sent as the parameter `audience`, which many providers know. Zitadel takes it as a scope instead:
    /// `urn:zitadel:iam:org:project:id:<project>:aud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// What is asked for; `openid` by default.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// Zitadel's JSON key file of a service user (JWT profile).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// A file with nothing but the client's secret (client credentials).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// CA of the provider's certificate (PEM), and the only one trusted; the system's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

fn default_scopes() -> Vec<String> {
    vec!["openid".to_owned()]
}

/// An access token. `Debug` does not show it, and its memory is wiped.
#[derive(Clone)]
pub struct AccessToken {
    secret: Zeroizing<String>,
    expires: Instant,
}

impl AccessToken {
    /// The token itself, to be sent and not to be kept.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// When the provider says that it ends.
    pub fn expires(&self) -> Instant {
        self.expires
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A machine's account at an identity provider. Clones share the token that it has.
#[derive(Clone)]
pub struct MachineLogin(Arc<Inner>);

struct Inner {
    settings: MachineLoginSettings,
    client: HttpClient,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    endpoint: Option<TokenEndpoint>,
    token: Option<Remembered>,
}

struct Remembered {
    token: AccessToken,
    renew: Instant,
}

/// What is needed of the discovery document.
#[derive(Debug, Clone, Deserialize)]
struct Discovered {
    issuer: String,
    token_endpoint: String,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

#[derive(Debug, Clone)]
struct TokenEndpoint {
    url: String,
    /// The provider takes the client's secret in the body only.
    secret_in_body: bool,
    clock: ProviderClock,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(deserialize_with = "wiped")]
    access_token: Zeroizing<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct ErrorAnswer {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl MachineLogin {
    /// Checks the settings; asks nobody. Key and secret are read at each fetch, so that a new file is used
    /// without a restart.
    pub fn new(settings: MachineLoginSettings) -> Result<Self, OidcError> {
        let wrong = |text: &str| Err(OidcError::Settings(text.to_owned()));
        match (&settings.key_file, &settings.client_secret_file, &settings.client_id) {
            (Some(_), Some(_), _) => return wrong("`key-file` and `client-secret-file` exclude each other"),
            (None, None, _) => return wrong("`key-file` or `client-secret-file` is missing"),
            (None, Some(_), None) => return wrong("`client-secret-file` needs `client-id`"),
            (Some(_), None, _) | (None, Some(_), Some(_)) => {}
        }
        if !settings.issuer.parse::<Uri>().is_ok_and(|uri| http::allowed(&uri)) {
            return wrong("`issuer` is not a URL that begins with https://");
        }
        let client = HttpClient::new(settings.ca_file.as_deref(), FETCH_WITHIN)?;
        Ok(Self(Arc::new(Inner { settings, client, state: Mutex::default() })))
    }

    /// What it was made from.
    pub fn settings(&self) -> &MachineLoginSettings {
        &self.0.settings
    }

    /// A token that is good for now: the one it has, or a fresh one. While a fetch fails, the one it has is
    /// given until it ends.
    pub async fn token(&self) -> Result<AccessToken, OidcError> {
        let inner = &self.0;
        let timed_out =
            || OidcError::TimedOut { issuer: inner.settings.issuer.clone(), seconds: FETCH_WITHIN.as_secs() };
        let deadline = Instant::now() + FETCH_WITHIN;
        // One asks, the others wait for what it got.
        let mut state =
            tokio::time::timeout_at(deadline, inner.state.lock()).await.map_err(|_| timed_out())?;
        let known = state.token.as_ref();
        if let Some(known) = known.filter(|known| Instant::now() < known.renew) {
            return Ok(known.token.clone());
        }
        let fetched = match tokio::time::timeout_at(deadline, inner.fetch(&mut state)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(timed_out()),
        };
        match (fetched, &state.token) {
            (Ok(fetched), _) => {
                let token = fetched.token.clone();
                state.token = Some(fetched);
                Ok(token)
            }
            (Err(error), Some(known)) if Instant::now() < known.token.expires => {
                tracing::warn!(%error, "the token could not be renewed; the old one is good for a while");
                Ok(known.token.clone())
            }
            (Err(error), _) => Err(error),
        }
    }
}

impl fmt::Debug for MachineLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MachineLogin").field(&self.0.settings).finish()
    }
}

impl Inner {
    async fn fetch(&self, state: &mut State) -> Result<Remembered, OidcError> {
        let endpoint = match state.endpoint.take() {
            Some(endpoint) => endpoint,
            None => self.discover().await?,
        };
        let fetched = self.ask(&endpoint).await?;
        // Only an endpoint that works is remembered: after a failure it is discovered anew.
        state.endpoint = Some(endpoint);
        Ok(fetched)
    }

    async fn discover(&self) -> Result<TokenEndpoint, OidcError> {
        let issuer = &self.settings.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let wrong = |reason: String| OidcError::Answer { endpoint: url.clone(), reason };
        let request = Request::get(&url).header(header::ACCEPT, "application/json").body(Vec::new());
        let answer = self.client.send(request.map_err(|error| wrong(error.to_string()))?).await?;
        if !answer.status().is_success() {
            return Err(wrong(format!("HTTP {}", answer.status().as_u16())));
        }
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let clock = ProviderClock::learn(date);
        let found: Discovered = parse(answer.body()).map_err(wrong)?;
        // Else one provider could answer for another (OpenID Connect Discovery §4.3).
        if found.issuer != *issuer {
            return Err(wrong(format!("it says that it is {:?}", shortened(&found.issuer))));
        }
        let methods = &found.token_endpoint_auth_methods_supported;
        let has = |name: &str| methods.iter().any(|method| method == name);
        Ok(TokenEndpoint {
            url: found.token_endpoint,
            secret_in_body: has("client_secret_post") && !has("client_secret_basic"),
            clock,
        })
    }

    async fn ask(&self, endpoint: &TokenEndpoint) -> Result<Remembered, OidcError> {
        let settings = &self.settings;
        let mut form = Form::default();
        let mut request = Request::post(&endpoint.url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let secret = match (&settings.key_file, &settings.client_secret_file) {
            (Some(file), _) => {
                let key = MachineKey::load(file)?;
                if settings.client_id.as_ref().is_some_and(|id| *id != key.user_id) {
                    let reason = "its `userId` is not the setting `client-id`".to_owned();
                    return Err(OidcError::KeyFile { file: file.clone(), reason });
                }
                let assertion = key.assertion(&settings.issuer, endpoint.clock.now())?;
                form.push("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
                form.push("assertion", &assertion);
                assertion
            }
            (None, Some(file)) => {
                let secret = read_secret(file)?;
                let id = settings.client_id.as_deref().unwrap_or_default();
                form.push("grant_type", "client_credentials");
                if endpoint.secret_in_body {
                    form.push("client_id", id);
                    form.push("client_secret", &secret);
                } else {
                    request = request.header(header::AUTHORIZATION, basic(id, &secret)?);
                }
                secret
            }
            (None, None) => return Err(OidcError::Settings("neither key nor secret".to_owned())),
        };
        form.push("scope", &settings.scopes.join(" "));
        if let Some(audience) = &settings.audience {
            form.push("audience", audience);
        }
        let wrong = |reason: String| OidcError::Answer { endpoint: endpoint.url.clone(), reason };
        let request = request.body(form.into_body()).map_err(|error| wrong(error.to_string()))?;
        let asked = Instant::now();
        let answer = self.client.send(request).await?;
        if !answer.status().is_success() {
            return Err(refused(&endpoint.url, answer.status().as_u16(), answer.body(), &secret));
        }
        let mut body = answer.into_body();
        let parsed = parse::<TokenAnswer>(&body);
        body.zeroize();
        let answer = parsed.map_err(wrong)?;
        let lifetime = answer.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let before = RENEW_BEFORE.min(lifetime / 3);
        // Counted from before the question: the way back does not make it live longer.
        let expires = asked + lifetime.min(Duration::from_secs(365 * 24 * 3600));
        let token = AccessToken { secret: answer.access_token, expires };
        Ok(Remembered { token, renew: expires - before })
    }
}

fn wiped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

/// What serde says of an answer could repeat a token, so only the place is told.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "a field is missing or has another type".to_owned(),
        _ => format!("it is not JSON (line {}, column {})", error.line(), error.column()),
    })
}

fn refused(endpoint: &str, status: u16, body: &[u8], secret: &str) -> OidcError {
    let (said, hint) = match serde_json::from_slice::<ErrorAnswer>(body) {
        Ok(answer) => {
            let hint = match answer.error.as_str() {
                "invalid_client" | "unauthorized_client" => "check the client and its secret or key",
                "invalid_grant" => "check that the key is registered and has not ended",
                "invalid_scope" | "invalid_target" => "check the settings `scopes` and `audience`",
                _ => "the provider's log says more",
            };
            let said = match answer.error_description.as_str() {
                "" => answer.error,
                description => format!("{}: {description}", answer.error),
            };
            // Some providers repeat what they did not like.
            (shortened(&said.replace(secret, "…")), hint)
        }
        Err(_) => ("nothing that can be read".to_owned(), "check the setting `issuer`"),
    };
    OidcError::Refused { endpoint: endpoint.to_owned(), status, said, hint }
}

/// A stranger's text for a line of a log: one line, not long.
fn shortened(text: &str) -> String {
    let mut short: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SAID).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn read_secret(file: &Path) -> Result<Zeroizing<String>, OidcError> {
    let wrong = |reason: String| OidcError::SecretFile { file: file.to_owned(), reason };
    let text = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|e| wrong(e.to_string()))?;
    match text.trim() {
        "" => Err(wrong("it is empty".to_owned())),
        secret => Ok(Zeroizing::new(secret.to_owned())),
    }
}

/// RFC 6749 §2.3.1: both are form-encoded before they become user and password.
fn basic(id: &str, secret: &str) -> Result<header::HeaderValue, OidcError> {
    let mut pair = Zeroizing::new(String::new());
    encode_into(&mut pair, id);
    pair.push(':');
    encode_into(&mut pair, secret);
    let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = header::HeaderValue::from_str(&value)
        .map_err(|_| OidcError::Settings("the client's secret cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `application/x-www-form-urlencoded`.
#[derive(Default)]
struct Form(String);

impl Form {
    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        encode_into(&mut self.0, value);
    }

    fn into_body(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

fn encode_into(out: &mut String, value: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            _ => out.extend([
                '%',
                char::from(HEX[usize::from(byte >> 4)]),
                char::from(HEX[usize::from(byte & 15)]),
            ]),
        }
    }
}

#[cfg(test)]
#[path = "tests/provider.rs"]
mod provider;

#[cfg(test)]
#[path = "tests/machine.rs"]
mod tests;
