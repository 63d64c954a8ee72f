//! OpenBao, or Vault, as a store (feature `openbao`).
//!
//! ```text
//! settings ─► OpenBao ─ token ─► login, renewal
//!                │        └────► person (identity provider)
//!                └─ kv ─► transport ─► the server
//! ```
//!
//! Construction reads files and connects to nobody. Every call ends within the time that the settings give it, login
//! and repetitions included. Only what can be repeated without harm is repeated: reads, and writes that carry
//! check-and-set, which every write here does. Tokens and values stand in no log, no error and no `Debug`, and go to
//! no other server than the one in the settings.
//!
//! It knows nothing of models; see [`crate::store::StoreSource`].

mod error;
mod kv;
mod login;
mod person;
mod secret;
mod settings;
mod tls;
mod token;
mod transport;
mod write;

use std::{
    fmt,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

pub use error::{OpenBaoError, SettingsError};
pub use person::{PersonError, ProviderError, Verification, Who};
pub use secret::Secret;
pub use settings::{LoginMethod, OpenBaoSettings, ProviderToken, Setting};

use self::{
    kv::{Call, Head},
    login::Login,
    tls::Trust,
    token::Keeper,
    transport::{Answer, Transport},
};
use crate::{
    source::{Document, SourceError},
    store::{Entry, EntryVersion, Metadata, Store, StoreHealth, StorePath, StoreState},
};

/// In messages and metrics.
const NAME: &str = "openbao";
/// Where nothing else is set.
const DEFAULTS: (&str, &str) = ("secret", "harmony");
/// Time for one call in all, unless set otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Largest document, unless set otherwise. Storage behind stores takes 512 KiB (Consul) or 1 MiB (Raft) and more.
const MAX_VALUE: u64 = 512 * 1024;
/// How long reads fail at once after one that had no answer: ten models shall not wait ten times.
const REST: Duration = Duration::from_secs(2);
/// Pause before a read is repeated: the first one, doubled each time.
const PAUSE: Duration = Duration::from_millis(100);

/// A client of one server. Share it in an `Arc`; it has one login.
pub struct OpenBao {
    keeper: Keeper,
    mount: StorePath,
    prefix: StorePath,
    timeout: Duration,
    max_value: usize,
    resting_until: Mutex<Option<Instant>>,
}

impl OpenBao {
    /// Checks the settings. Connects to nobody and waits for nothing; call it wherever the program begins.
    ///
    /// # Errors
    /// [`SettingsError`], with every way to set what is missing.
    pub fn new(settings: &OpenBaoSettings) -> Result<Self, SettingsError> {
        let url = settings.url.as_deref().ok_or(SettingsError::NoServer)?;
        let path = |name: &'static str, set: &Option<String>, default: &str| {
            let text = set.as_deref().map_or(default, |text| text.trim_matches('/'));
            text.parse::<StorePath>().map_err(|error| SettingsError::Value { name, why: error.to_string() })
        };
        let (mount, prefix) = (
            path("kv-mount", &settings.kv_mount, DEFAULTS.0)?,
            path("prefix", &settings.prefix, DEFAULTS.1)?,
        );
        let timeout = match settings.timeout_seconds {
            Some(0) => {
                return Err(SettingsError::Value {
                    name: "timeout-seconds",
                    why: "expected 1 or more".to_owned(),
                });
            }
            Some(seconds) => Duration::from_secs(seconds.min(600)),
            None => TIMEOUT,
        };
        let skip_tls = settings.skip_tls.unwrap_or_default();
        let trust = match (skip_tls, &settings.ca_file) {
            (true, _) => Trust::Anybody,
            (false, Some(file)) => Trust::File(file),
            (false, None) if url.starts_with("http://") => Trust::Nobody,
            (false, None) => Trust::System,
        };
        let http = tls::client(trust, timeout)?;
        let transport = Transport::new(url, http, settings.namespace.clone(), skip_tls)?;
        let login = Login::new(settings)?;
        if skip_tls {
            tracing::warn!(
                url = transport.url(),
                "skip-tls is set: any server is believed, and gets the token"
            );
        }
        Ok(Self {
            keeper: Keeper::new(transport, login),
            mount,
            prefix,
            timeout,
            max_value: usize::try_from(settings.max_value_bytes.unwrap_or(MAX_VALUE)).unwrap_or(usize::MAX),
            resting_until: Mutex::default(),
        })
    }

    /// The prefix of the settings, for [`crate::store::StoreSource::new`].
    #[must_use]
    pub fn prefix(&self) -> &StorePath {
        &self.prefix
    }

    /// Logs a person in (`oidc`): shows a code and waits until it is confirmed at the identity provider, denied or
    /// too old. The login is kept for later programs of this user. Never called by reads and writes.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn log_in(&self, show: &mut (dyn FnMut(&Verification) + Send)) -> Result<Who, ProviderError> {
        let who = self.person()?.log_in(show).await?;
        self.keeper.start_anew().await;
        Ok(who)
    }

    /// Forgets a person's login; whether there was one.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn log_out(&self) -> Result<bool, ProviderError> {
        let was = self.person()?.log_out()?;
        self.keeper.start_anew().await;
        Ok(was)
    }

    /// Who is logged in (`oidc`), renewed if need be.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub async fn who(&self) -> Result<Who, ProviderError> {
        let person = self.person()?;
        Ok(person.who(&person.session().await?))
    }

    fn person(&self) -> Result<&person::Person, ProviderError> {
        let login = self.keeper.login();
        login.person().ok_or(ProviderError::NoPerson(login.method()))
    }

    /// One request with a token. Where the token was at fault, once more with a new one: what was refused was not
    /// done.
    async fn ask(&self, call: &Call) -> Result<Answer, OpenBaoError> {
        let token = self.keeper.token().await?;
        let answer = self.send(call, &token).await?;
        if answer.status != 403 {
            return Ok(answer);
        }
        if self.keeper.was_the_token(&token).await? {
            let answer = self.send(call, &self.keeper.token().await?).await?;
            if answer.status != 403 {
                return Ok(answer);
            }
        }
        Err(OpenBaoError::Denied { method: self.keeper.login().method(), said: answer.said() })
    }

    async fn send(&self, call: &Call, token: &token::Token) -> Result<Answer, OpenBaoError> {
        let Call { method, path, body } = call.clone();
        let answer = self.keeper.transport().send(method, &path, Some(&token.secret), body).await?;
        match answer.failure() {
            OpenBaoError::Sealed => Err(OpenBaoError::Sealed),
            error if answer.status >= 500 || answer.status == 429 => match answer.said() {
                // Not the server's trouble, but the value's.
                said if said.contains("too large") => Ok(answer),
                _ => Err(error),
            },
            _ => Ok(answer),
        }
    }

    /// A request that may be repeated: as long as there is time.
    async fn ask_again(&self, call: &Call) -> Result<Answer, OpenBaoError> {
        let mut pause = PAUSE;
        loop {
            match self.ask(call).await {
                Err(error) if error.is_transient() && pause < PAUSE * 16 => {
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
                    pause *= 2;
                }
                other => return other,
            }
        }
    }

    /// What stands there now.
    async fn head(&self, path: &StorePath) -> Result<Head, OpenBaoError> {
        self.version(path, None).await
    }

    async fn version(&self, path: &StorePath, version: Option<u64>) -> Result<Head, OpenBaoError> {
        let answer = self.ask_again(&kv::read(&self.mount, path, version)).await?;
        let mut head = kv::found(&self.mount, &answer)?;
        if head.version > 0 && head.base.is_none() {
            head.base = self.base(path).await?;
        }
        Ok(head)
    }

    /// When the store created the entry; `None` when the login may not ask, and then the revision is the version.
    async fn base(&self, path: &StorePath) -> Result<Option<u64>, OpenBaoError> {
        match self.ask_again(&kv::history(&self.mount, path)).await {
            Ok(answer) => kv::base(&self.mount, &answer),
            Err(OpenBaoError::Denied { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A read, in bounded time, and not at all when the last one had no answer just now.
    async fn reading<T>(
        &self,
        path: &StorePath,
        call: impl Future<Output = Result<T, OpenBaoError>>,
    ) -> Result<T, SourceError> {
        let resting = *self.resting();
        let result = match resting.filter(|until| Instant::now() < *until) {
            Some(_) => Err(OpenBaoError::Resting),
            None => self.within(false, call).await,
        };
        if matches!(result, Err(OpenBaoError::TimedOut { .. })) {
            *self.resting() = Some(Instant::now() + REST);
        }
        result.map_err(|error| error.into_source(self.place(path)))
    }

    /// A write, in bounded time.
    async fn writing<T>(
        &self,
        path: &StorePath,
        call: impl Future<Output = Result<T, OpenBaoError>>,
    ) -> Result<T, SourceError> {
        self.within(true, call).await.map_err(|error| error.into_source(self.place(path)))
    }

    async fn within<T>(
        &self,
        writing: bool,
        call: impl Future<Output = Result<T, OpenBaoError>>,
    ) -> Result<T, OpenBaoError> {
        let seconds = self.timeout.as_secs_f32();
        tokio::time::timeout(self.timeout, call)
            .await
            .unwrap_or(Err(OpenBaoError::TimedOut { seconds, writing }))
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.resting_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OpenBao {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OpenBao")
            .field("keeper", &self.keeper)
            .field("mount", &self.mount)
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for OpenBao {
    fn name(&self) -> &str {
        NAME
    }

    fn place(&self, path: &StorePath) -> String {
        let transport = self.keeper.transport();
        let namespace = transport.namespace().map_or(String::new(), |name| format!(", namespace {name}"));
        format!("OpenBao {}{namespace}, {}/{path}", transport.url(), self.mount)
    }

    fn how_to_set(&self, path: &StorePath) -> String {
        let url = self.keeper.transport().url();
        format!("`bao kv put -address={url} -mount={} {path} <field>=<value>`", self.mount)
    }

    fn answers_within(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    async fn get(&self, path: &StorePath) -> Result<Option<Entry>, SourceError> {
        self.reading(path, async { Ok(self.head(path).await?.into_entry()) }).await
    }

    async fn get_version(&self, path: &StorePath, version: u64) -> Result<Option<Entry>, SourceError> {
        let read = async { Ok(self.version(path, Some(version)).await?.into_entry()) };
        // The engine takes 0 for the newest.
        Ok(self.reading(path, read).await?.filter(|entry| entry.version == version))
    }

    async fn put(
        &self,
        path: &StorePath,
        values: &Document,
        expected: Option<u64>,
        metadata: &Metadata,
    ) -> Result<u64, SourceError> {
        self.writing(path, self.replace(path, values, expected, metadata)).await
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, SourceError> {
        let delete = async {
            let there = self.head(path).await?.values.is_some();
            if there {
                let answer = self.ask(&kv::delete(&self.mount, path)).await?;
                if !(200..300).contains(&answer.status) {
                    return Err(answer.failure());
                }
            }
            Ok(there)
        };
        self.writing(path, delete).await
    }

    async fn forget(&self, path: &StorePath) -> Result<(), SourceError> {
        let forget = async {
            let answer = self.ask(&kv::forget(&self.mount, path)).await?;
            match answer.status {
                200..300 | 404 => Ok(()),
                _ => Err(answer.failure()),
            }
        };
        self.writing(path, forget).await
    }

    async fn history(&self, path: &StorePath) -> Result<Vec<EntryVersion>, SourceError> {
        let call = kv::history(&self.mount, path);
        self.reading(path, async { kv::versions(&self.mount, &self.ask_again(&call).await?) }).await
    }

    async fn health(&self) -> StoreHealth {
        let standing = self.keeper.standing();
        let (product, state) = match self.within(false, self.keeper.transport().health()).await {
            Ok(health) => {
                let state = match (health.initialized, health.sealed) {
                    (false, _) => StoreState::Uninitialized,
                    (true, true) => StoreState::Sealed,
                    (true, false) => StoreState::Ready,
                };
                (Some(health.product()), state)
            }
            Err(error) => (None, StoreState::Unreachable(error.to_string())),
        };
        StoreHealth { product, state, login_ends_in: standing.ends_in, login_error: standing.last_error }
    }
}
