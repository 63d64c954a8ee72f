//! A clock on a watch: when this program saw objects come, change and go.
//!
//! Timestamps in objects have whole seconds, and are made by others' clocks. Here every moment is the
//! arrival of a watch event at this program, the same for whoever wrote the object.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// When an object was first seen in each of its states.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// At all.
    pub created: Option<Instant>,
    /// A pod: bound to a node.
    pub bound: Option<Instant>,
    /// A pod: running. A Node: ready.
    pub up: Option<Instant>,
    /// No longer so, after it was.
    pub down: Option<Instant>,
    /// No longer there.
    pub gone: Option<Instant>,
}

/// What [`Sightings`] look for in an object.
pub trait Observed:
    kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Whether it is bound to a node.
    fn is_bound(&self) -> bool;
    /// Whether it is where it should be.
    fn is_up(&self) -> bool;
}

impl Observed for Pod {
    fn is_bound(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
    }

    fn is_up(&self) -> bool {
        self.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    }
}

impl Observed for Node {
    fn is_bound(&self) -> bool {
        true
    }

    fn is_up(&self) -> bool {
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }
}

/// Watches objects as long as it lives.
#[derive(Debug)]
pub struct Sightings {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<HashMap<String, Seen>>,
    changed: Notify,
}

impl Sightings {
    /// Begins to watch the objects with a label; returns when those that exist were seen.
    ///
    /// # Errors
    /// When the watch does not begin within 30 s.
    pub async fn begin<K: Observed>(api: Api<K>, label: &str) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let config = watcher::Config::default().labels(label);
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                let mut stream = std::pin::pin!(watch_objects(api, config).default_backoff());
                let mut ready = Some(ready);
                while let Some(event) = stream.next().await {
                    match event {
                        Ok(Event::InitDone) => drop(ready.take().map(|ready| ready.send(()))),
                        Ok(event) => shared.take(&event),
                        Err(error) => tracing::warn!(%error, "the watch was interrupted: times have a gap"),
                    }
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(30), is_ready)
            .await
            .context("the watch did not begin")??;
        Ok(Self { shared, task })
    }

    /// Waits until one object was seen in a state, and gives everything that was seen of it.
    ///
    /// # Errors
    /// When it was not within the time, with what was seen.
    pub async fn of(
        &self,
        name: &str,
        within: Duration,
        state: fn(&Seen) -> Option<Instant>,
    ) -> Result<Seen> {
        let find = || {
            let seen = self.shared.seen().get(name).copied()?;
            state(&seen).map(|_| seen)
        };
        self.wait(within, find)
            .await
            .with_context(|| format!("{name} was seen only as {:?}", self.shared.seen().get(name)))
    }

    /// Waits until `count` objects were seen in a state, and gives all that were, by name.
    ///
    /// # Errors
    /// When they were not within the time, with their number.
    pub async fn all(
        &self,
        count: usize,
        within: Duration,
        state: fn(&Seen) -> Option<Instant>,
    ) -> Result<Vec<Seen>> {
        self.wait(within, || (self.count(state) >= count).then_some(()))
            .await
            .with_context(|| format!("{} of {count} objects were seen", self.count(state)))?;
        Ok(self.shared.seen().values().copied().collect())
    }

    /// How many objects were seen in a state so far.
    #[must_use]
    pub fn count(&self, state: fn(&Seen) -> Option<Instant>) -> usize {
        self.shared.seen().values().filter(|seen| state(seen).is_some()).count()
    }

    async fn wait<T>(&self, within: Duration, look: impl Fn() -> Option<T>) -> Result<T> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let changed = self.shared.changed.notified();
            if let Some(found) = look() {
                return Ok(found);
            }
            tokio::time::timeout_at(deadline, changed)
                .await
                .map_err(|_| anyhow!("gave up waiting after {} s", within.as_secs()))?;
        }
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn take<K: Observed>(&self, event: &Event<K>) {
        let now = Instant::now();
        let (object, gone) = match event {
            Event::Apply(object) | Event::InitApply(object) => (object, false),
            Event::Delete(object) => (object, true),
            Event::Init | Event::InitDone => return,
        };
        let name = object.meta().name.clone().unwrap_or_default();
        {
            let mut all = self.seen();
            let seen = all.entry(name).or_default();
            let note = |moment: &mut Option<Instant>, holds: bool| {
                if holds {
                    moment.get_or_insert(now);
                }
            };
            note(&mut seen.created, true);
            note(&mut seen.bound, object.is_bound());
            note(&mut seen.up, object.is_up());
            note(&mut seen.down, seen.up.is_some() && !object.is_up() && !gone);
            note(&mut seen.gone, gone);
        }
        self.changed.notify_waiters();
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time from `start` until the last of the moments that were seen.
#[must_use]
pub fn until_last(start: Instant, seen: &[Seen], state: fn(&Seen) -> Option<Instant>) -> Duration {
    let last = seen.iter().filter_map(state).max().unwrap_or(start);
    last.saturating_duration_since(start)
}

/// The times between two states, of all objects that were seen in both.
pub fn between(
    seen: &[Seen],
    from: fn(&Seen) -> Option<Instant>,
    to: fn(&Seen) -> Option<Instant>,
) -> impl Iterator<Item = Duration> {
    seen.iter().filter_map(move |seen| Some(to(seen)?.saturating_duration_since(from(seen)?)))
}
