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

use fleet_daemon::oidc::http::{HttpClient, HttpError, allowed};
use futures::{FutureExt as _, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use openidconnect::{
    AdditionalProviderMetadata, AsyncHttpClient, AuthType, ClientId, DeviceAuthorizationUrl,
    DeviceCodeErrorResponseType, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    IssuerUrl, Nonce, OAuth2TokenResponse as _, ProviderMetadata, RefreshToken, RequestTokenError, Scope,
    core::{
        CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod,
        CoreDeviceAuthorizationResponse, CoreGrantType, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
        CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType,
        CoreSubjectIdentifierType, CoreTokenResponse,
    },
};
use serde::{Deserialize, Serialize};

pub use credential::Reach;
pub use error::LoginError;
pub use session::{Secret, Session, Who};
pub use store::Store;

/// How long one request to the provider may take.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// Assumed when the provider does not say how long a token is good.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// How much of the provider's own words is repeated, in characters.
const MAX_SAID: usize = 240;

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

/// What a person needs to confirm a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Where to enter the code.
    pub uri: String,
    /// The same with the code in it, for a link or a QR code.
    pub complete_uri: Option<String>,
    /// The code; the person compares it.
    pub code: String,
    /// How long there is time.
    pub expires_in: Duration,
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
pub async fn device_flow(settings: &Settings, prompt: &mut impl Prompt) -> Result<Session, LoginError> {
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
    let Some(old) = &session.refresh_token else {
        return Err(LoginError::Ended("the provider gave no refresh token".to_owned()));
    };
    let settings = &session.settings;
    let http = Http::new(settings)?;
    let client = discover(settings, &http).await?.client;
    let token = RefreshToken::new(old.expose().to_owned());
    let asked = Timestamp::now();
    let request = client.exchange_refresh_token(&token).map_err(|error| discovery(settings, &error))?;
    let answer = request.request_async(&http).await.map_err(|error| match error {
        RequestTokenError::ServerResponse(said) => {
            LoginError::Ended(shortened(&said.to_string().replace(old.expose(), "…")))
        }
        other => refused(&other),
    })?;
    let mut renewed = session_of(settings, &client, &answer, asked)?;
    // Who does not rotate them says nothing (RFC 6749 §6).
    renewed.refresh_token = renewed.refresh_token.or_else(|| session.refresh_token.clone());
    if let (Some(before), Some(now)) = (&session.subject, &renewed.subject)
        && before != now
    {
        return Err(LoginError::IdToken("it is of another person than before".to_owned()));
    }
    renewed.subject = renewed.subject.or_else(|| session.subject.clone());
    Ok(renewed)
}

async fn flow<S: Future<Output = ()>>(
    settings: &Settings,
    prompt: &mut impl Prompt,
    sleep: impl Fn(Duration) -> S,
) -> Result<Session, LoginError> {
    let http = Http::new(settings)?;
    let found = discover(settings, &http).await?;
    let url = found
        .device_authorization
        .ok_or_else(|| LoginError::NoDeviceFlow { issuer: settings.issuer.clone() })?;
    let client = found.client.set_device_authorization_url(url);
    let scopes = settings.scopes.iter().filter(|scope| *scope != "openid" && *scope != "offline_access");
    let mut request = client
        .exchange_device_code()
        // Without it there is no refresh token.
        .add_scope(Scope::new("offline_access".to_owned()))
        .add_scopes(scopes.cloned().map(Scope::new));
    if let Some(audience) = &settings.audience {
        request = request.add_extra_param("audience", audience.clone());
    }
    let code: CoreDeviceAuthorizationResponse =
        request.request_async(&http).await.map_err(|e| refused(&e))?;
    prompt.show(&Verification {
        uri: shown(code.verification_uri().as_str()),
        complete_uri: code.verification_uri_complete().map(|uri| shown(uri.secret())),
        code: shown(code.user_code().secret()),
        expires_in: code.expires_in(),
    });
    let polling = client.exchange_device_access_token(&code).map_err(|error| discovery(settings, &error))?;
    let answer = polling.request_async(&http, sleep, None).await.map_err(|error| match &error {
        RequestTokenError::ServerResponse(said) => match said.error() {
            DeviceCodeErrorResponseType::AccessDenied => LoginError::Denied,
            DeviceCodeErrorResponseType::ExpiredToken => LoginError::Expired,
            _ => refused(&error),
        },
        _ => refused(&error),
    })?;
    session_of(settings, &client, &answer, Timestamp::now())
}

/// Our client, as the library wants one.
struct Http(HttpClient);

impl Http {
    fn new(settings: &Settings) -> Result<Self, LoginError> {
        if !settings.issuer.parse().is_ok_and(|uri| allowed(&uri)) {
            return Err(LoginError::Settings("the issuer is not a URL that begins with https://".to_owned()));
        }
        Ok(Self(HttpClient::new(settings.ca_file.as_deref(), ASK_WITHIN)?))
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = BoxFuture<'c, Result<HttpResponse, HttpError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        self.0.send(request).boxed()
    }
}

/// What the discovery document has beyond the library's own.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct DeviceEndpoint {
    device_authorization_endpoint: Option<DeviceAuthorizationUrl>,
}

