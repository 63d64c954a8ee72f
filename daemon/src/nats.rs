//! The connection to NATS: one, kept for the life of the process.
//!
//! Who connects proves its nkey on the nonce of each connection; the seed never leaves the process. A lost
//! connection, or a server that was never there, is tried again for ever, with exponential backoff and
//! jitter, so that a fleet does not come back in one moment after its broker restarts.
//!
//! What is published while [`LinkState::Disconnected`] waits in the client's queue and is sent after the
//! reconnection; a sender to whom late is worse than never looks at [`Connection::state`] first.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Auth, AuthError, ConnectOptions, Event, ServerAddr};
use nkeys::KeyPair;
use tokio::{sync::watch, time::Instant};
use zeroize::Zeroizing;

/// After how long without traffic from the server it is pinged. Two unanswered pings end the connection,
/// so a dead one is noticed within 45 s: less than the 50 s after which Kubernetes calls a node unknown.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long one attempt may take, TLS included: a Pi on a slow uplink needs some seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Upper bound of the first delay.
const BACKOFF_BASE: Duration = Duration::from_millis(500);
/// Upper bound of every delay.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Start size of the read buffer, in bytes. It grows with a message; async-nats' own 64 KiB would be a
/// visible part of the agent's memory.
const READ_BUFFER: u16 = 16 * 1024;
/// Most commands that wait for the socket.
const SENDER_CAPACITY: usize = 2048;
/// How often at most a line says that messages were dropped.
const TELL_DROPS_EVERY: Duration = Duration::from_secs(10);

/// How to reach NATS, and as whom.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// `nats://host:4222` or `tls://host:4222`; several are separated by commas.
    pub url: String,
    /// CA of the server's certificate (PEM). When it is set the connection is TLS, whatever the URL's
    /// scheme, and no other CA is trusted. `None` trusts the system's.
    pub ca_file: Option<PathBuf>,
    /// Seed of the user's nkey.
    pub seed: NkeySeed,
    /// Shown by the server in its connection list, e.g. `device-kubelet pi-7`.
    pub name: String,
    /// Prefix of the inboxes for answers, e.g. `_INBOX.pi-7`; `None` means `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// How many messages of one subscription may wait for their reader. One more is dropped and reported
    /// as a slow consumer: the connection never waits for a reader.
    pub subscription_capacity: usize,
}

/// The seed of an nkey (`SU…`). `Debug` does not show it, and its memory is wiped.
#[derive(Clone)]
pub struct NkeySeed(Zeroizing<String>);

impl NkeySeed {
    /// From text; surrounding white space is dropped. Whether it is a seed, [`connect`] checks.
    pub fn new(seed: impl Into<String>) -> Self {
        let seed = Zeroizing::new(seed.into());
        Self(Zeroizing::new(seed.trim().to_owned()))
    }

    /// From a file that holds nothing else.
    pub fn from_file(file: &Path) -> Result<Self, NatsError> {
        std::fs::read_to_string(file)
            .map(Self::new)
            .map_err(|source| NatsError::SeedFile { file: file.to_owned(), source })
    }

    fn key_pair(&self) -> Result<KeyPair, NatsError> {
        // What nkeys says could repeat parts of the seed.
        KeyPair::from_seed(&self.0).map_err(|_| NatsError::Seed)
    }
}

impl std::fmt::Debug for NkeySeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NkeySeed(…)")
    }
}

/// Why the connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The URL is not one.
    #[error("setting `nats-url` = {url:?}: expected nats://host:port or tls://host:port")]
    Url {
        /// What was given.
        url: String,
        /// What the parser said.
        #[source]
        source: std::io::Error,
    },
    /// The CA file cannot be read.
    #[error("the NATS CA file {file} cannot be read", file = file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The CA file has no certificate.
    #[error("the NATS CA file {file} has no certificate: expected PEM", file = file.display())]
    NoCertificate {
        /// The file.
        file: PathBuf,
    },
    /// The seed's file cannot be read.
    #[error("the nkey seed file {file} cannot be read", file = file.display())]
    SeedFile {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The seed is not one.
    #[error("the NATS seed is not the seed of an nkey: expected 58 characters that begin with S")]
    Seed,
    /// The client could not be set up.
    #[error("the NATS client cannot be set up")]
    Client(#[source] async_nats::ConnectError),
}

/// Whether NATS can be reached right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Connected and authenticated.
    Connected,
    /// Not; attempts go on.
    Disconnected,
}

/// A connection that lasts as long as the process.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: async_nats::Client,
    /// Follows the connection.
    pub state: watch::Receiver<LinkState>,
}

