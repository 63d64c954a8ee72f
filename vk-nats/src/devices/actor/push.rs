//! The desired set on its way to the device.

use std::time::Duration;

use fleet_wire::{
    envelope::{EnvelopeError, Opened},
    message::{Delta, FetchRequest, Heartbeat, Refusal, RefusalCode, Reply, SyncRequest},
    subject::{DownVerb, Subject},
};
use tokio::time::Instant;

use super::{Actor, Asked};
use crate::devices::desired;

/// How long a change waits for others: a rollout changes many pods in one moment.
const DEBOUNCE: Duration = Duration::from_millis(5);

impl Actor {
    pub(super) fn set_changed(&mut self) {
        if self.push_due.is_none() {
            self.push_due = Some(Instant::now() + DEBOUNCE);
        }
        let set = self.set.borrow_and_update();
        if let Some(set) = &*set {
            self.turns.retain(|uid| set.bundles.contains_key(uid));
        }
    }

    /// Tells the device what changed. Without a session nothing is lost: hello compares digests.
    pub(super) async fn push(&mut self, now: Instant) {
        if !self.session.is_live() {
            return;
        }
        let Some(set) = self.set.borrow().clone() else { return };
        let settings = self.node.borrow().0.settings.clone();
        if let Some(delta) = self.ledger.changed(&set, &settings, now) {
            self.send_changed(delta).await;
        }
    }

    async fn send_changed(&mut self, delta: Delta) {
        let subject = Subject::Down(self.device.clone(), DownVerb::Changed).to_string();
        match self.seal_delta(&subject, None, delta, |delta| delta) {
            Ok(message) => self.publish(subject, message).await,
            Err(error) => tracing::warn!(%error, "a change cannot be sealed"),
        }
    }

    /// Seals what carries a delta; bodies that turn out not to fit are left to be fetched.
    fn seal_delta<T: serde::Serialize>(
        &mut self,
        subject: &str,
        answers: Option<u64>,
        mut delta: Delta,
        wrap: impl Fn(Delta) -> T,
    ) -> Result<Vec<u8>, EnvelopeError> {
        match self.session.seal(subject, answers, &wrap(delta.clone())) {
            Err(EnvelopeError::TooLarge { .. }) => {
                for entry in &mut delta.upsert {
                    entry.body = None;
                }
                self.session.seal(subject, answers, &wrap(delta))
            }
            other => other,
        }
    }

    pub(super) async fn sync(&mut self, asked: Asked, opened: &Opened) {
        let Some(request) = self.body::<SyncRequest>(&asked, opened).await else { return };
        let Some(set) = self.set.borrow().clone() else {
            let refusal = Refusal::new(
                RefusalCode::Unavailable,
                "the cluster side has just started and does not know all pods yet: try again",
            );
            return self.refuse(&asked, refusal).await;
        };
        let settings = self.node.borrow().0.settings.clone();
        let delta = self.ledger.sync(&set, &request.have, &settings, Instant::now());
        self.context.metrics.message(asked.verb, "Ok");
        match self.seal_delta(&asked.reply, Some(asked.counter), delta, Reply::Ok) {
            Ok(message) => self.publish(asked.reply, message).await,
            Err(error) => tracing::warn!(%error, "the answer to a sync cannot be sealed"),
        }
    }

    pub(super) async fn fetch(&mut self, asked: Asked, opened: &Opened) {
        let Some(request) = self.body::<FetchRequest>(&asked, opened).await else { return };
        let set = self.set.borrow().clone();
        match desired::fetch(set.as_deref(), &request) {
            Ok(page) => self.accept(&asked, page).await,
            Err(refusal) => self.refuse(&asked, refusal).await,
        }
    }

    pub(super) async fn heartbeat(&mut self, opened: &Opened) {
        self.stop_listening_to_frames();
        let beat: Heartbeat = match opened.body() {
            Ok(beat) => beat,
            Err(error) => return self.complain("heartbeat", error.label(), &error),
        };
        self.context.metrics.message("heartbeat", "Ok");
        let Some(set) = self.set.borrow().clone() else { return };
        let settings = self.node.borrow().0.settings.clone();
        if let Some(hint) = self.ledger.heartbeat(&set, beat.set_digest, &settings, Instant::now()) {
            tracing::debug!(device = %self.device, "the device holds another set: it is told to sync");
            self.send_changed(hint).await;
        }
    }
}
