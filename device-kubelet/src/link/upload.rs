//! Statuses and events on their way up: sent again until the API server has them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet_daemon::nats::LinkState;
use fleet_wire::{
    message::{EventsAck, Outcome, PodOutcome, PodReport, Refusal, RefusalCode, StatusAck, StatusReport},
    subject::UpVerb,
};
use k8s_openapi::api::core::v1::NodeStatus;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use super::{
    backoff::Backoff,
    batch,
    channel::{Channel, RequestError},
    driver::{Command, SessionView, causes},
};
use crate::{node, pods::Pods};

/// Writing many statuses to a busy API server takes its time.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most reports that are looked at in one go.
const REPORTS: usize = 100;
/// Most events in one message.
const EVENTS: usize = 100;

/// The Node's status as the cluster side has it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ReportedNode(Arc<Mutex<Option<NodeStatus>>>);

impl ReportedNode {
    /// The cluster side has this one.
    pub fn reported(&self, status: NodeStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// `current`, if the cluster side has another one.
    fn news(&self, current: Option<&NodeStatus>) -> Option<NodeStatus> {
        let current = current?;
        let reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!reported.as_ref().is_some_and(|reported| node::same(reported, current))).then(|| current.clone())
    }
}

/// What both uploads need.
#[derive(Clone)]
pub struct Uploads {
    /// The way to the cluster side.
    pub channel: Channel,
    /// The pods.
    pub pods: Pods,
    /// Whether the session is open.
    pub view: watch::Receiver<SessionView>,
    /// Who opens sessions.
    pub driver: mpsc::Sender<Command>,
}

impl Uploads {
    /// Sends statuses for ever. `images_hint` is told when pods changed.
    pub async fn statuses(
        mut self,
        mut current: watch::Receiver<Option<NodeStatus>>,
        reported: ReportedNode,
        images_hint: Arc<Notify>,
    ) {
        let mut backoff = pauses();
        loop {
            if !self.session_open().await {
                return;
            }
            let news = reported.news(current.borrow_and_update().as_ref());
            let reports = if news.is_some() {
                // What else there is goes along; nothing is waited for.
                tokio::select! {
                    biased;
                    reports = self.pods.next_reports(REPORTS) => reports,
                    () = std::future::ready(()) => Vec::new(),
                }
            } else {
                tokio::select! {
                    reports = self.pods.next_reports(REPORTS) => reports,
                    changed = current.changed() => if changed.is_err() { return } else { continue },
                    changed = self.view.changed() => if changed.is_err() { return } else { continue },
                }
            };
            if !reports.is_empty() {
                images_hint.notify_one();
            }
            let mut all_well = true;
            for batch in batch::statuses(news, reports) {
                all_well &= self.send_statuses(batch, &reported).await;
            }
            if all_well {
                backoff.reset();
            } else {
                self.pause(&mut backoff).await;
            }
        }
    }

    /// Whether it was delivered; what the API server did with each pod is the pods' business.
    async fn send_statuses(&self, batch: StatusReport, reported: &ReportedNode) -> bool {
        match self.channel.request::<_, StatusAck>(UpVerb::Status, &batch, TIMEOUT).await {
            Ok(ack) => {
                for outcome in &ack.pods {
                    log_refusal(outcome, &batch.pods);
                    self.pods.acknowledge(outcome);
                }
                let node_taken = match (batch.node, ack.node) {
                    (Some(_), Some(Outcome::Later(refusal))) => {
                        tracing::debug!(%refusal, "the Node's status was not taken yet");
                        false
                    }
                    (Some(node), outcome) => {
                        if let Some(Outcome::Refused(refusal)) = outcome {
                            tracing::warn!(%refusal, "the API server refuses the Node's status");
                        }
                        reported.reported(node);
                        true
                    }
                    (None, _) => true,
                };
                // A pod that the answer leaves out would be sent again at once, and again.
                let answered = batch.pods.iter().all(|report| {
                    ack.pods
                        .iter()
                        .any(|outcome| outcome.uid == report.key.uid && outcome.revision == report.revision)
                });
                node_taken && answered
            }
            Err(error) if error.is_final() => {
                tracing::error!(error = causes(&error), "a status cannot be sent");
                let refusal = Refusal::new(RefusalCode::TooLarge, error.to_string());
                for report in &batch.pods {
                    self.pods.acknowledge(&PodOutcome {
                        uid: report.key.uid.clone(),
                        revision: report.revision,
                        outcome: Outcome::Refused(refusal.clone()),
                    });
                }
                if let Some(node) = batch.node {
                    reported.reported(node);
                }
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// Sends events for ever.
    pub async fn events(mut self) {
        let mut backoff = pauses();
        loop {
            if !self.session_open().await {
                return;
            }
            let report = tokio::select! {
                report = self.pods.next_events(EVENTS) => batch::events(report),
                changed = self.view.changed() => if changed.is_err() { return } else { continue },
            };
            match self.channel.request::<_, EventsAck>(UpVerb::Events, &report, TIMEOUT).await {
                Ok(ack) => {
                    if ack.refused > 0 {
                        tracing::warn!(refused = ack.refused, "the API server did not take all events");
                    }
                    self.pods.acknowledge_events(&report);
                    backoff.reset();
                }
                Err(error) if error.is_final() => {
                    tracing::error!(error = causes(&error), "events cannot be sent and are dropped");
                    self.pods.acknowledge_events(&report);
                }
                Err(error) => {
                    self.failed(&error);
                    self.pause(&mut backoff).await;
                }
            }
        }
    }

    /// Waits for connection and session; `false` when the agent ends.
    async fn session_open(&mut self) -> bool {
        let mut connection = self.channel.connection().state.clone();
        loop {
            if self.view.wait_for(|view| view.open).await.is_err()
                || connection.wait_for(|state| *state == LinkState::Connected).await.is_err()
            {
                return false;
            }
            if self.view.borrow().open {
                return true;
            }
        }
    }

    /// Waits a little longer each time; not at all when there is a new session or connection to wait for,
    /// and no longer than until the session changes.
    async fn pause(&mut self, backoff: &mut Backoff) {
        if !self.channel.is_connected() || !self.view.borrow_and_update().open {
            backoff.reset();
            return;
        }
        tokio::select! {
            () = sleep(backoff.next(rand::random())) => {}
            _ = self.view.changed() => {}
        }
    }

    fn failed(&self, error: &RequestError) {
        tracing::debug!(error = causes(error), "a report was not delivered, trying again");
        if error.is_unknown_session() {
            // If the driver is busy, it learns it from the next refusal.
            let _ = self.driver.try_send(Command::SessionUnknown(error.to_string()));
        }
    }
}

fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30))
}

fn log_refusal(outcome: &PodOutcome, reports: &[PodReport]) {
    let Outcome::Refused(refusal) = &outcome.outcome else { return };
    let pod = reports.iter().find(|report| report.key.uid == outcome.uid).map(|report| &report.key);
    tracing::warn!(
        pod = pod.map(tracing::field::display),
        %refusal,
        "the API server refuses the pod's status"
    );
}
