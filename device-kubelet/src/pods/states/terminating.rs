//! Its containers are stopped: signal, grace, kill. Main containers at once, then sidecars, last one first.

use std::collections::BTreeSet;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::Cleaning;
use crate::{
    pods::{
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
        pod.memory.waiting.clear();
        loop {
            match pod.observe(true).await {
                Ok(()) => {
                    let next = next_to_stop(pod);
                    if next.is_empty() {
                        return Transition::next(self, Cleaning);
                    }
                    pod.publish::<Self>();
                    match stop_all(pod, &next, &mut told, stop).await {
                        None => return Transition::stop(),
                        Some(Ok(())) => continue,
                        Some(Err(error)) => {
                            pod.event(None, true, "FailedKillPod", format!("error killing pod: {error}"));
                        }
                    }
                }
                Err(error) => tracing::warn!(pod = %pod.desired.key, %error, "cannot look at the pod"),
            }
            let retry = pod.shared.clock.mono().after(RETRY);
            if pod.wait(Some(retry), stop).await == crate::pods::context::Wake::Stop {
                return Transition::stop();
            }
        }
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
    stop: &CancellationToken,
) -> Option<Result<(), RuntimeError>> {
    for (name, id) in containers {
        if told.insert(id.clone()) {
            pod.event(Some(name), false, "Killing", format!("Stopping container {name}"));
        }
    }
    let runtime = pod.shared.runtime.clone();
    let grace = pod.grace();
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
