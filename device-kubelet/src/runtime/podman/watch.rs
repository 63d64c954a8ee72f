//! The one task that turns ended containers and lost connections into [`RuntimeEvent`]s.
//!
//! ```text
//!            first running container is seen            directory gone, stream broken
//!   idle ────────────────────────────────▶ watching ───────────────────────────────▶ idle + Resync
//!
//!            a request finds no service                 ping answered
//!   reachable ───────────────────────────▶ lost, pings with back-off ──────────────▶ reachable + Resync
//! ```

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt as _};
use tokio::{
    sync::{broadcast, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Inner, READ_LIMIT,
    answer::Event,
    exits::{self, ExitWatch, Seen},
    labels,
    libpod::{Fault, Lines},
};
use crate::runtime::RuntimeEvent;

/// Events that a slow reader may be behind before it is told to look at everything.
const BACKLOG: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Handle of the task.
#[derive(Debug)]
pub(super) struct Watch {
    inner: Weak<Inner>,
    stop: CancellationToken,
    news: broadcast::Sender<RuntimeEvent>,
    sources: mpsc::UnboundedSender<Source>,
    watching: Arc<AtomicBool>,
    reachable: AtomicBool,
    sees_device: bool,
}

/// Where exits are learned from.
#[derive(Debug)]
enum Source {
    Directory(ExitWatch),
    EventStream,
}

impl Watch {
    pub(super) fn start(inner: Weak<Inner>, stop: CancellationToken, sees_device: bool) -> Self {
        let (news, _) = broadcast::channel(BACKLOG);
        let (sources, new_sources) = mpsc::unbounded_channel();
        let watching = Arc::new(AtomicBool::new(false));
        let task = Task { inner: inner.clone(), news: news.clone(), watching: watching.clone() };
        tokio::spawn(stop.clone().run_until_cancelled_owned(task.run(new_sources)));
        Self { inner, stop, news, sources, watching, reachable: AtomicBool::new(true), sees_device }
    }

    pub(super) fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Acquire)
    }

    /// A running container's monitor shows where all of them note exits. From the return of this call no exit is
    /// missed; what came before is covered by the `Resync` that it sends.
    pub(super) fn see_exits_of(&self, conmon_pid: i32) {
        if conmon_pid <= 0 || self.watching.swap(true, Ordering::AcqRel) {
            return;
        }
        let directory = || exits::exit_dir_of(conmon_pid).and_then(|dir| ExitWatch::new(&dir));
        let source = match self.sees_device.then(directory) {
            Some(Ok(watch)) => Source::Directory(watch),
            None => Source::EventStream,
            Some(Err(error)) => {
                tracing::info!(%error, "exits of containers are taken from Podman's event stream");
                Source::EventStream
            }
        };
        // The task lives as long as this handle.
        let _ = self.sources.send(source);
        let _ = self.news.send(RuntimeEvent::Resync);
    }

    /// A request found no service.
    pub(super) fn lost(&self) {
        if !self.reachable.swap(false, Ordering::AcqRel) {
            return;
        }
        let inner = self.inner.clone();
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            let mut pause = FIRST_PAUSE;
            loop {
                tokio::time::sleep(pause.mul_f32(0.75 + rand::random::<f32>() / 2.0)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                let Some(inner) = inner.upgrade() else { return };
                if inner.libpod.get("/_ping", READ_LIMIT).await.is_ok() {
                    tracing::info!("the container runtime answers again");
                    inner.watch.reachable.store(true, Ordering::Release);
                    let _ = inner.watch.news.send(RuntimeEvent::Resync);
                    return;
                }
            }
        }));
    }

    /// `owner` keeps the task alive as long as somebody listens.
    pub(super) fn events(&self, owner: Arc<Inner>) -> BoxStream<'static, RuntimeEvent> {
        stream::unfold((self.news.subscribe(), owner), async |(mut news, owner)| {
            let event = match news.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(_)) => RuntimeEvent::Resync,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, (news, owner)))
        })
        .boxed()
    }
}

/// How long nobody watches after a source of exits ended: the longer, the sooner it did.
struct Pauses(Duration);

