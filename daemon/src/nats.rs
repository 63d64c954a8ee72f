//! The connection to NATS: one, kept for the life of the process.
//!
//! Who connects logs in anew at each connection ([`Login`]). A lost connection, or a server that was never
//! there, is tried again for ever, with exponential backoff and jitter, so that a fleet does not come back in
//! one moment after its broker restarts. When the server only ended it because the login's time was over
//! (a NATS user lives for minutes), the client logs in again at once: that is no failure.
//!
//! What is published while [`LinkState::Disconnected`] waits in the client's queue and is sent after the
//! reconnection; a sender to whom late is worse than never looks at [`Connection::state`] first.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{AuthError, ConnectOptions, Event, ReconnectToServer, ServerAddr, ServerError};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use rustls::{ClientConfig, RootCertStore};

pub use crate::credential::{CaSource, Login, NkeySeed};
use crate::{credential::CredentialError, health::CheckHandle};

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
    /// CA of the server's certificate. When it is set the connection is TLS, whatever the URL's scheme, and
    /// no other CA is trusted. `None` trusts the system's.
    pub ca: Option<CaSource>,
    /// Who connects.
    pub login: Login,
    /// Shown by the server in its connection list, e.g. `device-kubelet pi-7`.
    pub name: String,
    /// Prefix of the inboxes for answers, e.g. `_INBOX.pi-7`; `None` means `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// How many messages of one subscription may wait for their reader. One more is dropped and reported
    /// as a slow consumer: the connection never waits for a reader.
    pub subscription_capacity: usize,
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
    /// The CA has no certificate.
    #[error("the NATS CA ({ca}) has no usable certificate: expected PEM")]
    NoCertificate {
        /// The file, or that it stood in the settings.
        ca: String,
    },
    /// The login cannot work.
    #[error(transparent)]
    Login(#[from] CredentialError),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
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
    /// How many logins the server has refused. One alone says little: the service that decides may have been
    /// away.
    pub refused: watch::Receiver<u64>,
    /// At least so many messages were dropped because their subscription was full. In a flood the client
    /// does not report each.
    pub dropped: Arc<AtomicU64>,
    logins: Arc<Logins>,
}

/// The login to show, and which one the server has let in.
#[derive(Debug)]
struct Logins {
    /// With its number: they count up.
    current: Mutex<(u64, Arc<Login>)>,
    shown: AtomicU64,
    accepted: AtomicU64,
}

impl Logins {
    fn new(login: Login) -> Self {
        let current = Mutex::new((0, Arc::new(login)));
        Self { current, shown: AtomicU64::new(0), accepted: AtomicU64::new(0) }
    }

    fn set(&self, login: Login) -> u64 {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, Arc::new(login));
        current.0
    }

    /// For a connection that begins.
    fn show(&self) -> Arc<Login> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.shown.store(current.0, Ordering::Relaxed);
        Arc::clone(&current.1)
    }

    /// It was let in. There is one attempt at a time.
    fn accept(&self) {
        self.accepted.store(self.shown.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Connection {
    /// Logs in as somebody else from the next connection on. The one that is open stays. The number tells this
    /// login from others: see [`Connection::accepted_login`].
    ///
    /// # Errors
    /// [`NatsError::Login`] when that can never work; nothing changes then.
    pub fn set_login(&self, login: Login) -> Result<u64, NatsError> {
        login.check()?;
        Ok(self.logins.set(login))
    }

    /// Number of the login that the server let in last; 0 is the first one. An attempt with an older login may be
    /// under way while a newer one is set, so that being connected alone does not say as whom.
    pub fn accepted_login(&self) -> u64 {
        self.logins.accepted.load(Ordering::Relaxed)
    }

    /// Ends the connection and makes a new one, with the login of now.
    pub async fn reconnect(&self) {
        // An error says that the client was closed: there is nothing to renew.
        let _ = self.client.force_reconnect().await;
    }
}

/// How long a connection may be away before a process calls itself not ready: a NATS user that expires, or a
/// server that restarts, is no reason to.
const READY_PATIENCE: Duration = Duration::from_secs(5);

/// Keeps a readiness check up to date, for ever.
pub async fn report(mut state: watch::Receiver<LinkState>, check: CheckHandle) {
    let mut was_connected = false;
    loop {
        let connected = *state.borrow_and_update() == LinkState::Connected;
        if !connected
            && was_connected
            && timeout(READY_PATIENCE, state.changed()).await.is_ok_and(|c| c.is_ok())
        {
            continue;
        }
        was_connected = connected;
        if connected {
            check.ready();
        } else {
            check.not_ready("not connected to NATS");
        }
        if state.changed().await.is_err() {
            return;
        }
    }
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
    settings.login.check()?;
    let logins = Arc::new(Logins::new(settings.login.clone()));
    let events = Arc::new(LinkEvents::new(&settings.url, Arc::clone(&logins)));
    let (state, refused) = (events.state.subscribe(), events.refused.subscribe());
    let dropped = Arc::clone(&events.dropped);
    let first = AtomicBool::new(true);

    let shown = Arc::clone(&logins);
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let login = shown.show();
        async move { login.prove(&nonce).await.map_err(AuthError::new) }
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
    });
    let ended = Arc::clone(&events);
    options = options
        .reconnect_to_server_callback(move |servers, _| {
            let events = Arc::clone(&ended);
            async move {
                if !events.take_expiry().await {
                    // The usual way: with a growing delay.
                    return None;
                }
                let addr = servers.get(rand::random_range(0..servers.len().max(1)))?.addr.clone();
                Some(ReconnectToServer { addr, delay: Some(Duration::ZERO) })
            }
        })
        .event_callback(move |event| {
            events.observe(event);
            std::future::ready(())
        });
    if let Some(prefix) = &settings.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    match &settings.ca {
        Some(CaSource::File(file)) => {
            let pem =
                std::fs::read(file).map_err(|source| NatsError::CaFile { file: file.to_owned(), source })?;
            certificates(&pem, &file.display().to_string())?;
            options = options.add_root_certificates(file.clone()).require_tls(true);
        }
        Some(CaSource::Pem(pem)) => {
            let roots = certificates(pem.as_bytes(), "as text")?;
            options = options.tls_client_config(trusting(roots)?).require_tls(true);
        }
        None => {}
    }
    let client = options.connect(servers).await.map_err(NatsError::Client)?;
    Ok(Connection { client, state, refused, dropped, logins })
}

