//! Readiness of what follows the API server and hears only of its own failures, and what is logged of that.

use std::time::Duration;

use fleet_daemon::health::CheckHandle;
use kube::runtime::watcher::{self, Event};
use tokio::time::Instant;

use super::pauses::LONGEST;

/// How long nothing may have failed until it counts as good again.
pub(super) const QUIET: Duration = Duration::from_secs(10);
const _: () = assert!(LONGEST.as_secs() < QUIET.as_secs(), "or a watch would be ready between two failures");

/// What is said by a check. Before everything was seen once it is not ready, either way.
#[derive(Debug)]
pub enum Readiness {
    /// Ready as long as what was seen is current: not after a failure. It is ready again with the next event, or when
    /// no attempt has failed for 10 s. Nothing comes while nothing changes, and a watch says that it was interrupted,
    /// but not that it goes on.
    Current(CheckHandle),
    /// Ready for good, for who works from memory whatever becomes of the API server. The log has one line for an
    /// interruption, not for each attempt.
    Complete(CheckHandle),
}

/// What an event shows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen {
    /// Everything there is.
    All,
    /// A change.
    Change,
    /// A part of a list: nothing about the rest.
    Part,
}

impl Seen {
    pub(super) fn of<K>(event: &Event<K>) -> Self {
        match event {
            Event::InitDone => Self::All,
            Event::Apply(_) | Event::Delete(_) => Self::Change,
            Event::Init | Event::InitApply(_) => Self::Part,
        }
    }
}

/// Says how one watch is.
#[derive(Debug)]
pub(super) struct Reporter {
    what: &'static str,
    readiness: Readiness,
    complete: bool,
    /// When an attempt failed last, if nothing has shown since that it goes on.
    failed: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(what: &'static str, readiness: Readiness) -> Self {
        Self { what, readiness, complete: false, failed: None }
    }

    /// Something came, and was taken.
    pub(super) fn seen(&mut self, seen: Seen) {
        match &self.readiness {
            Readiness::Current(check) => match seen {
                Seen::All => {
                    self.failed = None;
                    check.ready();
                }
                Seen::Change => self.current(),
                Seen::Part => {}
            },
            Readiness::Complete(check) => {
                if self.failed.take().is_some() && self.complete {
                    tracing::info!(what = self.what, "the watch goes on");
                }
                if matches!(seen, Seen::All) {
                    check.ready();
                }
            }
        }
        self.complete |= matches!(seen, Seen::All);
    }

    /// An attempt failed.
    pub(super) fn interrupted(&mut self, error: &watcher::Error) {
        let what = self.what;
        let before = self.failed.replace(Instant::now());
        match &self.readiness {
            Readiness::Current(check) => {
                check.not_ready(format!("the watch of {what} is interrupted: {error}"));
            }
            Readiness::Complete(check) if !self.complete => {
                check.not_ready(format!("{what} cannot be listed: {error}"));
            }
            Readiness::Complete(_) if before.is_none() => {
                tracing::warn!(what, %error, "the watch is interrupted; going on from memory");
            }
            Readiness::Complete(_) => {}
        }
    }

    /// Ends when there was quiet for long enough after a failure; it is current then. To be called anew after each
    /// event and each failure.
    pub(super) async fn quiet(&mut self) {
        match (self.failed, &self.readiness) {
            (Some(failed), Readiness::Current(_)) if self.complete => {
                tokio::time::sleep_until(failed + QUIET).await;
                self.current();
            }
            _ => std::future::pending().await,
        }
    }

    fn current(&mut self) {
        if let Readiness::Current(check) = &self.readiness
            && self.complete
            && self.failed.take().is_some()
        {
            check.ready();
        }
    }
}
