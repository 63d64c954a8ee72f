//! Follows changes: one task for each model that somebody watches reads again when a source tells of a change, when
//! this manager wrote, and from time to time.
//!
//! ```text
//! ticks of the sources ─┐
//! own writes ───────────┼─▶ read the chain ─▶ same value ──▶ nothing
//! every `look_again` ───┘                  ├▶ a new one ──▶ everybody who watches
//!                                          └▶ none that is good ─▶ the last one stays; health says why
//! ```
//!
//! The task ends when nobody watches any more.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use futures::stream::{self, BoxStream, Stream, StreamExt, select_all};
use serde_json::Value;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{ConfigManager, Inner, Known};
use crate::{error::ConfigError, model::Config};

/// Settings that follow their sources. Cheap to clone; all handles of one model share one task.
#[derive(Debug)]
pub struct Handle<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<T> {
    current: Arc<ArcSwap<T>>,
    changed: watch::Receiver<Arc<T>>,
    task: tokio::task::JoinHandle<()>,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Config> Handle<T> {
    /// The value as it is now: the last good one. Allocates nothing and waits for nobody.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        self.shared.current.load_full()
    }

    /// The value as it is now, for a moment: cheaper still, and not to be kept over an `await`.
    #[must_use]
    pub fn peek(&self) -> arc_swap::Guard<Arc<T>> {
        self.shared.current.load()
    }

    /// Each value that differs from the one before, from now on; never one that is not valid. Who is slow misses those
    /// in between and gets the newest.
    pub fn changes(&self) -> impl Stream<Item = Arc<T>> + Send + Unpin + use<T> {
        let mut receiver = self.shared.changed.clone();
        receiver.mark_unchanged();
        let state = (receiver, self.clone());
        stream::unfold(state, |(mut receiver, handle)| async move {
            receiver.changed().await.ok()?;
            let value = receiver.borrow_and_update().clone();
            Some((value, (receiver, handle)))
        })
        .boxed()
    }
}

/// The handles that are in use, by type.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// Weak: who holds a handle keeps it; this does not.
    by_type: Mutex<HashMap<TypeId, Weak<dyn Any + Send + Sync>>>,
}

impl Handles {
    fn find<T: Config>(&self) -> Option<Handle<T>> {
        let handles = self.by_type.lock().unwrap_or_else(PoisonError::into_inner);
        of_type(&handles)
    }

    /// Adds a handle, unless another task was faster: then that one.
    fn add<T: Config>(&self, handle: Handle<T>) -> Handle<T> {
        let mut handles = self.by_type.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = of_type(&handles) {
            return other;
        }
        let shared: Arc<dyn Any + Send + Sync> = handle.shared.clone();
        handles.insert(TypeId::of::<T>(), Arc::downgrade(&shared));
        handle
    }
}

fn of_type<T: Config>(handles: &HashMap<TypeId, Weak<dyn Any + Send + Sync>>) -> Option<Handle<T>> {
    let shared = handles.get(&TypeId::of::<T>())?.upgrade()?;
    Some(Handle { shared: shared.downcast().ok()? })
}

impl ConfigManager {
    /// Settings that follow their sources, for code that needs them often.
    ///
    /// # Errors
    /// As [`ConfigManager::get`]: there is no handle without a first good value.
    pub async fn handle<T: Config>(&self) -> Result<Handle<T>, ConfigError> {
        if let Some(handle) = self.inner.handles.find() {
            return Ok(handle);
        }
        let known = self.inner.registry.of::<T>()?;
        // Before the first read: a change in between is seen.
        let wrote = self.inner.wrote.subscribe();
        let ticks = self.ticks(&known);
        let span = self.span(&known.model.key);
        let first: T = self.get_known(&known).instrument(span).await?;
        let (sender, changed) = watch::channel(Arc::new(first));
        let current = Arc::new(ArcSwap::new(sender.borrow().clone()));
        let follow = Follow { manager: self.clone(), known, sender, current: current.clone() };
        let span = tracing::info_span!("watch settings", key = T::KEY, request_id = self.actor.request_id);
        let task = tokio::spawn(follow.run(ticks, wrote).instrument(span));
        Ok(self.inner.handles.add(Handle { shared: Arc::new(Shared { current, changed, task }) }))
    }

    /// Each value that differs from the one before, from now on. See [`Handle::changes`].
    ///
    /// # Errors
    /// As [`ConfigManager::get`].
    pub async fn watch<T: Config>(
        &self,
    ) -> Result<impl Stream<Item = Arc<T>> + Send + Unpin + use<T>, ConfigError> {
        Ok(self.handle::<T>().await?.changes())
    }

    fn ticks(&self, known: &Known) -> BoxStream<'static, ()> {
        let of_sources: Vec<_> =
            self.inner.sources.iter().filter_map(|source| source.changes(&known.model)).collect();
        // A source whose ticks end is still looked at from time to time.
        select_all(of_sources).chain(stream::pending()).boxed()
    }
}

struct Follow<T> {
    manager: ConfigManager,
    known: Arc<Known>,
    sender: watch::Sender<Arc<T>>,
    current: Arc<ArcSwap<T>>,
}

impl<T: Config> Follow<T> {
    async fn run(self, mut ticks: BoxStream<'static, ()>, mut wrote: watch::Receiver<u64>) {
        let mut again = tokio::time::interval(self.manager.inner.look_again);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        again.reset();
        let mut last = json(&**self.current.load());
        loop {
            tokio::select! {
                _ = again.tick() => {}
                _ = ticks.next() => {}
                Ok(()) = wrote.changed() => {}
            }
            // Without a good one the last stays; the health report has logged why, once.
            if let Ok(value) = self.manager.get_known::<T>(&self.known).await {
                self.take(value, &mut last);
            }
        }
    }

    fn take(&self, value: T, last: &mut Option<Value>) {
        let now = json(&value);
        if now.is_some() && now == *last {
            return;
        }
        *last = now;
        let epoch = self.manager.inner.next_epoch();
        tracing::info!(config_epoch = epoch, "settings changed");
        let value = Arc::new(value);
        self.current.store(value.clone());
        self.sender.send_replace(value);
    }
}

/// What two values are compared by: a type of settings need not be `PartialEq`.
fn json<T: Config>(value: &T) -> Option<Value> {
    serde_json::to_value(value).ok()
}

impl Inner {
    fn next_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1
    }
}
