//! Settings that arrive while a program runs: signed by somebody whom it trusts, complete, never older than the last.
//!
//! ```text
//! file, NATS ─► accept: verify ─► keep durably ─► visible to read(), changes() ticks
//!                  │
//!                  └─► refusal with a reason: counted, shown by status(); what is in effect stays
//! ```
//!
//! An update is the whole set of what its signer sets for an audience, and takes the place of the one before: who
//! comes late needs the last one only, and all of it is applied or nothing.
//!
//! The place in the chain is after environment and file, and before SQLite: what a person has set on this very machine
//! must win in an emergency, and what comes from far wins over what was stored here earlier.
//!
//! An update that was accepted stays in effect beyond its expiry and across restarts, until there is a newer one: the
//! expiry says how long it may be *delivered*, so that nobody can hold it back and deliver it much later. A device
//! that is offline for a year does not change its settings by itself.

mod envelope;
mod file;
#[cfg(feature = "nats")]
mod nats;
mod recipient;
mod signer;
mod state;
mod verify;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use jiff::Timestamp;
use tokio::sync::watch;

#[cfg(feature = "nats")]
pub use self::nats::{NatsFeed, NatsFeedError};
use self::{
    envelope::Payload,
    state::{Current, State},
    verify::Trust,
};
pub use self::{
    envelope::{Head, KeyId, LIMIT, PublicKey},
    file::FileFeed,
    recipient::Recipient,
    signer::{Draft, Item, SignError, UpdateSigner},
    verify::Refusal,
};
use crate::{
    health::{Condition, Problem},
    key::Key,
    keyring::{Keyring, KeyringError},
    metrics::Metrics,
    model::Model,
    source::{Layer, Source, SourceError},
    witness::{WitnessError, Witnessed},
};

/// Name of the source.
pub const NAME: &str = "updates";

/// Why updates cannot be received at all.
#[derive(Debug, thiserror::Error)]
pub enum UpdatesError {
    /// The file of the last accepted update is refused, or cannot be kept.
    #[error("the last accepted update cannot be used or kept: {0}")]
    State(#[from] WitnessError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The file is gone, and with it which updates are old.
    #[error(
        "{} is gone, and only it tells which updates are old: without it an old one could be delivered again. Put it \
         back, or, if it was removed on purpose, begin anew (Updates::forget)",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// The file is genuine and its content is of another kind.
    #[error("the last accepted update in {} cannot be read: run the version that wrote it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// This update is refused; the one before stays in effect.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Whose updates are accepted, and where the last one is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that keeps the last accepted update, e.g. `updates.json` beside the keys' folder.
    pub file: PathBuf,
    /// For whom updates have to be, e.g. the name of the service. Exactly this text.
    pub audience: String,
    /// Whose signatures count. One that is taken out counts no more, also for the update in effect.
    pub trusted: Vec<PublicKey>,
    /// The program's models: an update for another version of one is refused as a whole.
    pub models: Vec<Model>,
}

/// What came of an update that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in effect now.
    Applied {
        /// The models whose values are not what they were.
        changed: Vec<Key>,
        /// Those that this program does not have; kept, in case that its next version has.
        unknown: Vec<Key>,
    },
    /// It was already.
    Current,
}

/// What is in effect, for health and `explain`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The update in effect.
    pub head: Option<Head>,
    /// How many were refused since the start.
    pub refused: u64,
    /// Why the last one was, in a word for metrics and in words for people; until one is accepted.
    pub last_refusal: Option<(&'static str, String)>,
}

/// The source. Clones share it.
#[derive(Debug, Clone)]
pub struct Updates {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Witnessed,
    keyring: Keyring,
    trust: Trust,
    effect: Mutex<Effect>,
    /// Ticks with each update that is applied.
    applied: watch::Sender<u64>,
    /// Of the chains that it is a part of.
    metrics: Mutex<Vec<Metrics>>,
}

#[derive(Debug, Default)]
struct Effect {
    payload: Option<Payload>,
    status: Status,
}

