//! Rotates the logs of running containers: the one task that decides when to look.
//!
//! # When
//! A kubelet looks at all logs every ten seconds. Here a device on which nothing is logged shall sleep: the kernel tells
//! of the *first* write to a log after a look (a one-shot inotify watch). Then the task rests, ten seconds or as long
//! as the quickest log needs to become full, and looks at all logs. So nothing written costs nothing, and a lot
//! costs one look in a while. A watch for every write would wake the agent with each line of each
//! container, and the existing one-minute look at the runtime comes too late for a container that writes in earnest.
//!
//! # Failures
//! What is on the disk says where a rotation stands (`rotation`): the agent may be killed, the container end,
//! the disk be full at any point. A step that failed is taken again after a minute.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use super::rotation::LogLimits;
use super::rotation::{self, Files, Step};
use crate::runtime::{ContainerId, Runtime, inotify::FirstWrites};

/// Shortest and longest time between a write and the look that follows.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// When what failed is tried again, and how often logs are looked at when the kernel cannot tell.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps logs from growing.
#[derive(Debug)]
pub struct Rotator {
    limits: LogLimits,
    logs: Mutex<BTreeMap<ContainerId, Log>>,
    changed: Notify,
}

#[derive(Debug, Clone)]
struct Log {
    path: PathBuf,
    ended: watch::Receiver<bool>,
    /// Length at the last look.
    seen: Option<(Instant, u64)>,
    /// It was said that it cannot be rotated.
    failing: bool,
}

impl Log {
    fn has_ended(&self) -> bool {
        // Its owner gone means the same.
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }
}

/// What came of a look at all logs.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Rest after the next write.
    rest: Duration,
    /// The kernel will not tell all: look again without a write.
    again: bool,
}

impl Rotator {
    /// With no logs yet.
    pub fn new(limits: LogLimits) -> Self {
        Self { limits, logs: Mutex::default(), changed: Notify::new() }
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Log>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this container's log is rotated, until it has ended. Of one that has ended already, a
    /// rotation that was begun is undone.
    pub fn watch(&self, id: &ContainerId, path: &Path, ended: watch::Receiver<bool>) {
        let mut logs = self.logs();
        if !logs.contains_key(id) {
            logs.insert(id.clone(), Log { path: path.to_owned(), ended, seen: None, failing: false });
            self.changed.notify_one();
        }
    }

    /// Rotates until it is dropped.
    pub async fn run(&self, runtime: &dyn Runtime) {
        // Made with the first log: of many simulated devices without logs, none needs one.
        let mut writes = None;
        loop {
            let look = self.look(runtime, &mut writes).await;
            let written = async {
                match &writes {
                    Some(writes) => writes.next().await,
                    None => std::future::pending().await,
                }
            };
            let again = async {
                if look.again { tokio::time::sleep(RETRY).await } else { std::future::pending().await }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = again => {}
                written = written => {
                    if let Err(error) = written {
                        tracing::warn!(%error, "cannot hear of writes to logs");
                        writes = None;
                    }
                    tokio::time::sleep(look.rest).await;
                }
            }
        }
    }

    async fn look(&self, runtime: &dyn Runtime, writes: &mut Option<FirstWrites>) -> Look {
        let mut look = Look { rest: REST.1, again: false };
        let logs = self.logs().clone();
        for (id, mut log) in logs {
            let ended = log.has_ended();
            // Before the look, so that no write falls in between.
            look.again |= !ended && !arm(writes, &log.path);
            match self.rotate(runtime, &id, &log, ended).await {
                Ok(length) => {
                    // A new file is not watched yet.
                    look.again |= length.is_none() && !arm(writes, &log.path);
                    let length = length.unwrap_or(0);
                    let now = Instant::now();
                    let rest = rest(log.seen.map(|(at, before)| (now - at, before)), length, self.limits);
                    look.rest = look.rest.min(rest);
                    (log.seen, log.failing) = (Some((now, length)), false);
                }
                Err(message) => {
                    look.again = true;
                    if !std::mem::replace(&mut log.failing, true) {
                        tracing::warn!(path = %log.path.display(), message, "the log is not rotated; trying again");
                    }
                }
            }
            let mut logs = self.logs();
            if ended && !log.failing {
                logs.remove(&id);
            } else {
                logs.insert(id, log);
            }
        }
        look
    }

    /// Does what one log needs; gives the length of its current file, `None` if that is a new one now.
    async fn rotate(
        &self,
        runtime: &dyn Runtime,
        id: &ContainerId,
        log: &Log,
        ended: bool,
    ) -> Result<Option<u64>, String> {
        let (path, limits) = (log.path.clone(), self.limits);
        let prepared = tokio::task::spawn_blocking(move || prepare(&path, ended, limits)).await;
        let (step, files) =
            prepared.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let length = files.current.map_or(0, |(_, length)| length);
        if !matches!(step, Step::Begin { .. } | Step::Finish) {
            return Ok(Some(length));
        }
        match runtime.reopen_log(id).await {
            Ok(()) => Ok(None),
            // The next look undoes what was begun.
            Err(_) if log.has_ended() => Ok(Some(length)),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn prepare(path: &Path, ended: bool, limits: LogLimits) -> io::Result<(Step, Files)> {
    let files = rotation::look(path)?;
    let step = rotation::step(&files, ended, limits);
    match rotation::take(path, &step) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull && rotation::make_room(path)? => {
            rotation::take(path, &step)?;
        }
        taken => taken?,
    }
    Ok((step, files))
}

/// Has the next write to this log told; `false` if that cannot be.
fn arm(writes: &mut Option<FirstWrites>, path: &Path) -> bool {
    if !path.exists() {
        // Nothing is logged there: a simulated device without a disk.
        return true;
    }
    let armed = match writes {
        Some(writes) => writes.arm(path),
        None => FirstWrites::new().and_then(|fresh| writes.insert(fresh).arm(path)),
    };
    match armed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %path.display(), %error, "no news of writes to this log");
            false
        }
        _ => true,
    }
}

/// How long a log may be left alone after a write: until it is full, if it grows as it did.
fn rest(before: Option<(Duration, u64)>, length: u64, limits: LogLimits) -> Duration {
    let Some((elapsed, before)) = before else { return REST.0 };
    let grown = length.saturating_sub(before);
    if grown == 0 {
        return REST.1;
    }
    let left = limits.max_bytes.saturating_sub(length);
    let seconds = elapsed.as_secs_f64() * (left as f64 / grown as f64);
    Duration::try_from_secs_f64(seconds).unwrap_or(REST.1).clamp(REST.0, REST.1)
}

#[cfg(test)]
#[path = "tests/rotator.rs"]
mod tests;
