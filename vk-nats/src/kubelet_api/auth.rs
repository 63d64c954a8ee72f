//! Who may ask what: every request is authenticated and authorized as a kubelet's webhook mode does it.
//!
//! ```text
//! client certificate (CN, O) ─┐
//!                             ├─► User ─► SubjectAccessReview nodes/<subresource> <device> ─► handler
//! bearer ─► TokenReview ──────┘      │                  │
//!                                   401                403
//! ```
//!
//! Nobody is let in anonymously. Answers of the API server are believed for as long as a kubelet believes
//! them; when it cannot be asked, the request fails (500), it never passes.

pub mod attributes;
mod cache;
mod review;
mod user;

use std::{sync::Arc, time::Duration};

use axum::response::{IntoResponse, Response};
use fleet_wire::name::DeviceName;
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use cache::{AnswerCache, Lifetimes};
pub use review::{Access, ApiServer, ReviewError, Reviewer};
pub use user::User;

/// How long the user behind a token is believed (`authentication.webhook.cacheTTL` is 2 min in a kubelet).
const TOKEN: Lifetimes = Lifetimes { positive: Duration::from_secs(60), negative: Duration::from_secs(5) };
/// How long a decision is believed: a kubelet's defaults of `authorization.webhook`.
const ACCESS: Lifetimes =
    Lifetimes { positive: Duration::from_secs(5 * 60), negative: Duration::from_secs(30) };
/// How long the API server may take for a review.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// Most reviews at once: a flood of wrong tokens becomes a queue here, not a flood on the API server.
const REVIEWS_AT_ONCE: usize = 16;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a request goes no further.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Neither a certificate nor a token that names someone.
    #[error("Unauthorized")]
    Unauthorized,
    /// The user may not do this. The text has the form of a kubelet's.
    #[error("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{}])", .subresources.join(" "))]
    Forbidden {
        /// Who asked.
        user: String,
        /// For what.
        verb: &'static str,
        /// On which subresources: any one would have done.
        subresources: &'static [&'static str],
    },
    /// A method that no route has.
    #[error("method {0} is not allowed")]
    Method(Method),
    /// The API server could not be asked.
    #[error("the request cannot be checked now: {0}; try again later")]
    Review(#[from] ReviewError),
}

impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Review(error) => {
                tracing::warn!(%error, cause = ?std::error::Error::source(error), "cannot review a request");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, self.to_string()).into_response()
    }
}

/// Authenticates and authorizes. Shared by all listeners.
pub struct Auth {
    reviewer: Arc<dyn Reviewer>,
    /// By hash, so that no token stays in memory.
    tokens: AnswerCache<[u8; 32], User>,
    access: AnswerCache<Access, ()>,
    reviews: Semaphore,
}

impl Auth {
    /// One with empty caches.
    pub fn new(reviewer: Arc<dyn Reviewer>) -> Self {
        Self {
            reviewer,
            tokens: AnswerCache::new(TOKEN),
            access: AnswerCache::new(ACCESS),
            reviews: Semaphore::new(REVIEWS_AT_ONCE),
        }
    }

    /// The user who asks, once it is known that they may.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub async fn check(
        &self,
        device: &DeviceName,
        certificate: Option<&User>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<User, AuthError> {
        let user = match certificate {
            Some(user) => user.clone(),
            None => self.user_of_token(bearer(headers).ok_or(AuthError::Unauthorized)?).await?,
        };
        let verb = attributes::verb(method).ok_or_else(|| AuthError::Method(method.clone()))?;
        let subresources = attributes::subresources(path);
        for &subresource in subresources {
            let access = Access { user: user.clone(), verb, node: device.as_str().to_owned(), subresource };
            if self.may(access).await? {
                return Ok(user);
            }
        }
        Err(AuthError::Forbidden { user: user.name, verb, subresources })
    }

    async fn user_of_token(&self, token: &str) -> Result<User, AuthError> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let answer = match self.tokens.get(&key, now()) {
            Some(answer) => answer,
            None => {
                let answer = self.ask(self.reviewer.token(token.to_owned())).await?;
                self.tokens.put(key, answer.clone(), now());
                answer
            }
        };
        answer.ok_or(AuthError::Unauthorized)
    }

    async fn may(&self, access: Access) -> Result<bool, AuthError> {
        if let Some(answer) = self.access.get(&access, now()) {
            return Ok(answer.is_some());
        }
        let allowed = self.ask(self.reviewer.access(access.clone())).await?;
        self.access.put(access, allowed.then_some(()), now());
        Ok(allowed)
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, ReviewError>>) -> Result<T, ReviewError> {
        let asked = async {
            // The semaphore is never closed.
            let _permit = self.reviews.acquire().await.ok();
            question.await
        };
        timeout(REVIEW_TIMEOUT, asked).await.unwrap_or(Err(ReviewError::Timeout(REVIEW_TIMEOUT)))
    }
}

/// tokio's clock, so that tests can move it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= MAX_TOKEN).then_some(token)
}

#[cfg(test)]
#[path = "auth/tests.rs"]
mod tests;
