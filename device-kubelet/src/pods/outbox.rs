//! Statuses on their way up: the latest of each pod, until it is acknowledged, and again in each new session.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_wire::{
    message::{Outcome, PodOutcome, PodReport},
    name::PodUid,
};
use tokio::{sync::Notify, time::Instant};

/// How long a report that came back with `Later` rests.
const REST: Duration = Duration::from_secs(5);
/// How long an intermediate status waits for a better one: most pods run before it is over, and a status of their
/// way there would only stand in the way of the next.
const SOFT: Duration = Duration::from_secs(1);

/// The outbox.
#[derive(Default)]
pub struct Outbox {
    state: Mutex<BTreeMap<PodUid, Entry>>,
    changed: Notify,
}

struct Entry {
    report: PodReport,
    not_before: Option<Instant>,
    taken: bool,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, BTreeMap<PodUid, Entry>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what was to be told of the pod. `soft`: told only if nothing else follows soon.
    pub fn offer(&self, report: PodReport, soft: bool) {
        let mut state = self.state();
        let waiting = state.get(&report.key.uid).and_then(|entry| entry.not_before);
        let not_before = soft.then(|| waiting.unwrap_or_else(|| Instant::now() + SOFT));
        state.insert(report.key.uid.clone(), Entry { report, not_before, taken: false });
        drop(state);
        self.changed.notify_one();
    }

    /// Nothing is to be told of the pod any more.
    pub fn forget(&self, uid: &PodUid) {
        self.state().remove(uid);
    }

    /// Everything is to be told again: whoever took it may have forgotten it.
    pub fn offer_again(&self) {
        for entry in self.state().values_mut() {
            entry.taken = false;
        }
        self.changed.notify_one();
    }

    /// What is not acknowledged; waits for the first.
    pub async fn next(&self, max: usize) -> Vec<PodReport> {
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let (ready, wake) = self.ready(max, now);
            if !ready.is_empty() {
                return ready;
            }
            match wake {
                Some(wake) => {
                    let _ = tokio::time::timeout_at(wake, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn ready(&self, max: usize, now: Instant) -> (Vec<PodReport>, Option<Instant>) {
        let state = self.state();
        let open = || state.values().filter(|entry| !entry.taken);
        let rests = |entry: &&Entry| entry.not_before.is_some_and(|at| at > now);
        let ready = open().filter(|entry| !rests(entry)).take(max).map(|entry| entry.report.clone());
        (ready.collect(), open().filter_map(|entry| entry.not_before).filter(|at| *at > now).min())
    }

    /// What became of a report.
    pub fn acknowledge(&self, outcome: &PodOutcome) {
        let mut state = self.state();
        let Some(entry) =
            state.get_mut(&outcome.uid).filter(|entry| entry.report.revision == outcome.revision)
        else {
            return;
        };
        match &outcome.outcome {
            Outcome::Later(refusal) => {
                tracing::debug!(pod = %entry.report.key, %refusal, "status will be sent again");
                entry.not_before = Some(Instant::now() + REST);
                drop(state);
                self.changed.notify_one();
            }
            Outcome::Refused(refusal) => {
                tracing::error!(pod = %entry.report.key, %refusal, "the API server refuses this status");
                state.remove(&outcome.uid);
            }
            Outcome::Taken => entry.taken = true,
            Outcome::Gone => {
                state.remove(&outcome.uid);
            }
        }
    }
}
