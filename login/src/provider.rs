//! What is said to the identity provider: discovery, device flow, refresh.

use std::{fmt, future::Future, path::PathBuf, pin::Pin, time::Duration};

use jiff::{SignedDuration, Timestamp};
use openidconnect::{
    AdditionalProviderMetadata, AsyncHttpClient, AuthType, ClientId, DeviceAuthorizationUrl,
    DeviceCodeErrorResponseType, EndpointMaybeSet, EndpointNotSet, EndpointSet, EndpointState, HttpRequest,
    HttpResponse, IssuerUrl, Nonce, OAuth2TokenResponse as _, ProviderMetadata, RefreshToken,
    RequestTokenError, Scope,
    core::{
        CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClient, CoreClientAuthMethod,
        CoreDeviceAuthorizationResponse, CoreGrantType, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
        CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType,
        CoreSubjectIdentifierType, CoreTokenResponse,
    },
};
use serde::{Deserialize, Serialize};

use crate::{Secret, Tokens};

/// Assumed when the provider does not say how long a token is good.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// How much of the provider's own words is repeated, in characters.
const MAX_SAID: usize = 240;

/// Why a person is not logged in. The text never holds a token; what to do next depends on the program, which adds it.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    /// The session ended and cannot be renewed.
    #[error("the login ended and cannot be renewed ({0})")]
    Ended(String),
    /// The provider's description of itself could not be had.
    #[error("the identity provider {issuer} cannot be used: {reason}")]
    Discovery {
        /// The issuer.
        issuer: String,
        /// What failed.
        reason: String,
    },
    /// The provider has no device flow.
    #[error(
        "the identity provider {issuer} offers no login by a code (device authorization grant, RFC 8628)"
    )]
    NoDeviceFlow {
        /// The issuer.
        issuer: String,
    },
    /// The person said no.
    #[error("the login was denied at the identity provider")]
    Denied,
    /// The person was too slow.
    #[error("the code was not confirmed in time")]
    Expired,
    /// The provider refused, or its answer makes no sense.
    #[error("the identity provider refused: {0}; check that the client is allowed this kind of login")]
    Refused(String),
    /// The ID token is not genuine.
    #[error("the identity provider's ID token cannot be believed: {0}")]
    IdToken(String),
    /// The file of the login could not be read or written.
    #[error("the login's file {file}: {source}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read the file.
    #[error("others may read the login's file {file}; run `chmod 600` on it", file = file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
    },
    /// The file has something else.
    #[error("the login's file {file} cannot be read", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
    },
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

/// Where a person logs in, and as which client.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The provider's URL, exactly as its tokens have it in `iss`. Whether it may be asked is for [`Http`] to say.
    pub issuer: &'a str,
    /// A public client: a program on a laptop keeps no secret.
    pub client_id: &'a str,
    /// What is asked for besides `openid` and `offline_access`.
    pub scopes: &'a [String],
    /// Sent as the parameter `audience`, for providers that want it so.
    pub audience: Option<&'a str>,
}

type Asked = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpFailure>> + Send>>;

/// The program's HTTP client: bounded in time and size, follows no redirect, and refuses URLs that are not safe; the
/// provider's own description names them.
pub struct Http(Box<dyn Fn(HttpRequest) -> Asked + Send + Sync>);

/// Why the provider could not be asked, in the words of the HTTP client.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpFailure(Box<dyn std::error::Error + Send + Sync>);

impl Http {
    /// A function from request to response, whatever its status.
    #[must_use]
    pub fn new<F, E>(ask: impl Fn(HttpRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<HttpResponse, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        Self(Box::new(move |request| {
            let asked = ask(request);
            Box::pin(async move { asked.await.map_err(|error| HttpFailure(Box::new(error))) })
        }))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Http").finish_non_exhaustive()
    }
}

impl AsyncHttpClient<'_> for Http {
    type Error = HttpFailure;
    type Future = Asked;

    fn call(&self, request: HttpRequest) -> Asked {
        (self.0)(request)
    }
}