impl AdditionalProviderMetadata for DeviceEndpoint {}

type Metadata = ProviderMetadata<
    DeviceEndpoint,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

type Client<Device> =
    CoreClient<EndpointSet, Device, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

struct Found {
    client: Client<EndpointNotSet>,
    device_authorization: Option<DeviceAuthorizationUrl>,
}

async fn discover(settings: &Settings, http: &Http) -> Result<Found, LoginError> {
    let issuer = IssuerUrl::new(settings.issuer.clone()).map_err(|error| discovery(settings, &error))?;
    let metadata =
        Metadata::discover_async(issuer, http).await.map_err(|error| discovery(settings, &error))?;
    let device_authorization = metadata.additional_metadata().device_authorization_endpoint.clone();
    let id = ClientId::new(settings.client_id.clone());
    // A program on a laptop keeps no secret: a public client.
    let client = CoreClient::from_provider_metadata(metadata, id, None).set_auth_type(AuthType::RequestBody);
    Ok(Found { client, device_authorization })
}

fn session_of<Device: openidconnect::EndpointState>(
    settings: &Settings,
    client: &Client<Device>,
    answer: &CoreTokenResponse,
    asked: Timestamp,
) -> Result<Session, LoginError> {
    let subject = match answer.extra_fields().id_token() {
        None => None,
        Some(token) => {
            let algorithms = [
                CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
                CoreJwsSigningAlgorithm::EcdsaP256Sha256,
                CoreJwsSigningAlgorithm::EdDsa,
            ];
            // The audience of the scopes stands beside the client's id.
            let verifier = client.id_token_verifier().set_other_audience_verifier_fn(|_| true);
            // The device flow has no nonce.
            let claims = token
                .claims(&verifier.set_allowed_algs(algorithms), |_: Option<&Nonce>| Ok(()))
                .map_err(|error| LoginError::IdToken(shortened(&causes(&error))))?;
            Some(claims.subject().to_string())
        }
    };
    let lifetime =
        SignedDuration::try_from(answer.expires_in().unwrap_or(DEFAULT_LIFETIME)).unwrap_or_default();
    Ok(Session {
        settings: settings.clone(),
        subject,
        access_token: Secret::new(answer.access_token().secret()),
        refresh_token: answer.refresh_token().map(|token| Secret::new(token.secret())),
        expires: asked.saturating_add(lifetime).unwrap_or(asked),
    })
}

fn discovery(settings: &Settings, error: &dyn std::error::Error) -> LoginError {
    LoginError::Discovery { issuer: settings.issuer.clone(), reason: shortened(&causes(error)) }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> LoginError {
    LoginError::Refused(shortened(&causes(error)))
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A stranger's text for a terminal: no control characters, or it could move the cursor.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests;
