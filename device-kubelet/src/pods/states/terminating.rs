//! Its containers are stopped: signal, grace, kill. Main containers at once, then sidecars, last one first, with what
//! the others left of the grace.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::Cleaning;
use crate::{
    pods::{
        clock::Mono,
        context::PodContext,
        desired::Role,
        machine::{Phase, State, Transition, TransitionTo},
        observed::RETRY,
    },
    runtime::{ContainerId, RuntimeError},
};

/// A second order shortens the grace.
pub struct Terminating;

impl TransitionTo<Cleaning> for Terminating {}

impl State for Terminating {
    const PHASE: Phase = Phase::Terminating;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        let mut told = BTreeSet::new();
        let mut grace = Grace { ordered: pod.grace(), since: pod.shared.clock.mono() };
        let (mut stopped, mut behind) = (Vec::new(), BEHIND);
        pod.memory.waiting.clear();
        loop {
            let mut pause = RETRY;
            match pod.observe(true).await {
                Ok(()) => {
                    let next = next_to_stop(pod);
                    if next.is_empty() {
                        return Transition::next(self, Cleaning);
                    }
                    pod.publish::<Self>();
                    if next == stopped {
                        // Without a pause this would go on for ever.
                        stopped.clear();
                        pause = behind;
                        behind = (behind * 2).min(RETRY);
                        if pause == RETRY {
                            let message = "error killing pod: what was stopped runs on; was it paused?";
                            pod.event(None, true, "FailedKillPod", message);
                        }
                    } else {
                        match stop_all(pod, &next, &mut told, &mut grace, stop).await {
                            None => return Transition::stop(),
                            Some(Ok(())) => {
                                stopped = next;
                                continue;
                            }
                            Some(Err(error)) => {
                                pod.event(None, true, "FailedKillPod", format!("error killing pod: {error}"));
                            }
                        }
                    }
                }
                Err(error) => tracing::warn!(pod = %pod.desired.key, %error, "cannot look at the pod"),
            }
            let retry = pod.shared.clock.mono().after(pause);
            if pod.wait(Some(retry), stop).await == crate::pods::context::Wake::Stop {
                return Transition::stop();
            }
        }
    }
}

/// First pause before what has ended, as the runtime says, and runs, as it also says, is stopped again. Its list may be
/// a moment behind; or somebody paused the container, and it does not end before that is over.
const BEHIND: Duration = Duration::from_millis(100);
/// Even the last one gets so much of it: a kubelet's `minimumGracePeriodInSeconds`.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// The time that the containers of the pod have to end, together.
struct Grace {
    ordered: Duration,
    since: Mono,
}

impl Grace {
    /// What is left of it. Another order than before begins now.
    fn left(&mut self, ordered: Duration, now: Mono) -> Duration {
        if self.ordered != ordered {
            *self = Self { ordered, since: now };
        }
        ordered.saturating_sub(now.since(self.since)).max(LEAST_GRACE.min(ordered))
    }
}

/// Main and init containers first; then one sidecar after the other, last one first.
fn next_to_stop(pod: &PodContext) -> Vec<(String, ContainerId)> {
    let role = |name: &str| pod.desired.container(name).map_or(Role::Main, |(role, _)| role);
    let running: Vec<(String, ContainerId)> =
        pod.observed.running().map(|seen| (seen.name.as_str().to_owned(), seen.id.clone())).collect();
    let (sidecars, others): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|(name, _)| role(name) == Role::Sidecar);
    if !others.is_empty() {
        return others;
    }
    let position =
        |name: &str| pod.desired.init_containers().position(|(_, container)| container.name == name);
    sidecars.into_iter().max_by_key(|(name, _)| position(name)).into_iter().collect()
}

/// `None` if the agent stops; also returns when the grace was shortened.
async fn stop_all(
    pod: &mut PodContext,
    containers: &[(String, ContainerId)],
    told: &mut BTreeSet<ContainerId>,
    grace: &mut Grace,
    stop: &CancellationToken,
) -> Option<Result<(), RuntimeError>> {
    for (name, id) in containers {
        if told.insert(id.clone()) {
            pod.event(Some(name), false, "Killing", format!("Stopping container {name}"));
        }
    }
    let runtime = pod.shared.runtime.clone();
    // What was ordered during the last look counts.
    pod.must_end();
    let grace = grace.left(pod.grace(), pod.shared.clock.mono());
    let mut orders = pod.orders();
    let seconds = |order: &crate::pods::context::Order| (order.removed, order.desired.grace_seconds());
    let before = seconds(&pod.order());
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        _ = orders.wait_for(|order| seconds(order) != before) => {
            pod.must_end();
            Some(Ok(()))
        }
        results = join_all(containers.iter().map(|(_, id)| runtime.stop_container(id, grace))) => {
            Some(results.into_iter().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_to_wait_for_others_has_what_is_left_of_the_grace() {
        let seconds = Duration::from_secs;
        let at = |seconds: i64| Mono(seconds * 1000);
        let mut grace = Grace { ordered: seconds(30), since: at(0) };
        assert_eq!(grace.left(seconds(30), at(0)), seconds(30));
        assert_eq!(grace.left(seconds(30), at(12)), seconds(18));
        assert_eq!(grace.left(seconds(30), at(30)), LEAST_GRACE);
        // It was shortened: that is meant from now on.
        assert_eq!(grace.left(seconds(10), at(40)), seconds(10));
        assert_eq!(grace.left(seconds(10), at(44)), seconds(6));
        assert_eq!(grace.left(seconds(1), at(44)), seconds(1));
        assert_eq!(grace.left(seconds(1), at(50)), seconds(1));
    }
}
