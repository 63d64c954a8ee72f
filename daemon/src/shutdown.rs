//! The end of a process: one token that everything watches, and tasks that are waited for.
//!
//! ```text
//! signal or failed task ─► Shutdown ─► every task ends by itself ─► Tasks::drain ─► exit code
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::AbortHandle,
};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::Instrument as _;

/// The wish that the process, or a part of it, ends. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that only [`Shutdown::trigger`] triggers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM and SIGINT trigger, too. A second signal ends the process at once. To be called
    /// within a runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.0.clone();
        tokio::spawn(
            async move {
                let mut next = async || {
                    tokio::select! {
                        _ = terminate.recv() => ("SIGTERM", 128 + 15),
                        _ = interrupt.recv() => ("SIGINT", 128 + 2),
                    }
                };
                let (name, _) = next().await;
                tracing::info!(signal = name, "shutting down");
                token.cancel();
                let (name, code) = next().await;
                tracing::warn!(signal = name, "second signal: ending at once");
                std::process::exit(code);
            }
            .instrument(tracing::info_span!("signals")),
        );
        Ok(shutdown)
    }

    /// Ends when the shutdown begins.
    pub fn cancelled(&self) -> WaitForCancellationFutureOwned {
        self.0.clone().cancelled_owned()
    }

    /// Begins the shutdown.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it has begun.
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// A shutdown of a part: it begins with this one, or alone.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// The token inside, for libraries that take one.
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

/// A task that runs for ever, for [`Tasks::spawn`]: it ends well with the shutdown, and badly by itself.
///
/// # Errors
/// That it ended by itself.
pub async fn until<F: Future<Output = ()>>(shutdown: Shutdown, task: F) -> Result<(), &'static str> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = task => Err("it ended by itself"),
    }
}

/// The life of a process: `start` sets its tasks going, a signal or a failed task begins the shutdown, and within
/// `grace` all of them have ended. To be called within a runtime.
///
/// # Errors
/// Signals cannot be listened to, what `start` says, or [`DrainError`].
pub async fn live<S, E>(grace: Duration, start: impl AsyncFnOnce(&Tasks) -> Result<(), S>) -> Result<(), E>
where
    E: From<std::io::Error> + From<S> + From<DrainError>,
{
    let tasks = Tasks::new(Shutdown::on_signals()?);
    start(&tasks).await?;
    tasks.drain(grace).await?;
    Ok(())
}

/// How a task ended: well, or with a reason.
pub trait TaskEnd {
    /// The reason, if it did not end well.
    fn failure(&self) -> Option<String>;
}

impl TaskEnd for () {
    fn failure(&self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> TaskEnd for Result<(), E> {
    fn failure(&self) -> Option<String> {
        // `{:#}` shows the causes of an anyhow error.
        self.as_ref().err().map(|error| format!("{error:#}"))
    }
}

/// The tasks of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    shutdown: Shutdown,
    tracker: TaskTracker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
    failed: Option<(&'static str, String)>,
}

/// Why a process did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// A task that has to live as long as the process did not.
    #[error("task {task} ended: {reason}")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Why it ended.
        reason: String,
    },
    /// Some tasks did not end in time.
    #[error("after {deadline:?} these tasks had not ended: {}", tasks.join(", "))]
    Deadline {
        /// How long they had.
        deadline: Duration,
        /// Their names.
        tasks: Vec<&'static str>,
    },
}

impl Tasks {
    /// None yet; a failing one triggers `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self(Arc::new(Shared { shutdown, tracker: TaskTracker::new(), state: Mutex::default() }))
    }

    /// The shutdown that ends them.
    pub fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// Runs a task that has to live until the shutdown, in a span of its name. If it ends earlier, fails or
    /// panics, the shutdown begins and [`Tasks::drain`] says so.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskEnd + Send,
    {
        self.start(name, true, future);
    }

    /// Runs a task that may end at any time; only its failure is logged.
    pub fn spawn_transient<F>(&self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskEnd + Send,
    {
        self.start(name, false, future);
    }

    /// Waits for the shutdown, then for the tasks, at most `deadline`; then aborts what is left.
    pub async fn drain(&self, deadline: Duration) -> Result<(), DrainError> {
        self.0.shutdown.cancelled().await;
        self.0.tracker.close();
        let ended = tokio::time::timeout(deadline, self.0.tracker.wait()).await;
        // Aborting can run destructors, which lock the state: the handles leave it first.
        let (left, failed) = {
            let mut state = self.0.state();
            (std::mem::take(&mut state.running), state.failed.clone())
        };
        for abort in left.values().filter_map(|(_, abort)| abort.as_ref()) {
            abort.abort();
        }
        if let Some((task, reason)) = failed {
            return Err(DrainError::Failed { task, reason });
        }
        let tasks: Vec<_> = left.values().map(|(name, _)| *name).collect();
        match ended {
            Err(_) if !tasks.is_empty() => Err(DrainError::Deadline { deadline, tasks }),
            _ => Ok(()),
        }
    }

    fn start<F>(&self, name: &'static str, critical: bool, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskEnd + Send,
    {
        let id = {
            let mut state = self.0.state();
            state.next += 1;
            let id = state.next;
            state.running.insert(id, (name, None));
            id
        };
        let guard = Guard { shared: Arc::clone(&self.0), id, name, critical, reason: None };
        let task = async move {
            // Bound here, so that the task owns the whole guard and not only the field below.
            let mut guard = guard;
            let end = future.await;
            guard.reason = Some(end.failure());
        };
        let span = tracing::info_span!("task", name);
        let handle = self.0.tracker.spawn(task.instrument(span));
        if let Some(running) = self.0.state().running.get_mut(&id) {
            running.1 = Some(handle.abort_handle());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes the end of its task, however it comes.
struct Guard {
    shared: Arc<Shared>,
    id: u64,
    name: &'static str,
    critical: bool,
    /// `None` while it runs, `Some(None)` when it ended well.
    reason: Option<Option<String>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let aborted = self.shared.state().running.remove(&self.id).is_none();
        let reason = match self.reason.take() {
            Some(None) if self.critical && !self.shared.shutdown.is_triggered() => {
                "it ended before the shutdown".to_owned()
            }
            Some(None) => return,
            Some(Some(reason)) => reason,
            None if std::thread::panicking() => "it panicked".to_owned(),
            None if aborted || self.shared.shutdown.is_triggered() => return,
            None => "it was cancelled".to_owned(),
        };
        if !self.critical {
            tracing::warn!(task = self.name, reason, "task failed");
            return;
        }
        tracing::error!(task = self.name, reason, "task ended, shutting down");
        self.shared.state().failed.get_or_insert((self.name, reason));
        self.shared.shutdown.trigger();
    }
}

#[cfg(test)]
#[path = "tests/shutdown.rs"]
mod tests;
