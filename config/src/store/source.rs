//! Settings from a store: a model's values stand as one entry at `<prefix>/<Key>`.
//!
//! The store encrypts at rest and the way there is TLS, so values are plain in it. The version of the schema stands in
//! the entry's metadata; it counts only when it was written with these values.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};

use super::{Metadata, Store, StorePath};
use crate::{
    health::{Condition, Problem},
    key::Actor,
    model::{Model, SchemaVersion},
    source::{Change, Layer, Source, SourceError},
};

/// Metadata: version of the schema under which the values were written.
const SCHEMA: &str = "harmony-schema";
/// Metadata: who wrote them, and from where.
const WRITER: &str = "harmony-writer";
/// Most bytes of a value in an entry's metadata, everywhere (KV version 2 has 512).
const MAX_METADATA: usize = 512;
/// How often [`Source::changes`] looks, unless told otherwise.
const POLL: Duration = Duration::from_secs(30);

/// What to do when an entry's revision goes back: the store was restored from an older state, or another store
/// answers at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WentBack {
    /// Use the values, and say so in the log and in [`StoreSource::went_back`]. Who restores a store wants what was
    /// in it.
    #[default]
    Report,
    /// Refuse the values, until the revision is past the one that was seen or this process starts anew.
    Refuse,
}

/// Settings in a [`Store`].
pub struct StoreSource {
    store: Arc<dyn Store>,
    prefix: StorePath,
    on_return: WentBack,
    poll: Duration,
    seen: Mutex<HashMap<StorePath, Seen>>,
}

/// What this process saw of an entry.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The highest revision.
    highest: u64,
    /// The revision now, when it lies below.
    back_at: Option<u64>,
}

impl StoreSource {
    /// Models as `<prefix>/<Key>`. Asks nobody.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, prefix: StorePath) -> Self {
        Self { store, prefix, on_return: WentBack::default(), poll: POLL, seen: Mutex::default() }
    }

    /// What to do when a revision goes back.
    #[must_use]
    pub fn on_return(mut self, on_return: WentBack) -> Self {
        self.on_return = on_return;
        self
    }

    /// How often [`Source::changes`] looks. A tenth more or less of it, so that many processes do not ask at once.
    #[must_use]
    pub fn poll_every(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// The entries whose revision went back since this process started and has not caught up, each with the highest
    /// revision that was seen and the one that is there. For health reports.
    #[must_use]
    pub fn went_back(&self) -> Vec<(StorePath, u64, u64)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut back: Vec<_> = seen
            .iter()
            .filter_map(|(path, seen)| Some((path.clone(), seen.highest, seen.back_at?)))
            .collect();
        back.sort();
        back
    }

    /// Notes a revision. The highest one that was seen before, if this one lies below it.
    fn note(&self, path: &StorePath, revision: u64) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.entry(path.clone()).or_default();
        if revision >= known.highest {
            *known = Seen { highest: revision, back_at: None };
            return None;
        }
        if known.back_at.replace(revision).is_none() {
            // Once for each change of state.
            tracing::warn!(
                place = self.store.place(path),
                seen = known.highest,
                found = revision,
                "the store's revision went back: it was restored from an older state, or another one answers"
            );
        }
        Some(known.highest)
    }
}

impl fmt::Debug for StoreSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("StoreSource")
            .field("store", &self.store)
            .field("prefix", &self.prefix)
            .field("on_return", &self.on_return)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Source for StoreSource {
    fn name(&self) -> &str {
        self.store.name()
    }

    fn how_to_set(&self, model: &Model) -> String {
        self.store.how_to_set(&self.prefix.of_model(&model.key))
    }

    fn should_persist(&self) -> bool {
        true
    }

    fn keep_last_known_good(&self) -> bool {
        true
    }

    fn encryption(&self) -> Option<String> {
        Some("by the store itself".to_owned())
    }

    fn answers_within(&self) -> Option<Duration> {
        self.store.answers_within()
    }

    fn condition(&self) -> Condition {
        let back = self.went_back().into_iter();
        let back: Vec<_> = back.map(|(path, seen, now)| format!("{path} from {seen} to {now}")).collect();
        if back.is_empty() {
            return Condition::default();
        }
        let back = back.join(", ");
        let used = match self.on_return {
            WentBack::Report => "Its older values are in use",
            WentBack::Refuse => "Its older values are refused",
        };
        let text = format!(
            "{} has older settings than before: revisions went back, of {back}. It was restored from an older state, or \
             another store answers at its address. {used}. If it was restored on purpose, look whether what it has is \
             still right, write anew what is not, and restart this program; else check the address of the store",
            self.store.name()
        );
        let problem = Some(Problem { reason: "went_back".to_owned(), text });
        Condition { problem, facts: [("went_back", back)].into() }
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        let path = self.prefix.of_model(&model.key);
        let Some(entry) = self.store.get(&path).await? else { return Ok(None) };
        let before = self.note(&path, entry.revision);
        let place = self.store.place(&path);
        if let (Some(before), WentBack::Refuse) = (before, self.on_return) {
            return Err(SourceError::Tampered {
                place,
                why: format!("its revision was {before} and is {} now", entry.revision),
                hint: "If the store was restored on purpose, restart this program, or write the values anew"
                    .to_owned(),
            });
        }
        // The version of other values would hide that these do not fit.
        let version =
            entry.metadata.get(SCHEMA).filter(|_| entry.metadata_is_current).cloned().map(SchemaVersion);
        Ok(Some(Layer {
            values: entry.values,
            place,
            fields: Default::default(),
            version,
            revision: Some(entry.revision),
        }))
    }

    async fn write(&self, model: &Model, change: Change<'_>) -> Result<u64, SourceError> {
        let path = self.prefix.of_model(&model.key);
        let Actor { who, from, request_id } = change.actor;
        let metadata = Metadata::from([
            (SCHEMA.to_owned(), shortened(&model.version.0)),
            (WRITER.to_owned(), shortened(&format!("{who}, {from}, request {request_id}"))),
        ]);
        let revision = self.store.put(&path, change.values, change.expected, &metadata).await?;
        self.note(&path, revision);
        Ok(revision)
    }

    async fn delete(&self, model: &Model, _actor: &Actor) -> Result<bool, SourceError> {
        self.store.delete(&self.prefix.of_model(&model.key)).await
    }

    /// Looks every 30 s: stores have no watches. Ticks when the revision is another one than at the last look.
    fn changes(&self, model: &Model) -> Option<BoxStream<'static, ()>> {
        let (store, path, poll) = (Arc::clone(&self.store), self.prefix.of_model(&model.key), self.poll);
        let start: Option<Option<u64>> = None;
        let ticks = stream::unfold(start, move |mut last| {
            let (store, path) = (Arc::clone(&store), path.clone());
            async move {
                loop {
                    if last.is_some() {
                        tokio::time::sleep(poll.mul_f64(rand::random_range(0.9..=1.1))).await;
                    }
                    // While it does not answer nothing has changed.
                    let Ok(entry) = store.get(&path).await else {
                        if last.is_none() {
                            tokio::time::sleep(poll).await;
                        }
                        continue;
                    };
                    let now = entry.map(|entry| entry.revision);
                    let changed = last.is_some_and(|before| before != now);
                    last = Some(now);
                    if changed {
                        return Some(((), last));
                    }
                }
            }
        });
        Some(ticks.boxed())
    }
}

/// At a character's boundary, without what a terminal would obey.
fn shortened(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if short.len() + c.len_utf8() > MAX_METADATA {
            break;
        }
        short.push(c);
    }
    short
}