impl Updates {
    /// Takes the last accepted update into effect, if its signer is still trusted. Blocks.
    ///
    /// # Errors
    /// When what was kept was changed, put back or removed: which updates are old is not known then.
    pub fn open(settings: Settings, keyring: Keyring) -> Result<Self, UpdatesError> {
        let Settings { file, audience, trusted, models } = settings;
        let file = Witnessed::new(&file, keyring.clone(), "updates", state::LIMIT)?;
        let trust = Trust::new(audience, trusted, models);
        let shared = Shared {
            file,
            keyring,
            trust,
            effect: Mutex::default(),
            applied: watch::Sender::new(0),
            metrics: Mutex::default(),
        };
        let updates = Self { shared: Arc::new(shared) };
        updates.load()?;
        Ok(updates)
    }

    /// Begins anew, as if no update had ever been accepted: an old one can be delivered again. For a person who knows
    /// why the file is gone or refused. Gives where a refused file is now.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn forget(settings: &Settings, keyring: Keyring) -> Result<Option<PathBuf>, UpdatesError> {
        Ok(Witnessed::new(&settings.file, keyring, "updates", state::LIMIT)?.set_aside()?)
    }

    /// Verifies an update, keeps it and takes it into effect. Blocks: for a thread that may.
    ///
    /// # Errors
    /// [`UpdatesError::Refused`]; or when it cannot be kept: it is not in effect then, and can be delivered again.
    pub fn accept(&self, bytes: &[u8]) -> Result<Outcome, UpdatesError> {
        let outcome = self.keep(bytes);
        let mut effect = self.effect();
        match &outcome {
            Ok(_) => effect.status.last_refusal = None,
            Err(error) => {
                let reason = match error {
                    UpdatesError::Refused(refusal) => refusal.reason(),
                    _ => "not_kept",
                };
                effect.status.refused += 1;
                effect.status.last_refusal = Some((reason, error.to_string()));
            }
        }
        let head = effect.status.head.as_ref().map(|head| head.epoch);
        drop(effect);
        for metrics in &*self.metrics() {
            match &outcome {
                Ok(Outcome::Applied { .. }) => metrics.update_applied(head),
                Ok(Outcome::Current) => {}
                Err(UpdatesError::Refused(refusal)) => count(metrics, refusal.reason(), refusal.is_forgery()),
                Err(_) => count(metrics, "not_kept", false),
            }
        }
        outcome
    }

    /// Whether an update is well-formed, for here and signed by somebody who is trusted; takes nothing into effect.
    /// Whether it is new, and its values fit, [`Updates::accept`] says.
    ///
    /// # Errors
    /// As [`Updates::accept`] would refuse it.
    pub fn check(&self, bytes: &[u8]) -> Result<Head, Refusal> {
        self.shared.trust.authenticate(bytes).map(|envelope| envelope.head)
    }

    /// What is in effect.
    #[must_use]
    pub fn status(&self) -> Status {
        self.effect().status.clone()
    }

    /// The key to which updates with secrets for this machine are sealed. Changes with the encryption key; updates
    /// that were sealed to an older one open until that is dropped.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn recipient(&self) -> Result<Recipient, UpdatesError> {
        Ok(recipient::newest(&self.shared.keyring)?)
    }

    /// Writes what is kept with the newest keys, after a rotation and before older ones are dropped. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reseal(&self) -> Result<(), UpdatesError> {
        let Shared { file, keyring, .. } = &*self.shared;
        file.update(|found| {
            let Some(mut state) = State::of(file, found)? else { return Ok(None) };
            state.reseal(keyring, file)?;
            state.body(file).map(Some)
        })
    }

    fn keep(&self, bytes: &[u8]) -> Result<Outcome, UpdatesError> {
        let Shared { file, keyring, trust, .. } = &*self.shared;
        file.update(|found| {
            let mut state = State::of(file, found)?.unwrap_or_default();
            let envelope = trust.authenticate(bytes)?;
            if state.is_current(&envelope) {
                return Ok(None);
            }
            let now =
                state.not_before(file)?.map_or_else(Timestamp::now, |floor| floor.max(Timestamp::now()));
            trust.admit(&envelope.head, state.floor(trust), now)?;
            let plain = recipient::open(keyring, &envelope)?;
            trust.payload(&envelope, &plain)?;
            state.put(keyring, &envelope, &plain)?;
            state.body(file).map(Some)
        })
        .and_then(|()| self.load())
    }

    /// Takes what is kept into effect: also what another process has accepted in the meantime.
    fn load(&self) -> Result<Outcome, UpdatesError> {
        let Shared { file, keyring, trust, .. } = &*self.shared;
        let state = State::of(file, file.read()?.0)?.unwrap_or_default();
        let (head, payload) = match state.current(keyring, file)? {
            None => (None, None),
            Some(Current { envelope, plain }) => {
                // The signer may be trusted no more: what he said is no reason to refuse what others will say.
                let trusted = trust.check(&envelope);
                match trusted.and_then(|()| Payload::parse(&plain).map_err(Refusal::from)) {
                    Ok(payload) => (Some(envelope.head), Some(payload)),
                    Err(refusal) => {
                        self.effect().status.last_refusal = Some((refusal.reason(), refusal.to_string()));
                        (None, None)
                    }
                }
            }
        };
        let mut effect = self.effect();
        if effect.status.head == head {
            return Ok(Outcome::Current);
        }
        let changed = Payload::difference(effect.payload.as_ref(), payload.as_ref());
        let unknown =
            payload.iter().flat_map(Payload::keys).filter(|key| !trust.knows(key)).cloned().collect();
        effect.status.head = head;
        effect.payload = payload;
        drop(effect);
        self.shared.applied.send_modify(|count| *count += 1);
        Ok(Outcome::Applied { changed, unknown })
    }

    fn metrics(&self) -> MutexGuard<'_, Vec<Metrics>> {
        self.shared.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn effect(&self) -> MutexGuard<'_, Effect> {
        self.shared.effect.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(metrics: &Metrics, reason: &str, forgery: bool) {
    metrics.update_refused(reason);
    if forgery {
        metrics.signature_failure(NAME, reason);
    }
}

