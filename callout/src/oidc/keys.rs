//! The provider's keys: fetched when first needed, renewed before they are old, kept while it is away.
//!
//! ```text
//!                     first need                     every 5 min, or an unknown key id
//!   no keys, idle ───────────────► fetching ◄─────────────────────────────┐
//!                                   │    │ fails: again after 1 s … 30 s  │
//!                                   │    └───────────────────────► waiting┤
//!                                   └─ succeeds ──────────────────► fresh ┘
//! ```
//!
//! One task fetches; whoever needs keys asks it and watches what it tells. So a burst of connections costs
//! one fetch, a connection that gives up does not end the fetch of the others, and tokens with invented key
//! ids cost the provider one fetch in [`ASK_EVERY`] at most.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet_daemon::oidc::http::{HttpClient, HttpError};
use futures::{FutureExt as _, future::BoxFuture};
use openidconnect::{
    AsyncHttpClient, HttpRequest, HttpResponse, IssuerUrl, JsonWebKey as _, JsonWebKeyAlgorithm,
    core::{CoreJsonWebKey, CoreJsonWebKeyType, CoreProviderMetadata},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{OidcError, token::Token};

/// How old keys get before they are fetched again; so a key that the provider withdrew is refused after this
/// time at the latest, while the provider answers.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(300);
/// How long keys are good while the provider does not answer.
pub(super) const KEEP: Duration = Duration::from_secs(24 * 3600);
/// Least time between fetches for unknown key ids.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(10);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// More keys than a provider has.
const MAX_KEYS: usize = 64;
/// Shortest RSA modulus in base64url characters: 2048 bits. RFC 7518 §3.3 asks for that much.
const MIN_MODULUS: usize = 342;

/// The keys of one fetch.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<CoreJsonWebKey>,
    fetched: Instant,
}

/// What the fetching task tells.
#[derive(Debug, Clone, Default)]
struct Told {
    keys: Option<Arc<KeySet>>,
    /// When the last fetch began.
    began: Option<Instant>,
    failed: bool,
    /// A fetch is under way.
    busy: bool,
}

/// The keys of one provider.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: IssuerUrl,
    client: HttpClient,
    told: Arc<watch::Sender<Told>>,
    wanted: Arc<Notify>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Keys {
    pub(super) fn new(issuer: IssuerUrl, client: HttpClient) -> Self {
        let told = Arc::new(watch::Sender::default());
        Self { issuer, client, told, wanted: Arc::default(), task: Mutex::default() }
    }

    /// Checks a token's signature, with a fetch when its key is not known. Gives up at `deadline`.
    pub(super) async fn verify(&self, token: &Token<'_>, deadline: Instant) -> Result<(), OidcError> {
        let mut told = self.told.subscribe();
        if let Some(result) = told.borrow_and_update().check(token) {
            return result;
        }
        let before = told.borrow().clone();
        self.start();
        self.wanted.notify_one();
        // Too soon after a fetch: the task will fetch when it may, and this token is not waited for.
        let recent = before.began.is_some_and(|began| began.elapsed() < ASK_EVERY);
        if recent && !before.busy {
            return match before.failed || before.usable().is_none() {
                true => Err(OidcError::Unavailable),
                false => Err(OidcError::UnknownKey),
            };
        }
        // The fetch that is under way, or the next one.
        let done = told.wait_for(|told| !told.busy && (before.busy || told.began != before.began));
        match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(told)) => match told.check(token) {
                Some(result) => result,
                // Whether the provider knows that key, only its answer could say.
                None if told.failed => Err(OidcError::Unavailable),
                None => Err(OidcError::UnknownKey),
            },
            Ok(Err(_)) | Err(_) => Err(OidcError::Unavailable),
        }
    }

    /// Starts the task, once; it ends with this value.
    fn start(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            let fetcher = Fetcher {
                issuer: self.issuer.clone(),
                client: Ours(self.client.clone()),
                told: Arc::clone(&self.told),
                wanted: Arc::clone(&self.wanted),
            };
            let span = tracing::info_span!("oidc-keys", issuer = self.issuer.as_str());
            *task = Some(AbortOnDropHandle::new(tokio::spawn(fetcher.run().instrument(span))));
        }
    }
}

impl Told {
    fn usable(&self) -> Option<&KeySet> {
        self.keys.as_deref().filter(|keys| keys.fetched.elapsed() < KEEP)
    }

    fn check(&self, token: &Token<'_>) -> Option<Result<(), OidcError>> {
        self.usable()?.check(token)
    }
}

