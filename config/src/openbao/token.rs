//! The token of the store: had when it is first needed, renewed before it ends, had anew when it cannot be renewed.
//!
//! ```text
//!            log in             2/3 of its life                refused, or hardly longer
//!  (nothing) ───────► held ───────────────────► renew ─────────────────────────────────► log in
//!      ▲                ▲                        │  └─ unreachable: again, backing off ──┐  │
//!      └─ denied ───────┴──── longer life ───────┘  ◄────────────────────────────────────┘  │
//!      └───────────────────────────────── the token ended ◄─────────────────────────────────┘
//! ```
//!
//! One task renews; it ends with the client. Calls get the token that is held, and log in themselves when none is:
//! one at a time, the others wait for what it got. A login that was refused is not repeated at once, or the store
//! would lock the user.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::{Mutex, OnceCell},
    task::JoinHandle,
    time::Instant,
};

use super::{
    error::OpenBaoError,
    login::{Grant, Login},
    secret::Secret,
    transport::Transport,
};

/// How long a refused login is not tried again: the first and the longest time.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long after a failed renewal it is tried again: the first and the longest time.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest time for one renewal or login of the task.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// A token is not used in the last moment of its life: the request takes time.
const MARGIN: Duration = Duration::from_millis(500);

/// Has the token. Clones share it.
#[derive(Clone)]
pub(super) struct Keeper(Arc<Inner>);

struct Inner {
    transport: Transport,
    login: Login,
    state: Mutex<State>,
    namespaces: OnceCell<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    generation: u64,
    task: Option<JoinHandle<()>>,
    refused: Option<Refused>,
    last_error: Option<String>,
}

struct Refused {
    error: OpenBaoError,
    until: Instant,
    pause: Duration,
}

struct Held {
    grant: Grant,
    since: Instant,
    /// How long it was good at the login, to see that renewals give less and less.
    first_lifetime: Option<Duration>,
}

/// A token for one call.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: Secret,
    generation: u64,
}

/// How a login stands.
pub(super) struct Standing {
    pub(super) ends_in: Option<Duration>,
    pub(super) last_error: Option<String>,
}

impl Keeper {
    /// Asks nobody.
    pub(super) fn new(transport: Transport, login: Login) -> Self {
        let (state, namespaces) = (Mutex::default(), OnceCell::new());
        Self(Arc::new(Inner { transport, login, state, namespaces }))
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.0.transport
    }

    pub(super) fn login(&self) -> &Login {
        &self.0.login
    }

