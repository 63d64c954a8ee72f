//! What is said to the identity provider: discovery, device flow, refresh.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

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

use super::{ASK_WITHIN, Person, Session, Verification};
use crate::openbao::{
    error::{causes, shortened},
    secret::Secret,
    transport::secure,
};

/// Assumed when the provider does not say how long a token is good.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// Largest answer, in bytes. Discovery documents and key sets have a few thousand.
const MAX_ANSWER: usize = 256 * 1024;

/// Why a person is not logged in. The text never holds a token.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The settings are for another kind of login.
    #[error(
        "the login {0} is for no person, so there is nothing to confirm; set `auth` (OPENBAO_AUTH) to oidc"
    )]
    NoPerson(&'static str),
    /// Nobody has logged in on this account of the machine.
    #[error("nobody is logged in at the identity provider; log in first")]
    NotLoggedIn,
    /// The session ended and cannot be renewed.
    #[error("the login at the identity provider ended and cannot be renewed ({0}); log in again")]
    Ended(String),
    /// The provider's description of itself could not be had.
    #[error(
        "the identity provider {issuer} cannot be used: {why}; check `oidc-issuer` (OPENBAO_OIDC_ISSUER)"
    )]
    Discovery {
        /// The issuer.
        issuer: String,
        /// What failed.
        why: String,
    },
    /// The provider has no device flow.
    #[error("the identity provider {0} offers no login by a code (device authorization grant, RFC 8628)")]
    NoDeviceFlow(String),
    /// The person said no.
    #[error("the login was denied at the identity provider")]
    Denied,
    /// The person was too slow.
    #[error("the code was not confirmed in time; log in again")]
    Expired,
    /// The provider refused, or its answer makes no sense.
    #[error("the identity provider refused: {0}; check that the client is allowed this kind of login")]
    Refused(String),
    /// The ID token is not genuine.
    #[error("the identity provider's ID token cannot be believed: {0}")]
    IdToken(String),
    /// The file of the session cannot be used.
    #[error("the login's file {file} cannot be used: {why}", file = file.display())]
    Cache {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Person {
    pub(super) async fn device_flow(
        &self,
        show: &mut (dyn FnMut(&Verification) + Send),
    ) -> Result<Session, ProviderError> {
        let http = Http(self.http.clone());
        let found = self.discover(&http).await?;
        let url =
            found.device_authorization.ok_or_else(|| ProviderError::NoDeviceFlow(self.issuer.clone()))?;
        let client = found.client.set_device_authorization_url(url);
        let scopes = self.scopes.iter().filter(|scope| *scope != "openid" && *scope != "offline_access");
        let mut request = client
            .exchange_device_code()
            // Without it there is no refresh token.
            .add_scope(Scope::new("offline_access".to_owned()))
            .add_scopes(scopes.cloned().map(Scope::new));
        if let Some(audience) = &self.audience {
            request = request.add_extra_param("audience", audience.clone());
        }
        let code: CoreDeviceAuthorizationResponse =
            request.request_async(&http).await.map_err(|e| refused(&e))?;
        show(&Verification {
            uri: shown(code.verification_uri().as_str()),
            complete_uri: code.verification_uri_complete().map(|uri| shown(uri.secret())),
            code: shown(code.user_code().secret()),
            expires_in: code.expires_in(),
        });
        let polling = client.exchange_device_access_token(&code).map_err(|error| self.unusable(&error))?;
        let answer = polling.request_async(&http, tokio::time::sleep, None).await;
        let answer = answer.map_err(|error| match &error {
            RequestTokenError::ServerResponse(said) => match said.error() {
                DeviceCodeErrorResponseType::AccessDenied => ProviderError::Denied,
                DeviceCodeErrorResponseType::ExpiredToken => ProviderError::Expired,
                _ => refused(&error),
            },
            _ => refused(&error),
        })?;
        self.session_from(&client, &answer, Timestamp::now())
    }

    pub(super) async fn refresh(&self, session: &Session) -> Result<Session, ProviderError> {
        let Some(old) = &session.refresh_token else {
            return Err(ProviderError::Ended("the provider gave no refresh token".to_owned()));
        };
        let http = Http(self.http.clone());
        let client = self.discover(&http).await?.client;
        let token = RefreshToken::new(old.expose().to_owned());
        let asked = Timestamp::now();
        let request = client.exchange_refresh_token(&token).map_err(|error| self.unusable(&error))?;
        let answer = request.request_async(&http).await.map_err(|error| match error {
            // Some providers repeat what they did not like.
            RequestTokenError::ServerResponse(said) => {
                ProviderError::Ended(shortened(&said.to_string().replace(old.expose(), "…")))
            }
            other => refused(&other),
        })?;
        let mut renewed = self.session_from(&client, &answer, asked)?;
        // Who does not rotate them says nothing (RFC 6749 §6).
        renewed.refresh_token = renewed.refresh_token.or_else(|| session.refresh_token.clone());
        if let (Some(before), Some(now)) = (&session.subject, &renewed.subject)
            && before != now
        {
            return Err(ProviderError::IdToken("it is of another person than before".to_owned()));
        }
        renewed.subject = renewed.subject.or_else(|| session.subject.clone());
        Ok(renewed)
    }

    async fn discover(&self, http: &Http) -> Result<Found, ProviderError> {
        let issuer = IssuerUrl::new(self.issuer.clone()).map_err(|error| self.unusable(&error))?;
        let metadata = Metadata::discover_async(issuer, http).await.map_err(|error| self.unusable(&error))?;
        let device_authorization = metadata.additional_metadata().device_authorization_endpoint.clone();
        let id = ClientId::new(self.client_id.clone());
        // A program on a laptop keeps no secret: a public client.
        let client =
            CoreClient::from_provider_metadata(metadata, id, None).set_auth_type(AuthType::RequestBody);
        Ok(Found { client, device_authorization })
    }

    fn session_from<Device: openidconnect::EndpointState>(
        &self,
        client: &Client<Device>,
        answer: &CoreTokenResponse,
        asked: Timestamp,
    ) -> Result<Session, ProviderError> {
        let id_token = answer.extra_fields().id_token();
        let subject = id_token.map(|token| {
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
        let subject = subject.transpose().map_err(|error| ProviderError::IdToken(causes(&error)))?;
        let lifetime =
            SignedDuration::try_from(answer.expires_in().unwrap_or(DEFAULT_LIFETIME)).unwrap_or_default();
        Ok(Session {
            issuer: self.issuer.clone(),
            client_id: self.client_id.clone(),
            subject,
            access_token: Secret::new(answer.access_token().secret().clone()),
            id_token: id_token.map(|token| Secret::new(token.to_string())),
            refresh_token: answer.refresh_token().map(|token| Secret::new(token.secret().clone())),
            expires: asked.saturating_add(lifetime).unwrap_or(asked),
        })
    }

    fn unusable(&self, error: &dyn std::error::Error) -> ProviderError {
        ProviderError::Discovery { issuer: self.issuer.clone(), why: causes(error) }
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

/// Our client, as the library wants one.
struct Http(reqwest::Client);

/// Why the provider could not be asked.
#[derive(Debug, thiserror::Error)]
enum HttpError {
    #[error("{0} may not be asked: expected https://")]
    NotAllowed(String),
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no answer within {} s", ASK_WITHIN.as_secs())]
    TimedOut,
    #[error("the answer has more than {MAX_ANSWER} bytes")]
    TooLarge,
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let asked = tokio::time::timeout(ASK_WITHIN, self.ask(request)).await;
            asked.unwrap_or(Err(HttpError::TimedOut))
        })
    }
}

impl Http {
    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let unreachable = |error: reqwest::Error| HttpError::Unreachable(causes(&error.without_url()));
        let request: reqwest::Request = request.try_into().map_err(unreachable)?;
        // The discovery document names the other URLs.
        if !secure(request.url()) {
            return Err(HttpError::NotAllowed(request.url().origin().ascii_serialization()));
        }
        let mut answer = self.0.execute(request).await.map_err(unreachable)?;
        let mut response = HttpResponse::new(Vec::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if response.body().len() + chunk.len() > MAX_ANSWER {
                return Err(HttpError::TooLarge);
            }
            response.body_mut().extend_from_slice(&chunk);
        }
        Ok(response)
    }
}

fn refused(error: &(dyn std::error::Error + 'static)) -> ProviderError {
    ProviderError::Refused(causes(error))
}

/// A stranger's text for a terminal: no control characters, or it could move the cursor.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
