//! It asks for what devices do not have.

use tokio_util::sync::CancellationToken;

use super::{Admitting, Terminating};
use crate::pods::{
    admission::admit,
    context::{PodContext, Wake},
    machine::{Phase, State, Transition, TransitionTo},
    status::Waiting,
};

/// Stays `Pending`, each container waiting for the same reason, until it is deleted or changed.
pub struct Refused;

/// Waiting reason and Event reason.
pub const UNSUPPORTED: &str = "DeviceUnsupported";

impl TransitionTo<Admitting> for Refused {}
impl TransitionTo<Terminating> for Refused {}

impl State for Refused {
    const PHASE: Phase = Phase::Refused;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        let message = admit(&pod.desired).refusal().unwrap_or_default();
        let names: Vec<String> =
            pod.desired.containers().map(|(_, container)| container.name.clone()).collect();
        for name in names {
            let waiting = Waiting { reason: UNSUPPORTED, message: message.clone() };
            pod.memory.waiting.insert(name, waiting);
        }
        pod.event_once(true, UNSUPPORTED, message);
        pod.publish::<Self>();
        loop {
            let deadline = pod.active_deadline();
            let wake = pod.wait(deadline, stop).await;
            if let Some(ending) = pod.must_end() {
                pod.end(ending);
                return Transition::next(self, Terminating);
            }
            match wake {
                Wake::Stop => return Transition::stop(),
                Wake::Order => {
                    pod.memory.waiting.clear();
                    return Transition::next(self, Admitting);
                }
                Wake::Runtime | Wake::Deadline => {}
            }
        }
    }
}