    /// A token that is good for now, as far as we know.
    pub(super) async fn token(&self) -> Result<Token, OpenBaoError> {
        let mut state = self.0.state.lock().await;
        let now = Instant::now();
        if let Some(held) = state.held.as_ref().filter(|held| held.is_good(now)) {
            let secret = held.grant.token.clone();
            let token = Token { secret, generation: state.generation };
            // The task's runtime may have ended before this one began.
            if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
                self.renew_from_now_on(&mut state);
            }
            return Ok(token);
        }
        if let Some(refused) = state.refused.as_ref().filter(|refused| now < refused.until) {
            return Err(refused.error.clone());
        }
        let fetched = self.0.fetch().await;
        state.accept(fetched)?;
        self.renew_from_now_on(&mut state);
        let held = state.held.as_ref().ok_or(OpenBaoError::Resting)?;
        Ok(Token { secret: held.grant.token.clone(), generation: state.generation })
    }

    /// After a refusal: whether the token is at fault. Then it is held no longer.
    pub(super) async fn was_the_token(&self, token: &Token) -> Result<bool, OpenBaoError> {
        if self.0.login.is_good(&self.0.transport, &token.secret).await? {
            return Ok(false);
        }
        let mut state = self.0.state.lock().await;
        if state.generation == token.generation {
            state.held = None;
        }
        Ok(true)
    }

    /// Forgets the token and the pause after a refused login, e.g. since a person has just logged in.
    pub(super) async fn start_anew(&self) {
        let mut state = self.0.state.lock().await;
        (state.held, state.refused) = (None, None);
    }

    /// Without waiting for a login that is under way.
    pub(super) fn standing(&self) -> Standing {
        match self.0.state.try_lock() {
            Ok(state) => Standing {
                ends_in: state.held.as_ref().and_then(|held| held.left(Instant::now())),
                last_error: state.last_error.clone(),
            },
            Err(_) => Standing { ends_in: None, last_error: None },
        }
    }

    fn renew_from_now_on(&self, state: &mut State) {
        if let Some(task) = state.task.take() {
            task.abort();
        }
        // A token that does not end, or that nobody can renew or replace, needs no task.
        if state.held.as_ref().is_some_and(|held| held.grant.lifetime.is_some()) {
            let span = tracing::info_span!("renewal", store = self.0.transport.url());
            let task = keep_fresh(Arc::downgrade(&self.0));
            state.task = Some(tokio::spawn(tracing::Instrument::instrument(task, span)));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.state.get_mut().task.take() {
            task.abort();
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Keeper")
            .field("transport", &self.0.transport)
            .field("login", &self.0.login)
            .finish_non_exhaustive()
    }
}

impl Held {
    fn new(grant: Grant, since: Instant) -> Self {
        Self { first_lifetime: grant.lifetime, grant, since }
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        let lifetime = self.grant.lifetime?;
        Some(lifetime.saturating_sub(now.duration_since(self.since)))
    }

    fn is_good(&self, now: Instant) -> bool {
        self.left(now).is_none_or(|left| left > MARGIN)
    }

    /// When to renew: after two thirds of its life, a tenth of it more or less.
    fn renew_at(&self, jitter: f64) -> Option<Instant> {
        let lifetime = self.grant.lifetime?;
        Some(self.since + lifetime.mul_f64(2.0 / 3.0 + (jitter - 0.5) * 0.2))
    }
}

impl Inner {
    /// Logs in, with nothing kept of it yet.
    async fn fetch(&self) -> Result<Held, OpenBaoError> {
        let since = Instant::now();
        self.refuse_namespaces().await?;
        Ok(Held::new(self.login.log_in(&self.transport).await?, since))
    }

    /// Vault without Enterprise ignores the header: settings of one namespace would silently be those of another.
    async fn refuse_namespaces(&self) -> Result<(), OpenBaoError> {
        if self.transport.namespace().is_none() {
            return Ok(());
        }
        let look = || async {
            let health = self.transport.health().await?;
            match health.has_namespaces() {
                true => Ok(()),
                false => Err(OpenBaoError::NoNamespaces { product: health.product() }),
            }
        };
        self.namespaces.get_or_try_init(look).await.map(|_| ())
    }

    /// What the task does when it is time: renews, or logs in where that gives no more. Calls use the old token
    /// meanwhile, so nothing is locked while the store is asked. Gives when to come again, or `None` when a call has
    /// to log in first.
    async fn renew(&self, failures: &mut u32) -> Option<Instant> {
        let (token, first_lifetime, renewable, generation) = {
            let state = self.state.lock().await;
            let held = state.held.as_ref()?;
            let renewable = held.grant.renewable && held.is_good(Instant::now());
            (held.grant.token.clone(), held.first_lifetime?, renewable, state.generation)
        };
        let since = Instant::now();
        let renewed = match renewable {
            true => match self.login.renew(&self.transport, &token).await {
                Ok(grant) if is_near_the_end(first_lifetime, &grant) => None,
                // Refused: its longest life is over, or somebody revoked it.
                Err(OpenBaoError::LoginRefused { .. }) => None,
                Ok(grant) => Some(Ok(Held { grant, since, first_lifetime: Some(first_lifetime) })),
                Err(error) => Some(Err(error)),
            },
            false => None,
        };
        let result = match renewed {
            Some(result) => result,
            None => self.fetch().await,
        };
        let mut state = self.state.lock().await;
        if state.generation != generation || state.held.is_none() {
            // A call found that the token is gone, and logs in, or has: it begins another task.
            return None;
        }
        match state.accept(result) {
            Ok(()) => {
                *failures = 0;
                state.held.as_ref().and_then(|held| held.renew_at(rand::random()))
            }
            Err(error) => {
                if *failures == 0 {
                    tracing::warn!(%error, "the store's token could not be renewed; trying again");
                }
                *failures += 1;
                Some(Instant::now() + backoff(*failures, rand::random()))
            }
        }
    }
}

impl State {
    /// Keeps what a login or renewal gave: a token, or the reason why not.
    fn accept(&mut self, result: Result<Held, OpenBaoError>) -> Result<(), OpenBaoError> {
        match result {
            Ok(held) => {
                // A renewed token is the same one.
                if self.held.as_ref().is_none_or(|before| before.grant.token != held.grant.token) {
                    self.generation += 1;
                }
                self.held = Some(held);
                (self.refused, self.last_error) = (None, None);
                Ok(())
            }
            Err(error) => {
                self.last_error = Some(error.to_string());
                if matches!(error, OpenBaoError::LoginRefused { .. }) {
                    let pause = self.refused.take().map_or(PAUSE.0, |before| (before.pause * 2).min(PAUSE.1));
                    let until = Instant::now() + pause;
                    self.refused = Some(Refused { error: error.clone(), until, pause });
                }
                Err(error)
            }
        }
    }
}

/// Whether a renewal gave so little that the longest life is near: a new login is better.
fn is_near_the_end(first_lifetime: Duration, renewed: &Grant) -> bool {
    renewed.lifetime.is_some_and(|now| now < first_lifetime / 2)
}

async fn keep_fresh(keeper: Weak<Inner>) {
    let mut failures = 0;
    let first = {
        let Some(inner) = keeper.upgrade() else { return };
        let state = inner.state.lock().await;
        state.held.as_ref().and_then(|held| held.renew_at(rand::random()))
    };
    let Some(mut next) = first else { return };
    loop {
        tokio::time::sleep_until(next).await;
        // Not held while asleep: it ends with the client.
        let Some(inner) = keeper.upgrade() else { return };
        next = match tokio::time::timeout(RENEW_WITHIN, inner.renew(&mut failures)).await {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(_) => {
                failures += 1;
                Instant::now() + backoff(failures, rand::random())
            }
        };
    }
}

/// Doubles, up to the longest; between half of it and all of it.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let full = BACKOFF.0.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF.1);
    full.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
#[path = "tests/token.rs"]
mod tests;
