//! It gets its sandbox.

use tokio_util::sync::CancellationToken;

use super::{Running, Terminating};
use crate::{
    pods::{
        context::{PodContext, Wake},
        machine::{Phase, State, Transition, TransitionTo},
        observed::RETRY,
        plan::{Plan, plan},
        record::Ending,
        sandbox_spec,
    },
    runtime::{RuntimeError, Sandbox},
};

/// What is left of an old sandbox is removed first; its containers' last states are in the status.
pub struct Sandboxing;

impl TransitionTo<Running> for Sandboxing {}
impl TransitionTo<Terminating> for Sandboxing {}

impl State for Sandboxing {
    const PHASE: Phase = Phase::Sandboxing;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        loop {
            if let Some(ending) = pod.must_end() {
                pod.end(ending);
                return Transition::next(self, Terminating);
            }
            // After a reboot of the device there may be nothing left to do.
            if plan(&pod.situation()) == Plan::Finish {
                pod.end(Ending::Completed);
                return Transition::next(self, Terminating);
            }
            let mut orders = pod.orders();
            let made = tokio::select! {
                biased;
                () = stop.cancelled() => return Transition::stop(),
                _ = orders.wait_for(|order| order.departs()) => continue,
                made = make(pod) => made,
            };
            match made {
                Ok(sandbox) => {
                    pod.set_sandbox(Some(sandbox));
                    return Transition::next(self, Running);
                }
                Err(error) => {
                    pod.event(
                        None,
                        true,
                        "FailedCreatePodSandBox",
                        format!("Failed to create pod sandbox: {error}"),
                    );
                    pod.publish::<Self>();
                    let retry = pod.by(pod.shared.clock.mono().after(RETRY));
                    if wait_for_retry(pod, retry, stop).await {
                        return Transition::stop();
                    }
                }
            }
        }
    }
}

/// Whether the agent stops. Noise from the runtime does not shorten the wait.
async fn wait_for_retry(
    pod: &mut PodContext,
    retry: crate::pods::clock::Mono,
    stop: &CancellationToken,
) -> bool {
    loop {
        match pod.wait(Some(retry), stop).await {
            Wake::Stop => return true,
            Wake::Order | Wake::Deadline => return false,
            Wake::Runtime => {}
        }
    }
}

async fn make(pod: &mut PodContext) -> Result<Sandbox, RuntimeError> {
    let runtime = pod.shared.runtime.clone();
    if let Some(old) = pod.observed.sandbox.clone() {
        if old.ready {
            return Ok(old);
        }
        pod.event(None, false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        runtime.stop_sandbox(&old.id).await?;
        pod.observe(false).await?;
        // The runtime forgets its containers with it; from here on the status remembers.
        pod.publish::<Sandboxing>();
        pod.save_now().await;
        runtime.remove_sandbox(&old.id).await?;
        pod.set_sandbox(None);
    }
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    match runtime.run_sandbox(sandbox_spec::sandbox(&pod.desired, &resolv_conf)).await {
        Err(RuntimeError::Conflict { .. }) => {
            pod.observe(true).await?;
            match pod.observed.sandbox.clone() {
                Some(sandbox) if sandbox.ready => Ok(sandbox),
                Some(half_made) => {
                    runtime.remove_sandbox(&half_made.id).await?;
                    pod.set_sandbox(None);
                    runtime.run_sandbox(sandbox_spec::sandbox(&pod.desired, &resolv_conf)).await
                }
                None => Err(RuntimeError::Conflict { what: "sandbox", id: pod.desired.key.to_string() }),
            }
        }
        made => made,
    }
}
