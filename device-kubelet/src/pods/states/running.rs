//! Its containers converge, and are kept where they should be.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Sandboxing, Terminating};
use crate::{
    pods::{
        clock::Mono,
        context::{PodContext, Wake},
        launch::{prepare_volumes, start},
        machine::{Phase, State, Transition, TransitionTo},
        observed::RETRY,
        plan::{Convergence, Plan, plan},
        record::Ending,
        status::Waiting,
    },
    runtime::RuntimeError,
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
                        let acted = tokio::select! {
                            biased;
                            () = stop.cancelled() => return Transition::stop(),
                            _ = orders.wait_for(|order| order.departs()) => Ok(()),
                            acted = act(pod, &todo) => acted,
                        };
                        if acted.is_err() {
                            pod.publish::<Self>();
                            if look_again(pod, stop).await == Wake::Stop {
                                return Transition::stop();
                            }
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
    loop {
        let wake = pod.wait(until, stop).await;
        if wake != Wake::Runtime {
            return wake;
        }
        let before = pod.observed.clone();
        match look(pod).await {
            Ok(()) if pod.observed == before => {}
            Ok(()) => return wake,
            Err(_) => return look_again(pod, stop).await,
        }
    }
}

/// After something failed at the runtime: waits a little, and looks until that succeeds or the pod is to end. Nothing
/// is decided meanwhile: who does not know what he started would start it twice.
async fn look_again(pod: &mut PodContext, stop: &CancellationToken) -> Wake {
    loop {
        let retry = pod.shared.clock.mono().after(RETRY);
        loop {
            match pod.wait(Some(retry), stop).await {
                Wake::Stop => return Wake::Stop,
                Wake::Order if pod.is_unwanted() => return Wake::Order,
                Wake::Deadline => break,
                // Noise from the runtime does not shorten the wait.
                Wake::Order | Wake::Runtime => {}
            }
        }
        if pod.observe(true).await.inspect_err(|error| warn(pod, error)).is_ok() {
            return Wake::Runtime;
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

/// An error means that it is not known what runs now.
async fn act(pod: &mut PodContext, todo: &Convergence) -> Result<(), RuntimeError> {
    let runtime = pod.shared.runtime.clone();
    for replace in &todo.replace {
        let name = &replace.name;
        let message = format!("Container {name} definition changed, will be restarted");
        pod.event(Some(name), false, "Killing", message);
        if let Err(error) = runtime.stop_container(&replace.id, pod.grace()).await {
            pod.event(Some(name), true, "FailedKillPod", error.to_string());
            return Err(error);
        }
        look(pod).await?;
        start(pod, name).await;
        look(pod).await?;
    }
    for name in &todo.start {
        // What was told first is seen first: the pod waits for this container.
        pod.publish::<Running>();
        start(pod, name).await;
        look(pod).await?;
    }
    Ok(())
}

async fn look(pod: &mut PodContext) -> Result<(), RuntimeError> {
    let looked = pod.observe(false).await;
    if let Err(error) = &looked {
        warn(pod, error);
    }
    looked
}

fn warn(pod: &PodContext, error: &RuntimeError) {
    tracing::warn!(pod = %pod.desired.key, %error, "cannot look at the pod");
}