/// Makes ring the process's TLS provider. To be called first in `main`; later calls change nothing.
pub fn install_crypto_provider() {
    // An error says that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Starts connecting and returns at once, also when no server answers; only settings that can never work
/// are errors.
pub async fn connect(settings: &NatsSettings) -> Result<Connection, NatsError> {
    let servers = servers(&settings.url)?;
    let key = Arc::new(settings.seed.key_pair()?);
    let state = Arc::new(watch::Sender::new(LinkState::Disconnected));
    let connection_state = state.subscribe();
    let events = Arc::new(LinkEvents {
        state,
        last_error: Mutex::default(),
        drops: Mutex::default(),
        url: settings.url.clone(),
    });
    let first = AtomicBool::new(true);

    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let auth = prove(&key, &nonce);
        async move { auth }
    })
    .name(&settings.name)
    .retry_on_initial_connect()
    .max_reconnects(None)
    .connection_timeout(CONNECT_TIMEOUT)
    .ping_interval(PING_INTERVAL)
    .subscription_capacity(settings.subscription_capacity)
    .client_capacity(SENDER_CAPACITY)
    .read_buffer_capacity(READ_BUFFER)
    // The servers are those of the settings: what a server says of its neighbours is not trusted.
    .ignore_discovered_servers()
    .reconnect_delay_callback(move |attempt| {
        if first.swap(false, Ordering::Relaxed) { Duration::ZERO } else { delay(attempt, rand::random()) }
    })
    .event_callback(move |event| {
        events.observe(event);
        std::future::ready(())
    });
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    if let Some(file) = &settings.ca_file {
        check_ca(file)?;
        options = options.add_root_certificates(file.clone()).require_tls(true);
    }
    let client = options.connect(servers).await.map_err(NatsError::Client)?;
    Ok(Connection { client, state: connection_state })
}

fn servers(url: &str) -> Result<Vec<ServerAddr>, NatsError> {
    url.split(',')
        .map(|server| server.trim().parse().map_err(|source| NatsError::Url { url: url.to_owned(), source }))
        .collect()
}

fn check_ca(file: &Path) -> Result<(), NatsError> {
    let unreadable = |source| NatsError::CaFile { file: file.to_owned(), source };
    let pem = std::fs::read(file).map_err(unreadable)?;
    let certificates =
        rustls_pemfile::certs(&mut pem.as_slice()).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if certificates.is_empty() {
        return Err(NatsError::NoCertificate { file: file.to_owned() });
    }
    Ok(())
}

fn prove(key: &KeyPair, nonce: &[u8]) -> Result<Auth, AuthError> {
    let mut auth = Auth::new();
    auth.nkey = Some(key.public_key());
    auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
    Ok(auth)
}

/// How long to wait before attempt `attempt` (from 1): uniformly between a half and the whole of a bound
/// that doubles up to [`BACKOFF_MAX`]. `random` is uniform in 0..1.
fn delay(attempt: usize, random: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let bound = BACKOFF_BASE.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// Follows the client's events; logs changes, not attempts.
struct LinkEvents {
    state: Arc<watch::Sender<LinkState>>,
    last_error: Mutex<Option<String>>,
    drops: Mutex<Drops>,
    url: String,
}

/// Messages that were dropped. One event comes for each, thousands in a second: they are told in sums.
#[derive(Debug, Default)]
struct Drops {
    told: Option<Instant>,
    untold: u64,
}

impl Drops {
    /// One more; how many there were since it was told last, if it is time to tell.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_DROPS_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl LinkEvents {
    fn observe(&self, event: Event) {
        match event {
            Event::Connected => {
                self.last_error().take();
                if self.state.send_replace(LinkState::Connected) != LinkState::Connected {
                    tracing::info!(url = self.url, "connected to NATS");
                }
            }
            Event::Disconnected | Event::Closed => {
                if self.state.send_replace(LinkState::Disconnected) != LinkState::Disconnected {
                    tracing::warn!(url = self.url, "lost the connection to NATS, reconnecting");
                }
            }
            Event::SlowConsumer(subscription) => {
                let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(messages) = drops.count(Instant::now()) {
                    tracing::warn!(subscription, messages, "messages dropped: their reader is too slow");
                }
            }
            // The connection stays: a subject was refused, mostly.
            Event::ServerError(error) if *self.state.borrow() == LinkState::Connected => {
                if self.is_new(error.to_string()) {
                    tracing::warn!(url = self.url, %error, "refused by NATS");
                }
            }
            Event::ServerError(error) => self.report(error.to_string()),
            Event::ClientError(error) => self.report(error.to_string()),
            Event::LameDuckMode => tracing::info!("the NATS server is about to stop"),
            Event::Draining => {}
        }
    }

    fn report(&self, error: String) {
        if self.is_new(error.clone()) {
            // The client keeps the cause to its own log lines.
            tracing::warn!(
                url = self.url,
                error,
                "NATS cannot be reached, trying again until it can; `async_nats=debug` in log-level says more"
            );
        }
    }

    /// One line for each new reason, not for each attempt.
    fn is_new(&self, error: String) -> bool {
        let mut last = self.last_error();
        let new = last.as_ref() != Some(&error);
        *last = Some(error);
        new
    }

    fn last_error(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "tests/nats.rs"]
mod tests;