impl Pauses {
    fn after(&mut self, lasted: Duration) -> Duration {
        let pause = if lasted < LONGEST_PAUSE { self.0 } else { FIRST_PAUSE };
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

struct Task {
    inner: Weak<Inner>,
    news: broadcast::Sender<RuntimeEvent>,
    watching: Arc<AtomicBool>,
}

impl Task {
    async fn run(self, mut new_sources: mpsc::UnboundedReceiver<Source>) {
        let mut pauses = Pauses(FIRST_PAUSE);
        while let Some(source) = new_sources.recv().await {
            let began = Instant::now();
            let ended = match source {
                Source::Directory(watch) => self.follow_directory(watch).await,
                Source::EventStream => self.follow_events().await,
            };
            tracing::warn!(reason = %ended, "exits of containers are not seen for a moment");
            // Listing all finds the next source, and that may end at once, too.
            tokio::time::sleep(pauses.after(began.elapsed())).await;
            self.watching.store(false, Ordering::Release);
            let _ = self.news.send(RuntimeEvent::Resync);
        }
    }

    async fn follow_directory(&self, mut watch: ExitWatch) -> Fault {
        let mut lookups = FuturesUnordered::new();
        loop {
            let seen = tokio::select! {
                Some(()) = lookups.next() => continue,
                seen = watch.next() => seen,
            };
            let seen = match seen {
                Ok(seen) => seen,
                Err(error) => return Fault::Malformed(error.to_string()),
            };
            for news in seen {
                match news {
                    Seen::Exit(container) => {
                        if !self.tell_known(&container) {
                            // Podman may take its time, and the kernel's counters of the next exit must be
                            // read at once.
                            lookups.push(self.tell_unknown(container));
                        }
                    }
                    Seen::Overflow => {
                        let _ = self.news.send(RuntimeEvent::Resync);
                    }
                    Seen::Gone => return Fault::Malformed("the directory of exit files is gone".to_owned()),
                }
            }
        }
    }

    async fn follow_events(&self) -> Fault {
        let mut lines = match self.open_events().await {
            Ok(lines) => lines,
            Err(fault) => return self.broken(fault),
        };
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    let event = serde_json::from_slice::<Event>(&line);
                    if let Some(container) = event.ok().map(Event::container)
                        && !self.tell_known(&container)
                    {
                        self.tell_unknown(container).await;
                    }
                }
                Ok(None) => return self.broken(Fault::Unreachable("the event stream ended".to_owned())),
                Err(fault) => return self.broken(fault),
            }
        }
    }

    async fn open_events(&self) -> Result<Lines, Fault> {
        let Some(libpod) = self.inner.upgrade().map(|inner| inner.libpod.clone()) else {
            return Err(Fault::Unreachable("shutting down".to_owned()));
        };
        let filters = serde_json::json!({
            "type": ["container"],
            "event": ["died"],
            "label": [format!("{}={}", labels::MANAGED_BY, labels::MANAGER)],
        });
        let filters = super::libpod::query(&filters.to_string());
        libpod.lines(&format!("/events?stream=true&filters={filters}")).await
    }

    fn broken(&self, fault: Fault) -> Fault {
        if let Some(inner) = self.inner.upgrade() {
            inner.watch.lost();
        }
        fault
    }

    /// Tells whose container ended, if that is known.
    fn tell_known(&self, container: &str) -> bool {
        let Some(inner) = self.inner.upgrade() else { return true };
        let mut known = inner.known();
        let Some(pod) = known.owners.get(container).cloned() else {
            return false;
        };
        if known.cgroups.get(&pod).is_some_and(|cgroups| cgroups.killed_for_memory(container)) {
            known.oom_killed.insert(container.to_owned(), true);
        }
        known.ended.insert(container.to_owned());
        drop(known);
        let _ = self.news.send(RuntimeEvent::PodChanged(pod));
        true
    }

    /// Made by an agent before us and not listed yet, or not ours at all: then nothing is told.
    async fn tell_unknown(&self, container: String) {
        let Some(inner) = self.inner.upgrade() else { return };
        match inner.listed_containers(None).await {
            Ok(_) => {
                self.tell_known(&container);
            }
            Err(Fault::Unreachable(_)) => inner.watch.lost(),
            Err(_) => {
                let _ = self.news.send(RuntimeEvent::Resync);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_ends_at_once_is_looked_for_less_and_less_often() {
        let mut pauses = Pauses(FIRST_PAUSE);
        let taken: Vec<u128> = (0..9).map(|_| pauses.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(taken, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        // One that served does not wait for those before it.
        assert_eq!(pauses.after(LONGEST_PAUSE), FIRST_PAUSE);
        assert_eq!(pauses.after(Duration::ZERO), FIRST_PAUSE * 2);
    }
}