fn servers(url: &str) -> Result<Vec<ServerAddr>, NatsError> {
    url.split(',')
        .map(|server| server.trim().parse().map_err(|source| NatsError::Url { url: url.to_owned(), source }))
        .collect()
}

/// The certificates of a CA; at least one, all usable.
fn certificates(mut pem: &[u8], ca: &str) -> Result<RootCertStore, NatsError> {
    let useless = || NatsError::NoCertificate { ca: ca.to_owned() };
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem) {
        certificate.ok().and_then(|certificate| roots.add(certificate).ok()).ok_or_else(useless)?;
    }
    if roots.is_empty() { Err(useless()) } else { Ok(roots) }
}

fn trusting(roots: RootCertStore) -> Result<ClientConfig, NatsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(NatsError::Tls)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// How long to wait before attempt `attempt` (from 1): uniformly between a half and the whole of a bound
/// that doubles up to [`BACKOFF_MAX`]. `random` is uniform in 0..1.
fn delay(attempt: usize, random: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let bound = BACKOFF_BASE.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// What nats-server says before it ends the connection of a user whose time is over.
const EXPIRED: &str = "user authentication expired";
/// How long the client's events may lag behind the client.
const EVENTS_LAG: Duration = Duration::from_millis(100);

/// Follows the client's events; logs changes, not attempts.
struct LinkEvents {
    state: watch::Sender<LinkState>,
    refused: watch::Sender<u64>,
    /// The server said that the login's time is over; the connection ends, or ended, for that.
    expired: AtomicBool,
    last_error: Mutex<Option<String>>,
    drops: Mutex<Drops>,
    dropped: Arc<AtomicU64>,
    logins: Arc<Logins>,
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
    fn new(url: &str, logins: Arc<Logins>) -> Self {
        Self {
            state: watch::Sender::new(LinkState::Disconnected),
            refused: watch::Sender::new(0),
            expired: AtomicBool::new(false),
            last_error: Mutex::default(),
            drops: Mutex::default(),
            dropped: Arc::default(),
            logins,
            url: url.to_owned(),
        }
    }

    fn observe(&self, event: Event) {
        match event {
            Event::Connected => {
                self.last_error().take();
                self.expired.store(false, Ordering::Relaxed);
                // Before anyone sees that there is a connection.
                self.logins.accept();
                if self.state.send_replace(LinkState::Connected) != LinkState::Connected {
                    tracing::info!(url = self.url, "connected to NATS");
                }
            }
            Event::Disconnected | Event::Closed => {
                if self.state.send_replace(LinkState::Disconnected) != LinkState::Disconnected {
                    if self.expired.load(Ordering::Relaxed) {
                        tracing::debug!(url = self.url, "the login at NATS expired, logging in again");
                    } else {
                        tracing::warn!(url = self.url, "lost the connection to NATS, reconnecting");
                    }
                }
            }
            Event::SlowConsumer(subscription) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(messages) = drops.count(Instant::now()) {
                    tracing::warn!(subscription, messages, "messages dropped: their reader is too slow");
                }
            }
            Event::ServerError(error) if is_expiry(&error) => self.expired.store(true, Ordering::Relaxed),
            // The connection stays: a subject was refused, mostly.
            Event::ServerError(error) if *self.state.borrow() == LinkState::Connected => {
                if self.is_new(error.to_string()) {
                    tracing::warn!(url = self.url, %error, "refused by NATS");
                }
            }
            Event::ServerError(error) => self.report(error.to_string()),
            Event::ClientError(error) => {
                let error = error.to_string();
                if error.to_lowercase().contains("authorization violation") {
                    self.refused.send_modify(|refused| *refused += 1);
                }
                self.report(error);
            }
            Event::LameDuckMode => tracing::info!("the NATS server is about to stop"),
            Event::Draining => {}
        }
    }

    /// Whether the connection that just ended did so because the login expired; asked once for each, so that
    /// an attempt that fails after it is followed by the usual pauses.
    async fn take_expiry(&self) -> bool {
        // The client reconnects before its events were heard: what it said last, it said before it left.
        let mut state = self.state.subscribe();
        let gone = state.wait_for(|state| *state == LinkState::Disconnected);
        timeout(EVENTS_LAG, gone).await.is_ok() && self.expired.swap(false, Ordering::Relaxed)
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

fn is_expiry(error: &ServerError) -> bool {
    matches!(error, ServerError::Other(text) if text.to_lowercase().contains(EXPIRED))
}

#[cfg(test)]
#[path = "tests/nats.rs"]
mod tests;
