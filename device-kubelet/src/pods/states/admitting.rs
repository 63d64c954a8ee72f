//! May it run here, and is its predecessor gone?

use tokio_util::sync::CancellationToken;

use super::{Preparing, Refused, Terminating};
use crate::pods::{
    admission::admit,
    context::PodContext,
    machine::{Phase, State, Transition, TransitionTo},
};

/// The first state, also of an agent that restarted.
pub struct Admitting;

impl TransitionTo<Refused> for Admitting {}
impl TransitionTo<Preparing> for Admitting {}
impl TransitionTo<Terminating> for Admitting {}

impl State for Admitting {
    const PHASE: Phase = Phase::Admitting;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        if let Some(ending) = pod.must_end() {
            pod.end(ending);
            return Transition::next(self, Terminating);
        }
        let admission = admit(&pod.desired);
        for (reason, message) in &admission.warnings {
            pod.event_once(true, reason, message.clone());
        }
        if admission.refusal().is_some() {
            return Transition::next(self, Refused);
        }
        pod.publish::<Self>();
        // Two pods of one name never share the device: host ports and directories of the first must be free.
        for mut predecessor in std::mem::take(&mut pod.predecessors) {
            let mut orders = pod.orders();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Transition::stop(),
                _ = orders.wait_for(|order| order.departs()) => break,
                _ = predecessor.wait_for(|view| view.cleaned) => {}
            }
        }
        Transition::next(self, Preparing)
    }
}
