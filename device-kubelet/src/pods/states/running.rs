//! Its containers converge, and are kept where they should be.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Sandboxing, Terminating};
use crate::pods::{
    clock::Mono,
    context::{PodContext, Wake},
    launch::{prepare_volumes, start},
    machine::{Phase, State, Transition, TransitionTo},
    observed::RETRY,
    plan::{Convergence, Plan, plan},
    record::Ending,
    status::Waiting,
};

/// Decides, acts, tells, waits; and again.
pub struct Running;

impl TransitionTo<Sandboxing> for Running {}
impl TransitionTo<Terminating> for Running {}

impl State for Running {
    const PHASE: Phase = Phase::Running;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        let mut prepared = pod.desired.clone();
        loop {
            if let Some(ending) = pod.must_end() {
                pod.end(ending);
                return Transition::next(self, Terminating);
            }
            if !Arc::ptr_eq(&prepared, &pod.desired) {
                prepared = pod.desired.clone();
                if let Err(message) = prepare_volumes(pod).await {
                    // What is mounted keeps its old content.
                    pod.event(None, true, "FailedMount", message);
                }
            }
            let mut wake = None;
            match plan(&pod.situation()) {
                Plan::Finish => {
                    pod.publish::<Self>();
                    pod.end(Ending::Completed);
                    return Transition::next(self, Terminating);
                }
                Plan::Sandbox { .. } => return Transition::next(self, Sandboxing),
                Plan::Converge(todo) => {
                    note_crash_loops(pod, &todo);
                    if !todo.replace.is_empty() || !todo.start.is_empty() {
                        let mut orders = pod.orders();
                        tokio::select! {
                            biased;
                            () = stop.cancelled() => return Transition::stop(),
                            _ = orders.wait_for(|order| order.departs()) => {}
                            () = act(pod, &todo) => {}
                        }
                        continue;
                    }
                    wake = earlier(wake, todo.wake);
                }
            }
            pod.publish::<Self>();
            if wait(pod, earlier(wake, pod.active_deadline()), stop).await == Wake::Stop {
                return Transition::stop();
            }
        }
    }
}

/// Waits until something differs from what is known; looks at the runtime when it says so.
async fn wait(pod: &mut PodContext, until: Option<Mono>, stop: &CancellationToken) -> Wake {
    let mut until = until;
    loop {
        let wake = pod.wait(until, stop).await;
        if wake != Wake::Runtime {
            return wake;
        }
        let before = pod.observed.clone();
        match pod.observe(false).await {
            Ok(()) if pod.observed == before => {}
            Ok(()) => return wake,
            Err(error) => {
                tracing::warn!(pod = %pod.desired.key, %error, "cannot look at the pod");
                until = earlier(until, Some(pod.shared.clock.mono().after(RETRY)));
            }
        }
    }
}

fn earlier(a: Option<Mono>, b: Option<Mono>) -> Option<Mono> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn note_crash_loops(pod: &mut PodContext, todo: &Convergence) {
    for (name, held) in &todo.crash_looping {
        let delay = crate::pods::clock::go_duration(held.delay);
        let long_name = pod.desired.long_name();
        let message = format!("back-off {delay} restarting failed container={name} pod={long_name}");
        let waiting = Waiting { reason: "CrashLoopBackOff", message };
        let known = pod.memory.waiting.insert(name.clone(), waiting.clone());
        if known.as_ref() != Some(&waiting) {
            pod.event(
                Some(name),
                true,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {long_name}"),
            );
        }
    }
}

async fn act(pod: &mut PodContext, todo: &Convergence) {
    let runtime = pod.shared.runtime.clone();
    for replace in &todo.replace {
        let name = &replace.name;
        let message = format!("Container {name} definition changed, will be restarted");
        pod.event(Some(name), false, "Killing", message);
        match runtime.stop_container(&replace.id, pod.grace()).await {
            Ok(()) => {
                look(pod).await;
                start(pod, name).await;
                look(pod).await;
            }
            Err(error) => pod.event(Some(name), true, "FailedKillPod", error.to_string()),
        }
    }
    for name in &todo.start {
        // What was told first is seen first: the pod waits for this container.
        pod.publish::<Running>();
        start(pod, name).await;
        look(pod).await;
    }
}

async fn look(pod: &mut PodContext) {
    if let Err(error) = pod.observe(false).await {
        tracing::warn!(pod = %pod.desired.key, %error, "cannot look at the pod");
    }
}