impl KeySet {
    /// `None`: no key for it here.
    fn check(&self, token: &Token<'_>) -> Option<Result<(), OidcError>> {
        let verifies = |key: &&CoreJsonWebKey| {
            key.verify_signature(&token.algorithm, token.message, &token.signature).is_ok()
        };
        let candidates = || self.keys.iter().filter(|key| fits(key, token));
        match &token.key_id {
            Some(_) if candidates().next().is_none() => None,
            Some(_) if candidates().any(|key| verifies(&key)) => Some(Ok(())),
            Some(_) => Some(Err(OidcError::Signature)),
            // Without an id, the key may be one that is not here yet.
            None => candidates().find(verifies).map(|_| Ok(())),
        }
    }
}

fn fits(key: &CoreJsonWebKey, token: &Token<'_>) -> bool {
    let id = match (&token.key_id, key.key_id()) {
        (Some(wanted), Some(id)) => wanted == id.as_str(),
        (Some(_), None) => false,
        (None, _) => true,
    };
    let algorithm = match key.signing_alg() {
        JsonWebKeyAlgorithm::Unspecified => true,
        JsonWebKeyAlgorithm::Algorithm(algorithm) => *algorithm == token.algorithm,
        JsonWebKeyAlgorithm::Unsupported => false,
    };
    id && algorithm
}

/// Whether a key of the provider is one to believe: public-key signatures only, and long enough.
fn is_sound(key: &CoreJsonWebKey) -> bool {
    match key.key_type() {
        CoreJsonWebKeyType::EllipticCurve | CoreJsonWebKeyType::OctetKeyPair => true,
        CoreJsonWebKeyType::RSA => serde_json::to_value(key)
            .ok()
            .and_then(|key| Some(key.get("n")?.as_str()?.trim_start_matches('A').len()))
            .is_some_and(|length| length >= MIN_MODULUS),
        _ => false,
    }
}

struct Fetcher {
    issuer: IssuerUrl,
    client: Ours,
    told: Arc<watch::Sender<Told>>,
    wanted: Arc<Notify>,
}

impl Fetcher {
    async fn run(self) {
        let mut failures = 0;
        let mut reported = None;
        loop {
            let began = Instant::now();
            self.told.send_modify(|told| {
                told.busy = true;
                told.began = Some(began);
            });
            let fetched = self.fetch().await;
            let next = match &fetched {
                Ok(_) => {
                    failures = 0;
                    began + RENEW_EVERY.mul_f64(1.0 - rand::random::<f64>() / 5.0)
                }
                Err(_) => {
                    failures += 1;
                    Instant::now() + backoff(failures, rand::random())
                }
            };
            report(&fetched, &mut reported);
            // Those who asked meanwhile wait for this fetch.
            let _ = self.wanted.notified().now_or_never();
            self.told.send_modify(|told| {
                told.busy = false;
                told.failed = fetched.is_err();
                if let Ok(keys) = fetched {
                    told.keys = Some(Arc::new(keys));
                }
            });
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wanted.notified() => sleep_until(next.min(began + ASK_EVERY)).await,
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let fetched = Instant::now();
        let metadata = CoreProviderMetadata::discover_async(self.issuer.clone(), &self.client)
            .await
            .map_err(|error| causes(&error))?;
        let sound = metadata.jwks().keys().iter().filter(|key| is_sound(key)).take(MAX_KEYS);
        let keys: Vec<_> = sound.cloned().collect();
        match keys.is_empty() {
            true => Err("it has no key for RS256, ES256 or EdDSA".to_owned()),
            false => Ok(KeySet { keys, fetched }),
        }
    }
}

/// Our client, as the library wants one.
struct Ours(HttpClient);

impl<'c> AsyncHttpClient<'c> for Ours {
    type Error = HttpError;
    type Future = BoxFuture<'c, Result<HttpResponse, HttpError>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        self.0.send(request).boxed()
    }
}

/// One line for each change, not for each attempt.
fn report(fetched: &Result<KeySet, String>, reported: &mut Option<String>) {
    match fetched {
        Ok(keys) if reported.take().is_some() => {
            tracing::info!(keys = keys.keys.len(), "the identity provider answers again");
        }
        Ok(keys) => tracing::debug!(keys = keys.keys.len(), "fetched the identity provider's keys"),
        Err(reason) if reported.as_ref() != Some(reason) => {
            tracing::warn!(
                reason,
                "the identity provider's keys cannot be fetched, trying again; known keys stay good for 24 h"
            );
            *reported = Some(reason.clone());
        }
        Err(_) => {}
    }
}

/// Uniformly between a half and the whole of a bound that doubles. `random` is uniform in 0..1.
fn backoff(failures: u32, random: f64) -> Duration {
    let bound = BACKOFF.0.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF.1);
    bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
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
