//! May it run here, is there room, and is its predecessor gone?

use tokio_util::sync::CancellationToken;

use super::{Preparing, Refused, Terminating};
use crate::pods::{
    admission::{Admission, admit},
    context::PodContext,
    machine::{Phase, State, Transition, TransitionTo},
    record::Ending,
    status::Verdict,
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
        if admission.refusal().is_some() {
            warn(pod, &admission);
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
        if let Some(ending) = pod.must_end() {
            pod.end(ending);
            return Transition::next(self, Terminating);
        }
        if let Err(verdict) = take_room(pod) {
            pod.event(None, true, &verdict.reason, verdict.message.clone());
            let message = format!("Pod was rejected: {}", verdict.message);
            pod.record.rejected = true;
            pod.end(Ending::Verdict(Verdict { message, ..verdict }));
            return Transition::next(self, Terminating);
        }
        warn(pod, &admission);
        Transition::next(self, Preparing)
    }
}

fn warn(pod: &mut PodContext, admission: &Admission) {
    for (reason, message) in &admission.warnings {
        pod.event_once(true, reason, message.clone());
    }
}

/// Once in a pod's life; then it keeps its room until nothing of it runs.
fn take_room(pod: &mut PodContext) -> Result<(), Verdict> {
    let (admitted, uid) = (&pod.shared.admitted, &pod.desired.key.uid);
    if pod.record.holds_room(&pod.observed) {
        admitted.readmit(uid, &pod.desired.spec);
    } else {
        admitted.admit(uid, &pod.desired.spec)?;
    }
    if !std::mem::replace(&mut pod.record.admitted, true) {
        pod.save_later();
    }
    Ok(())
}