#[async_trait]
impl Source for Updates {
    fn name(&self) -> &str {
        NAME
    }

    fn how_to_set(&self, model: &Model) -> String {
        let audience = &self.shared.trust.audience;
        format!("a signed update for the audience {audience:?} with an item {}", model.key)
    }

    fn condition(&self) -> Condition {
        let Status { head, refused, last_refusal } = self.status();
        let problem = last_refusal.map(|(reason, text)| Problem { reason: reason.to_owned(), text });
        let mut facts = std::collections::BTreeMap::from([("refused", refused.to_string())]);
        if let Some(head) = head {
            facts.insert("epoch", head.epoch.to_string());
            facts.insert("issued", head.issued.to_string());
            facts.insert("signed_by", head.key_id.to_string());
        }
        Condition { problem, facts }
    }

    fn count_in(&self, metrics: &Metrics) {
        metrics.update_is(self.status().head.map(|head| head.epoch));
        self.metrics().push(metrics.clone());
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        let effect = self.effect();
        let (Some(head), Some(payload)) = (&effect.status.head, &effect.payload) else { return Ok(None) };
        Ok(payload.item(&model.key).map(|item| Layer {
            values: item.values.clone(),
            place: format!(
                "update {} of {}, signed by {}, item {}",
                head.epoch, head.issued, head.key_id, model.key
            ),
            fields: Default::default(),
            version: Some(item.schema_version.clone()),
            revision: Some(head.epoch),
        }))
    }

    fn changes(&self, _model: &Model) -> Option<BoxStream<'static, ()>> {
        let applied = self.shared.applied.subscribe();
        Some(
            stream::unfold(applied, async |mut applied| Some((applied.changed().await.ok()?, applied)))
                .boxed(),
        )
    }
}

#[cfg(test)]
#[path = "updates/tests.rs"]
mod tests;
