//! Statuses and events on their way to the API server.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use fleet_wire::{
    envelope::Opened,
    message::{EventsReport, Outcome, PodOutcome, PodReport, Refusal, RefusalCode, StatusAck, StatusReport},
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::Instant;

use super::{Actor, Asked, Done};
use crate::{
    events,
    status::{self, Waiting},
};

/// How many pods of one report are written at a time.
const AT_ONCE: usize = 8;
/// After this the rest of a report is answered with "later", and written on. The device sends no other status before
/// it has the answer: one pod that the API server takes long for must not hold up all others.
const STATUS_WITHIN: Duration = Duration::from_secs(2);
/// After this a device that sent events is told to send them again.
const EVENTS_WITHIN: Duration = Duration::from_secs(8);
/// Reports and event batches of one device that may be worked on at a time.
const MOST_WORK: usize = 32;

/// The pods of a report that were not written when it was answered.
pub(super) struct Rest(BoxStream<'static, (PodOutcome, Option<Waiting>)>);

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").finish_non_exhaustive()
    }
}

impl Actor {
    pub(super) async fn status(&mut self, asked: Asked, opened: &Opened) {
        let Some(report) = self.body::<StatusReport>(&asked, opened).await else { return };
        if self.busy(&asked).await {
            return;
        }
        let mut ack = StatusAck::default();
        if let Some(node) = report.node {
            // Held here and written from here; were this process to end first, the next hello brings it.
            self.upkeep.reported(&node, Instant::now());
            ack.node = Some(Outcome::Taken);
        }
        if report.pods.is_empty() {
            return self.accept(&asked, ack).await;
        }
        // A queue is made only for a pod that is there: whoever makes up names does not fill the memory with queues.
        let (there, gone): (Vec<_>, Vec<_>) = report
            .pods
            .into_iter()
            .partition(|pod| self.context.pods.version(&self.device, &pod.key.uid).is_some());
        ack.pods.extend(gone.into_iter().map(|PodReport { key, revision, .. }| PodOutcome {
            uid: key.uid,
            revision,
            outcome: Outcome::Gone,
        }));
        if there.is_empty() {
            return self.accept(&asked, ack).await;
        }
        let context = Arc::clone(&self.context);
        let device = self.device.clone();
        let pods: Vec<_> = there
            .into_iter()
            .map(|pod| {
                let turn = self.turns.next(&pod.key.uid);
                (pod, turn)
            })
            .collect();
        let mut unanswered: HashSet<_> =
            pods.iter().map(|(pod, _)| (pod.key.uid.clone(), pod.revision)).collect();
        let writes = pods.into_iter().map(move |(pod, turn)| {
            let (context, device) = (Arc::clone(&context), device.clone());
            async move { Box::pin(status::write(&context.client, &context.pods, &device, pod, turn)).await }
        });
        let mut writes = stream::iter(writes).buffer_unordered(AT_ONCE).boxed();
        self.work.spawn(async move {
            let deadline = Instant::now() + STATUS_WITHIN;
            let mut waiting = Vec::new();
            let rest = loop {
                match tokio::time::timeout_at(deadline, writes.next()).await {
                    Ok(Some((outcome, paced))) => {
                        unanswered.remove(&(outcome.uid.clone(), outcome.revision));
                        ack.pods.push(outcome);
                        waiting.extend(paced);
                    }
                    Ok(None) => break None,
                    Err(_) => break Some(Rest(writes)),
                }
            };
            ack.pods.extend(unanswered.into_iter().map(|(uid, revision)| PodOutcome {
                uid,
                revision,
                outcome: Outcome::Later(Refusal::new(
                    RefusalCode::Unavailable,
                    "the API server has not taken it yet",
                )),
            }));
            Done::Status { asked, ack, waiting, rest }
        });
    }

    /// Goes on with what was not written in time for the answer: what becomes of it the device learns when it asks
    /// again.
    pub(super) fn write_on(&mut self, rest: Option<Rest>) {
        let Some(Rest(rest)) = rest else { return };
        self.work.spawn(async move {
            Done::Late(rest.filter_map(|(_, waiting)| std::future::ready(waiting)).collect().await)
        });
    }

    /// Reports that came too soon are written when it is time: at most one for each pod.
    pub(super) fn write_in_time(&mut self, waiting: Vec<Waiting>) {
        for Waiting { lane, at } in waiting {
            let (context, device) = (Arc::clone(&self.context), self.device.clone());
            self.paced.spawn(async move {
                tokio::time::sleep_until(at).await;
                Box::pin(status::write_waiting(&context.client, &context.pods, &device, &lane)).await;
            });
        }
    }

    pub(super) async fn events(&mut self, asked: Asked, opened: &Opened) {
        let Some(report) = self.body::<EventsReport>(&asked, opened).await else { return };
        if self.busy(&asked).await {
            return;
        }
        let (context, device) = (Arc::clone(&self.context), self.device.clone());
        let progress = Arc::clone(&self.events);
        self.work.spawn(async move {
            let write = Box::pin(events::write(&context.client, &context.pods, &device, &report, &progress));
            let result = tokio::time::timeout(EVENTS_WITHIN, write).await.unwrap_or_else(|_| {
                Err(Refusal::new(RefusalCode::Unavailable, "the API server did not take them in time"))
            });
            Done::Events { asked, result }
        });
    }

    /// Looks whether the API still has what the device last said of its pods, and says it again where not.
    pub(super) fn reconcile_pods(&mut self) {
        let lanes = self.turns.lanes();
        if lanes.is_empty() {
            return;
        }
        let (context, device) = (Arc::clone(&self.context), self.device.clone());
        self.work.spawn(async move {
            for lane in lanes {
                status::reconcile(&context.client, &context.pods, &device, &lane).await;
            }
            Done::Told
        });
    }

    async fn busy(&mut self, asked: &Asked) -> bool {
        let busy = self.work.len() >= MOST_WORK;
        if busy {
            let refusal = Refusal::new(
                RefusalCode::Busy,
                "earlier reports of this device are still being written: try again",
            );
            self.refuse(asked, refusal).await;
        }
        busy
    }
}
