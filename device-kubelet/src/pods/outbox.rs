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
/// How long a confirmation that a pod has ended rests, when the pod is not gone for it.
const CONFIRM_AGAIN: Duration = Duration::from_secs(60);
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
        // A series of intermediate ones waits once, counted from the first that nobody has.
        let open = state.get(&report.key.uid).filter(|entry| !entry.taken);
        let waiting = open.and_then(|entry| entry.not_before);
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
        if let Outcome::Refused(refusal) = &outcome.outcome {
            tracing::error!(pod = %entry.report.key, %refusal, "the API server refuses this status");
        }
        let rest = match &outcome.outcome {
            Outcome::Gone => {
                state.remove(&outcome.uid);
                return;
            }
            Outcome::Later(refusal) => {
                tracing::debug!(pod = %entry.report.key, %refusal, "status will be sent again");
                REST
            }
            // Whoever answers so does not know yet that the pod is to be deleted, and nobody else will do it.
            Outcome::Taken | Outcome::Refused(_) if entry.report.stopped => CONFIRM_AGAIN,
            // Nothing more for this session; the next may see it otherwise.
            Outcome::Taken | Outcome::Refused(_) => {
                entry.taken = true;
                return;
            }
        };
        entry.not_before = Some(Instant::now() + rest);
        drop(state);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fleet_wire::{
        message::{Refusal, RefusalCode},
        name::PodKey,
    };
    use k8s_openapi::api::core::v1::PodStatus;

    use super::*;

    fn report(uid: &str, revision: u64) -> PodReport {
        let key = PodKey {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: uid.parse().unwrap(),
        };
        PodReport { key, revision, status: PodStatus::default(), stopped: false }
    }

    fn outcome(uid: &str, revision: u64, outcome: Outcome) -> PodOutcome {
        PodOutcome { uid: uid.parse().unwrap(), revision, outcome }
    }

    /// What is told within an hour, in short.
    async fn told(outbox: &Outbox) -> Vec<(String, u64)> {
        let reports = tokio::time::timeout(Duration::from_secs(3600), outbox.next(10)).await;
        let reports = reports.unwrap_or_default();
        reports.into_iter().map(|report| (report.key.uid.to_string(), report.revision)).collect()
    }

    fn pods(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        list.iter().map(|(uid, revision)| ((*uid).to_owned(), *revision)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_told_again_to_a_new_session_and_taken_again() {
        let outbox = Outbox::default();
        outbox.offer(report("u1", 1), false);
        outbox.offer(report("u2", 1), false);
        for uid in ["u1", "u2"] {
            outbox.acknowledge(&outcome(uid, 1, Outcome::Taken));
        }
        assert_eq!(told(&outbox).await, []);
        outbox.offer_again();
        assert_eq!(told(&outbox).await, pods(&[("u1", 1), ("u2", 1)]));
        outbox.acknowledge(&outcome("u1", 1, Outcome::Taken));
        assert_eq!(told(&outbox).await, pods(&[("u2", 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_reports_is_woken() {
        let outbox = std::sync::Arc::new(Outbox::default());
        outbox.offer(report("u1", 1), false);
        outbox.acknowledge(&outcome("u1", 1, Outcome::Taken));
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.next(10).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        outbox.offer_again();
        assert_eq!(waiting.await.unwrap(), [report("u1", 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_newest_of_a_pod_is_told_again() {
        let outbox = Outbox::default();
        outbox.offer(report("u1", 1), false);
        outbox.offer(report("u1", 2), false);
        // Comes late, for a revision that was replaced.
        outbox.acknowledge(&outcome("u1", 1, Outcome::Taken));
        assert_eq!(told(&outbox).await, pods(&[("u1", 2)]));
        outbox.acknowledge(&outcome("u1", 2, Outcome::Taken));
        outbox.offer_again();
        assert_eq!(told(&outbox).await, pods(&[("u1", 2)]));
    }

    #[tokio::test(start_paused = true)]
    async fn each_intermediate_status_waits_for_a_better_one() {
        let outbox = Outbox::default();
        for revision in [1, 2] {
            let before = Instant::now();
            outbox.offer(report("u1", revision), true);
            assert_eq!(told(&outbox).await, pods(&[("u1", revision)]));
            assert_eq!(before.elapsed(), SOFT);
            outbox.acknowledge(&outcome("u1", revision, Outcome::Taken));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_or_forgotten_is_not_told_again_and_what_is_refused_in_a_new_session() {
        let outbox = Outbox::default();
        for uid in ["u1", "u2", "u3"] {
            outbox.offer(report(uid, 1), false);
        }
        let refusal = Refusal::new(RefusalCode::BadRequest, "no".to_owned());
        outbox.acknowledge(&outcome("u1", 1, Outcome::Gone));
        outbox.acknowledge(&outcome("u2", 1, Outcome::Refused(refusal)));
        outbox.forget(&"u3".parse().unwrap());
        assert_eq!(told(&outbox).await, []);
        outbox.offer_again();
        assert_eq!(told(&outbox).await, pods(&[("u2", 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_pod_is_told_until_the_pod_is_gone() {
        let outbox = Outbox::default();
        outbox.offer(PodReport { stopped: true, ..report("u1", 1) }, false);
        let refusal = Refusal::new(RefusalCode::BadRequest, "no".to_owned());
        for answer in [Outcome::Refused(refusal), Outcome::Taken] {
            let before = Instant::now();
            outbox.acknowledge(&outcome("u1", 1, answer));
            assert_eq!(told(&outbox).await, pods(&[("u1", 1)]));
            assert_eq!(before.elapsed(), CONFIRM_AGAIN);
        }
        outbox.acknowledge(&outcome("u1", 1, Outcome::Gone));
        assert_eq!(told(&outbox).await, []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_rests_goes_on_resting() {
        let outbox = Outbox::default();
        outbox.offer(report("u1", 1), false);
        let refusal = Refusal::new(RefusalCode::Unavailable, "busy".to_owned());
        outbox.acknowledge(&outcome("u1", 1, Outcome::Later(refusal)));
        outbox.offer(report("u2", 1), true);
        outbox.offer_again();
        let before = Instant::now();
        assert_eq!(told(&outbox).await, pods(&[("u2", 1)]));
        assert_eq!(before.elapsed(), SOFT);
        outbox.acknowledge(&outcome("u2", 1, Outcome::Taken));
        assert_eq!(told(&outbox).await, pods(&[("u1", 1)]));
        assert_eq!(before.elapsed(), REST);
    }
}
