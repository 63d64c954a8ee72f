//! The choice of the verifier.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::service_account::ServiceAccounts;
use crate::{
    decide::{Holder, TokenRefusal},
    login::Kind,
    oidc::{OidcError, Provider, Verified, unverified_issuer},
};

/// Tokens that are verified at the same time. Fewer than all authorizations: whoever floods this process
/// with tokens while a verifier hangs does not hold up the devices that need none.
const CONCURRENCY: usize = 128;

/// Verifies tokens of one issuer for one audience, within a second.
pub trait OidcVerifier: Send + Sync {
    /// The issuer and the audience.
    fn issuer(&self) -> &str;
    /// Verifies.
    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Verified, OidcError>>;
}

impl OidcVerifier for Provider {
    fn issuer(&self) -> &str {
        Provider::issuer(self)
    }

    fn verify<'a>(&'a self, token: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Verified, OidcError>> {
        Box::pin(Provider::verify(self, token, now))
    }
}

impl From<OidcError> for TokenRefusal {
    fn from(error: OidcError) -> Self {
        // Other labels than those of the connection's own signature and key.
        Self::Refused(match error {
            OidcError::Unavailable => return Self::Unavailable,
            OidcError::Signature => "token-signature",
            OidcError::Expired { .. } => "token-expired",
            OidcError::NotYetValid { .. } => "token-not-yet-valid",
            OidcError::Audience => "token-audience",
            OidcError::Issuer => "token-issuer",
            OidcError::Algorithm => "token-algorithm",
            OidcError::UnknownKey => "token-unknown-key",
            OidcError::Malformed(_) => "token-malformed",
        })
    }
}

/// The identity providers that are set up.
#[derive(Clone, Default)]
pub struct Oidc {
    /// For devices.
    pub device: Option<Arc<dyn OidcVerifier>>,
    /// For persons.
    pub person: Option<Arc<dyn OidcVerifier>>,
}

/// All verifiers.
pub struct Tokens {
    oidc: Oidc,
    service_accounts: ServiceAccounts,
    slots: Semaphore,
}

impl Tokens {
    /// With these.
    pub fn new(oidc: Oidc, service_accounts: ServiceAccounts) -> Self {
        Self { oidc, service_accounts, slots: Semaphore::new(CONCURRENCY) }
    }

    /// Which kind of token this claims to be. `device_key`: whether its holder's key is, or was, that of a
    /// device. It decides where devices and persons share an issuer: who shows a device's key is a device.
    pub fn kind(&self, token: &str, device_key: bool) -> Kind {
        let issuer = unverified_issuer(token);
        let is = |verifier: &Option<Arc<dyn OidcVerifier>>| {
            issuer.as_deref().is_some_and(|issuer| verifier.as_ref().is_some_and(|v| v.issuer() == issuer))
        };
        match (is(&self.oidc.device), is(&self.oidc.person)) {
            (true, true) if device_key => Kind::OidcDevice,
            (_, true) => Kind::OidcPerson,
            (true, false) => Kind::OidcDevice,
            // Which issuers the cluster has, the API server knows.
            (false, false) if issuer.is_some() => Kind::ServiceAccount,
            (false, false) => Kind::Token,
        }
    }

    /// Whom the token names. `may_ask`: whether somebody may be asked over the network who has not seen the
    /// token before; it is called at most once.
    ///
    /// # Errors
    /// [`TokenRefusal`].
    pub async fn holder(
        &self,
        kind: Kind,
        token: &str,
        now: Timestamp,
        may_ask: impl FnOnce() -> bool + Send,
    ) -> Result<Holder, TokenRefusal> {
        let _slot = self.slots.try_acquire().map_err(|_| TokenRefusal::RateLimited)?;
        let verified = |verifier: Option<Arc<dyn OidcVerifier>>| async move {
            let verifier = verifier.ok_or(TokenRefusal::UnknownIssuer)?;
            verifier.verify(token, now).await.map_err(TokenRefusal::from)
        };
        match kind {
            Kind::OidcDevice => {
                let Verified { subject, expires, .. } = verified(self.oidc.device.clone()).await?;
                Ok(Holder::Device { subject, expires })
            }
            Kind::OidcPerson => {
                let Verified { subject, roles, expires } = verified(self.oidc.person.clone()).await?;
                Ok(Holder::Person { subject, roles, expires })
            }
            Kind::ServiceAccount => {
                let user = self.service_accounts.user(token, may_ask).await?;
                // The API server has checked it: what it says of its end is true.
                Ok(Holder::ServiceAccount { user, expires: unverified_expiry(token) })
            }
            _ => Err(TokenRefusal::UnknownIssuer),
        }
    }
}

#[derive(Deserialize)]
struct Unverified {
    exp: Option<i64>,
}

fn unverified_expiry(token: &str) -> Option<Timestamp> {
    let payload = token.split('.').nth(1)?;
    let claims: Unverified = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Timestamp::from_second(claims.exp?).ok()
}

#[cfg(test)]
#[path = "../tests/verifier.rs"]
mod tests;
