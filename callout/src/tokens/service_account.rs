//! Tokens of the cluster's service accounts: the API server is asked, and what it said is remembered.
//!
//! ```text
//! seen within FRESH ────────────► believed
//! else TokenReview ── answered ─► believed or refused, remembered
//!                  └─ no answer ─► believed if seen within STALE, else unavailable
//! ```
//!
//! Only positive answers are remembered, by the token's hash; a wrong token costs its sender's address.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, api::PostParams};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::decide::TokenRefusal;

/// How long an answer is believed without asking again.
const FRESH: Duration = Duration::from_secs(60);
/// How long an answer is believed while the API server does not answer.
const STALE: Duration = Duration::from_secs(600);
/// How long the API server may take. The NATS server gives up after two seconds.
const DEADLINE: Duration = Duration::from_secs(1);
/// Most tokens that are remembered. There are some replicas of two components.
const CAPACITY: usize = 1024;

/// The API server did not say who holds a token.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// No answer, or no usable one.
    #[error("the token review failed")]
    Api(#[source] Box<kube::Error>),
    /// It took too long.
    #[error("the token review took longer than {DEADLINE:?}")]
    Deadline,
}

/// Who asks the API server.
pub trait TokenReviews: Send + Sync {
    /// The user's name, or `None` if the token is not valid for the audience.
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>>;
}

/// The real API server.
pub struct KubeReviews {
    api: Api<TokenReview>,
    audience: String,
}

impl KubeReviews {
    /// Reviews for one audience.
    pub fn new(client: kube::Client, audience: String) -> Self {
        Self { api: Api::all(client), audience }
    }
}

impl TokenReviews for KubeReviews {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        Box::pin(async move {
            let review = TokenReview {
                spec: TokenReviewSpec {
                    token: token.to_owned(),
                    audiences: Some(vec![self.audience.clone()]),
                },
                ..TokenReview::default()
            };
            let params = PostParams::default();
            let status = tokio::time::timeout(DEADLINE, self.api.create(&params, &review))
                .await
                .map_err(|_| ReviewError::Deadline)?
                .map_err(|error| ReviewError::Api(Box::new(error)))?
                .status
                .unwrap_or_default();
            // An authenticator that knows no audiences would leave this list empty.
            let ours = status.audiences.unwrap_or_default().contains(&self.audience);
            let user = status.user.and_then(|user| user.username);
            Ok(if status.authenticated == Some(true) && ours { user } else { None })
        })
    }
}

/// The verifier.
pub struct ServiceAccounts {
    reviews: Box<dyn TokenReviews>,
    seen: Mutex<HashMap<[u8; 32], Seen>>,
}

#[derive(Debug, Clone)]
struct Seen {
    user: String,
    at: Instant,
}

impl ServiceAccounts {
    /// Asks through `reviews`.
    pub fn new(reviews: impl TokenReviews + 'static) -> Self {
        Self { reviews: Box::new(reviews), seen: Mutex::default() }
    }

    /// The user that the token names.
    ///
    /// # Errors
    /// [`TokenRefusal::Refused`] if the API server said no, [`TokenRefusal::RateLimited`] if `may_ask` did,
    /// [`TokenRefusal::Unavailable`] if nobody answered.
    pub async fn user(
        &self,
        token: &str,
        may_ask: impl FnOnce() -> bool + Send,
    ) -> Result<String, TokenRefusal> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let remembered = self.seen().get(&hash).cloned();
        if let Some(seen) = &remembered
            && seen.at.elapsed() < FRESH
        {
            return Ok(seen.user.clone());
        }
        if remembered.is_none() && !may_ask() {
            return Err(TokenRefusal::RateLimited);
        }
        match self.reviews.review(token).await {
            Ok(Some(user)) => {
                self.remember(hash, user.clone());
                Ok(user)
            }
            Ok(None) => {
                self.seen().remove(&hash);
                Err(TokenRefusal::Refused("not-authenticated"))
            }
            Err(error) => match remembered {
                Some(seen) if seen.at.elapsed() < STALE => {
                    tracing::warn!(%error, user = seen.user, "believing a token that was reviewed before");
                    Ok(seen.user)
                }
                _ => {
                    tracing::warn!(%error, "a token cannot be reviewed");
                    Err(TokenRefusal::Unavailable)
                }
            },
        }
    }

    fn remember(&self, hash: [u8; 32], user: String) {
        let mut seen = self.seen();
        if seen.len() >= CAPACITY {
            seen.retain(|_, entry| entry.at.elapsed() < STALE);
        }
        if seen.len() >= CAPACITY {
            let oldest = seen.iter().min_by_key(|(_, entry)| entry.at).map(|(hash, _)| *hash);
            oldest.map(|hash| seen.remove(&hash));
        }
        seen.insert(hash, Seen { user, at: Instant::now() });
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<[u8; 32], Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "../tests/service_account.rs"]
mod tests;
