//! What it leaves behind is removed.

use tokio_util::sync::CancellationToken;

use super::Finished;
use crate::{
    pods::{
        context::{PodContext, Wake},
        machine::{Phase, State, Transition, TransitionTo},
        observed::RETRY,
    },
    runtime::Runtime,
};

/// Everything, of a pod that was deleted. Of one that is merely done, its network and volumes: dead containers
/// and logs stay to be looked at.
pub struct Cleaning;

impl TransitionTo<Finished> for Cleaning {}

impl State for Cleaning {
    const PHASE: Phase = Phase::Cleaning;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        loop {
            pod.must_end();
            let unwanted = pod.is_unwanted();
            if !pod.record.cleaned {
                // The terminal status must survive what it is computed from.
                pod.compute::<Self>();
                pod.save_now().await;
            }
            match clean(pod, unwanted).await {
                Ok(()) => {
                    pod.record.cleaned = unwanted;
                    return Transition::next(self, Finished);
                }
                Err(message) => {
                    tracing::warn!(pod = %pod.desired.key, message, "cannot clean up yet; trying again");
                    pod.publish::<Self>();
                    let retry = pod.shared.clock.mono().after(RETRY);
                    if pod.wait(Some(retry), stop).await == Wake::Stop {
                        return Transition::stop();
                    }
                }
            }
        }
    }
}

async fn clean(pod: &mut PodContext, everything: bool) -> Result<(), String> {
    let runtime: &dyn Runtime = &*pod.shared.runtime;
    if let Some(sandbox) = &pod.observed.sandbox {
        let id = &sandbox.id;
        let done = if everything { runtime.remove_sandbox(id).await } else { runtime.stop_sandbox(id).await };
        done.map_err(|error| error.to_string())?;
    }
    let dirs = pod.dirs.clone();
    let removed =
        tokio::task::spawn_blocking(move || if everything { dirs.remove() } else { dirs.remove_volumes() });
    removed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if everything {
        pod.set_sandbox(None);
    } else if let Some(sandbox) = &mut pod.observed.sandbox {
        sandbox.ready = false;
    }
    Ok(())
}
