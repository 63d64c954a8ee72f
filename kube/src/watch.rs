//! A watch that is kept up: what is there and what changes, for ever.
//!
//! ```text
//!            list      changes      failure         list again, or go on from the last version
//! Watch ───► Init ───► Apply ───►   (pause ≤ 5 s) ───► …
//!            InitApply Delete         │
//!            InitDone                 └─► readiness: `pauses` < quiet time of `readiness`
//! ```
//!
//! | file | answers |
//! |---|---|
//! | `pauses` | when is a failed watch begun again? |
//! | `readiness` | what do failures and events say about readiness, and what is logged? |
//! | `lists` | what is a complete list? |
//!
//! Nothing is kept of an object that was handed over; [`WholeLists`] holds those of a list until it is complete.

mod lists;
mod pauses;
mod readiness;

use std::fmt::{self, Debug};

use futures::{Stream, StreamExt as _, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Config, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

pub use self::{
    lists::{News, WholeLists},
    readiness::Readiness,
};
use self::{
    pauses::Pauses,
    readiness::{Reporter, Seen},
};

/// How long the API server keeps one request of a watch open; then it goes on where it was. One whose end does not come,
/// because the connection died in silence, is given up some seconds later. kube's own 290 s would be five minutes in
/// which a pod that was bound or deleted is not seen; kubelets notice after 45 s.
const SECONDS: u32 = 60;

/// Objects of one kind, followed. Failures are reported and retried inside; what comes out are kube's events.
///
/// Objects come without `managedFields`: nobody reads them, and they are a good part of an object.
pub struct Watch<K> {
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    reporter: Reporter,
    /// What was handed over last. It counts once the next is asked for: whoever is told that this is ready finds what
    /// was seen where it is kept.
    handed: Option<Seen>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Begins with the first call of [`event`](Self::event). `what` names the objects for people, in the plural.
    pub fn new(api: Api<K>, config: Config, what: &'static str, readiness: Readiness) -> Self {
        Self::over(watcher(api, config.timeout(SECONDS)), what, readiness)
    }
}

impl<K: Resource> Watch<K> {
    fn over(
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
        what: &'static str,
        readiness: Readiness,
    ) -> Self {
        Self {
            events: events.backoff(Pauses::default()).boxed(),
            reporter: Reporter::new(what, readiness),
            handed: None,
        }
    }

    /// The next event; `None` would be the end, which kube's watches do not have. A call says that whatever came
    /// before was taken. The future may be dropped at any time, nothing is lost.
    pub fn event(&mut self) -> impl Future<Output = Option<Event<K>>> {
        // Not within the future: among others in a `select!` it may be dropped before it ever runs.
        if let Some(seen) = self.handed.take() {
            self.reporter.seen(seen);
        }
        async {
            loop {
                let event = tokio::select! {
                    event = self.events.next() => event?,
                    () = self.reporter.quiet() => continue,
                };
                match event {
                    Ok(event) => {
                        self.handed = Some(Seen::of(&event));
                        return Some(event.modify(|object| object.meta_mut().managed_fields = None));
                    }
                    Err(error) => self.reporter.interrupted(&error),
                }
            }
        }
    }

    /// The same with lists in one piece.
    pub fn whole_lists(self) -> WholeLists<K> {
        WholeLists::new(self)
    }
}

impl<K> fmt::Debug for Watch<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("reporter", &self.reporter).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "watch/tests.rs"]
mod tests;
