//! It is over.

use tokio_util::sync::CancellationToken;

use super::Cleaning;
use crate::pods::{
    context::{PodContext, Wake},
    machine::{Phase, State, Transition, TransitionTo},
};

/// Waits to be deleted, or, when nothing is left of it, to be forgotten.
pub struct Finished;

impl TransitionTo<Cleaning> for Finished {}

impl State for Finished {
    const PHASE: Phase = Phase::Finished;

    async fn next(self, pod: &mut PodContext, stop: &CancellationToken) -> Transition {
        pod.shared.admitted.release(&pod.desired.key.uid);
        pod.publish::<Self>();
        loop {
            pod.must_end();
            let order = pod.order();
            if pod.record.cleaned && order.removed {
                return Transition::forget(self);
            }
            if !pod.record.cleaned && order.departs() {
                return Transition::next(self, Cleaning);
            }
            if pod.wait(None, stop).await == Wake::Stop {
                return Transition::stop();
            }
        }
    }
}
