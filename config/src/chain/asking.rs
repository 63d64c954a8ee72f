//! Asks one source, bounded in time, and keeps what it last gave for the time when it cannot be asked.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Inner, PATIENCE, PATIENCE_MARGIN, known::Known};
use crate::{
    last_known_good::{LastKnownGood, Memory},
    model::Model,
    source::{Layer, Source, SourceError},
};

/// Why the last known good could not be kept or used.
pub type LastGoodError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps what each source last gave, sealed, for the time when the source cannot be asked.
///
/// Its calls may block; the manager makes them off the runtime's threads.
pub trait LastGood: fmt::Debug + Send + Sync {
    /// Remembers a layer; `None`: the source has nothing, and neither has this from now on.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn remember(&self, source: &str, model: &Model, layer: Option<&Layer>) -> Result<(), LastGoodError>;

    /// The same for several, with one write at most: for the start of a program.
    ///
    /// # Errors
    /// As [`LastGood::remember`].
    fn remember_all(&self, memories: &[Memory<'_>]) -> Result<(), LastGoodError> {
        memories.iter().try_for_each(|memory| self.remember(memory.source, memory.model, memory.layer))
    }

    /// What the source last gave.
    ///
    /// # Errors
    /// If it was tampered with, or cannot be read: then nothing stands in.
    fn recall(&self, source: &str, model: &Model) -> Result<Option<LastGoodLayer>, LastGoodError>;
}

/// What a source last gave.
#[derive(Debug, Clone)]
pub struct LastGoodLayer {
    /// The values, and where they stood.
    pub layer: Layer,
    /// Since when it has been so.
    pub at: Timestamp,
}

/// What a source gave, to be kept.
pub(super) struct Given {
    source: String,
    known: Arc<Known>,
    layer: Option<Layer>,
}

impl LastGood for LastKnownGood {
    fn remember(&self, source: &str, model: &Model, layer: Option<&Layer>) -> Result<(), LastGoodError> {
        Ok(Self::remember(self, source, model, layer)?)
    }

    fn remember_all(&self, memories: &[Memory<'_>]) -> Result<(), LastGoodError> {
        Ok(Self::remember_all(self, memories)?)
    }

    fn recall(&self, source: &str, model: &Model) -> Result<Option<LastGoodLayer>, LastGoodError> {
        let recalled = Self::recall(self, source, model)?;
        Ok(recalled.map(|recalled| LastGoodLayer { layer: recalled.layer, at: recalled.at }))
    }
}

impl Inner {
    /// How long this source may take.
    fn patience_with(&self, source: &dyn Source) -> Duration {
        let own = source.answers_within().map(|own| own.saturating_add(PATIENCE_MARGIN));
        self.patience.unwrap_or_else(|| own.map_or(PATIENCE, |own| own.max(PATIENCE)))
    }

    /// Asks, and waits for as long as the manager's patience lasts. A source that exceeded it is left alone for as long
    /// again: else each read of settings would wait for it.
    pub(super) async fn read_in_time(
        &self,
        source: &Arc<dyn Source>,
        known: &Known,
    ) -> Result<Option<Layer>, SourceError> {
        let slow = |why: String| SourceError::Unavailable {
            name: source.name().to_owned(),
            why,
            hint: "Look at its health and at the network between".to_owned(),
        };
        let patience = self.patience_with(&**source);
        let asleep = {
            let asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            asleep.get(source.name()).is_some_and(|until| Instant::now() < *until)
        };
        if asleep {
            return Err(slow(format!("it did not answer within {:?} a moment ago", patience)));
        }
        match tokio::time::timeout(patience, source.read(&known.model)).await {
            Ok(answer) => answer,
            Err(_) => {
                let mut asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
                asleep.insert(source.name().to_owned(), Instant::now() + patience);
                Err(slow(format!("it did not answer within {:?}", patience)))
            }
        }
    }

    /// Notes what a source gave, if it is such a source and that is news.
    pub(super) fn note(
        &self,
        source: &Arc<dyn Source>,
        known: &Arc<Known>,
        layer: Option<&Layer>,
        given: &mut Vec<Given>,
    ) {
        if self.last_good.is_none() || !source.keep_last_known_good() {
            return;
        }
        let at = (source.name().to_owned(), known.model.key.clone());
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.get(&at).is_some_and(|before| before.as_ref() == layer) {
            return;
        }
        given.push(Given { source: at.0, known: known.clone(), layer: layer.cloned() });
    }

    /// Keeps what was noted, with one write at most.
    pub(super) async fn remember(&self, given: Vec<Given>) {
        let Some((last_good, first)) = self.last_good.clone().zip(given.first()) else { return };
        let first = first.source.clone();
        let done = tokio::task::spawn_blocking(move || {
            let memories: Vec<_> = given
                .iter()
                .map(|given| Memory {
                    source: &given.source,
                    model: &given.known.model,
                    layer: given.layer.as_ref(),
                })
                .collect();
            last_good.remember_all(&memories)?;
            Ok::<_, LastGoodError>(given)
        });
        match done.await {
            Ok(Ok(given)) => {
                self.health.last_known_good_works();
                let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
                for Given { source, known, layer } in given {
                    remembered.insert((source, known.model.key.clone()), layer);
                }
            }
            Ok(Err(error)) => self.last_good_failed(&first, &error.to_string()),
            Err(error) => self.last_good_failed(&first, &error.to_string()),
        }
    }

    /// What a source last gave.
    pub(super) async fn recall(&self, source: &Arc<dyn Source>, known: &Arc<Known>) -> Option<LastGoodLayer> {
        let last_good = self.last_good.clone().filter(|_| source.keep_last_known_good())?;
        let (name, model) = (source.name().to_owned(), known.clone());
        match tokio::task::spawn_blocking(move || last_good.recall(&name, &model.model)).await {
            Ok(Ok(recalled)) => recalled,
            Ok(Err(error)) => {
                self.metrics.signature_failure("last-known-good", "unusable");
                self.last_good_failed(source.name(), &error.to_string());
                None
            }
            Err(error) => {
                self.last_good_failed(source.name(), &error.to_string());
                None
            }
        }
    }

    fn last_good_failed(&self, source: &str, why: &str) {
        if self.health.last_known_good_failed(why) {
            tracing::error!(source, "the last known good values cannot be kept or used: {why}");
        }
    }
}
