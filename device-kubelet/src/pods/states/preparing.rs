//! Its volumes are set up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Running, Sandboxing, Terminating};
use crate::pods::{
    context::{PodContext, Wake},
    launch::prepare_volumes,
    machine::{Phase, State, Transition, TransitionTo},
    plan::{Plan, plan},
    record::Ending,
};

/// Waits here for references that are missing: a new bundle brings them. What runs meanwhile (the agent restarted) is
/// told as it is.
pub struct Preparing;

/// First and longest time between two trials.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(122));

impl TransitionTo<Sandboxing> for Preparing {}
impl TransitionTo<Running> for Preparing {}
impl TransitionTo<Terminating> for Preparing {}

impl State for Preparing {
    const PHASE: Phase = Phase::Preparing;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        let mut delay = RETRY.0;
        loop {
            if let Some(ending) = pod.must_end() {
                pod.end(ending);
                return Transition::next(self, Terminating);
            }
            // What ran is over: nothing needs the volumes any more.
            if plan(&pod.situation()) == Plan::Finish {
                pod.end(Ending::Completed);
                return Transition::next(self, Terminating);
            }
            let Err(message) = prepare_volumes(pod).await else { break };
            pod.event(None, true, "FailedMount", message);
            pod.publish::<Self>();
            let retry = pod.by(pod.shared.clock.mono().after(delay));
            match pod.wait(Some(retry), stop).await {
                Wake::Stop => return Transition::stop(),
                Wake::Order => delay = RETRY.0,
                Wake::Deadline => delay = (delay * 2).min(RETRY.1),
                Wake::Runtime => {
                    if let Err(error) = pod.observe(false).await {
                        tracing::warn!(pod = %pod.desired.key, %error, "cannot look at the pod");
                    }
                }
            }
        }
        if pod.observed.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready) {
            // An agent that restarted: its containers run on.
            return Transition::next(self, Running);
        }
        Transition::next(self, Sandboxing)
    }
}