impl Client<'_> {
    /// Logs in: shows the code and waits until it is confirmed, denied or too old. `sleep` waits between two questions.
    ///
    /// # Errors
    /// [`PersonError`], none about files.
    pub async fn log_in<S: Future<Output = ()>>(
        &self,
        http: &Http,
        show: &mut (dyn FnMut(&Verification) + Send),
        sleep: impl Fn(Duration) -> S,
    ) -> Result<Tokens, PersonError> {
        let found = self.discover(http).await?;
        let none = || PersonError::NoDeviceFlow { issuer: self.issuer.to_owned() };
        let url = found.device_authorization.ok_or_else(none)?;
        let client = found.client.set_device_authorization_url(url);
        let scopes = self.scopes.iter().filter(|scope| *scope != "openid" && *scope != "offline_access");
        let mut request = client
            .exchange_device_code()
            // Without it there is no refresh token.
            .add_scope(Scope::new("offline_access".to_owned()))
            .add_scopes(scopes.cloned().map(Scope::new));
        if let Some(audience) = self.audience {
            request = request.add_extra_param("audience", audience.to_owned());
        }
        let code: CoreDeviceAuthorizationResponse =
            request.request_async(http).await.map_err(|error| refused(&error))?;
        show(&Verification {
            uri: shown(code.verification_uri().as_str()),
            complete_uri: code.verification_uri_complete().map(|uri| shown(uri.secret())),
            code: shown(code.user_code().secret()),
            expires_in: code.expires_in(),
        });
        let polling = client.exchange_device_access_token(&code).map_err(|error| self.unusable(&error))?;
        let answer = polling.request_async(http, sleep, None).await.map_err(|error| match &error {
            RequestTokenError::ServerResponse(said) => match said.error() {
                DeviceCodeErrorResponseType::AccessDenied => PersonError::Denied,
                DeviceCodeErrorResponseType::ExpiredToken => PersonError::Expired,
                _ => refused(&error),
            },
            _ => refused(&error),
        })?;
        tokens(&client, &answer, Timestamp::now())
    }

    /// New tokens in the place of those before, whose refresh token may be used up: keep them.
    ///
    /// # Errors
    /// [`PersonError::Ended`] when only a new login helps; else as [`Client::log_in`].
    pub async fn refresh(
        &self,
        http: &Http,
        refresh: Option<&Secret>,
        subject: Option<&str>,
    ) -> Result<Tokens, PersonError> {
        let Some(old) = refresh else {
            return Err(PersonError::Ended("the provider gave no refresh token".to_owned()));
        };
        let client = self.discover(http).await?.client;
        let token = RefreshToken::new(old.expose().to_owned());
        let asked = Timestamp::now();
        let request = client.exchange_refresh_token(&token).map_err(|error| self.unusable(&error))?;
        let answer = request.request_async(http).await.map_err(|error| match error {
            // Some providers repeat what they did not like.
            RequestTokenError::ServerResponse(said) => {
                PersonError::Ended(shortened(&said.to_string().replace(old.expose(), "…")))
            }
            other => refused(&other),
        })?;
        let mut renewed = tokens(&client, &answer, asked)?;
        // Who does not rotate them says nothing (RFC 6749 §6).
        renewed.refresh = renewed.refresh.or_else(|| Some(old.clone()));
        if let (Some(before), Some(now)) = (subject, &renewed.subject)
            && before != now
        {
            return Err(PersonError::IdToken("it is of another person than before".to_owned()));
        }
        renewed.subject = renewed.subject.or_else(|| subject.map(str::to_owned));
        Ok(renewed)
    }

    async fn discover(&self, http: &Http) -> Result<Found, PersonError> {
        let issuer = IssuerUrl::new(self.issuer.to_owned()).map_err(|error| self.unusable(&error))?;
        let metadata = Metadata::discover_async(issuer, http).await.map_err(|error| self.unusable(&error))?;
        let device_authorization = metadata.additional_metadata().device_authorization_endpoint.clone();
        let id = ClientId::new(self.client_id.to_owned());
        let client =
            CoreClient::from_provider_metadata(metadata, id, None).set_auth_type(AuthType::RequestBody);
        Ok(Found { client, device_authorization })
    }

    fn unusable(&self, error: &dyn std::error::Error) -> PersonError {
        PersonError::Discovery { issuer: self.issuer.to_owned(), reason: causes(error) }
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

type Provider<Device> =
    CoreClient<EndpointSet, Device, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

struct Found {
    client: Provider<EndpointNotSet>,
    device_authorization: Option<DeviceAuthorizationUrl>,
}

fn tokens<Device: EndpointState>(
    client: &Provider<Device>,
    answer: &CoreTokenResponse,
    asked: Timestamp,
) -> Result<Tokens, PersonError> {
    let id = answer.extra_fields().id_token();
    let subject = id.map(|token| {
        let algorithms = [
            CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            CoreJwsSigningAlgorithm::EcdsaP256Sha256,
            CoreJwsSigningAlgorithm::EdDsa,
        ];
        // The audience of the scopes stands beside the client's id.
        let verifier = client.id_token_verifier().set_other_audience_verifier_fn(|_| true);
        // The device flow has no nonce.
        let claims = token.claims(&verifier.set_allowed_algs(algorithms), |_: Option<&Nonce>| Ok(()));
        claims.map(|claims| claims.subject().to_string())
    });
    let subject = subject.transpose().map_err(|error| PersonError::IdToken(causes(&error)))?;
    let lifetime =
        SignedDuration::try_from(answer.expires_in().unwrap_or(DEFAULT_LIFETIME)).unwrap_or_default();
    Ok(Tokens {
        subject,
        access: Secret::new(answer.access_token().secret().clone()),
        id: id.map(|token| Secret::new(token.to_string())),
        refresh: answer.refresh_token().map(|token| Secret::new(token.secret().clone())),
        expires: asked.saturating_add(lifetime).unwrap_or(asked),
    })
}

fn refused(error: &(dyn std::error::Error + 'static)) -> PersonError {
    PersonError::Refused(causes(error))
}

/// Down to the cause: the library's own text is `Request failed`.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    shortened(&text)
}

/// A stranger's text for a terminal: no control characters, or it could move the cursor.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SAID).collect()
}
