//! What concerns the device's place in the fleet: the fleet's keys, its own keys, and the end of it.

use std::time::Duration;

use fleet_wire::{
    message::{Revoked, Rotate},
    subject::{DownVerb, Subject},
};
use k8s_openapi::api::core::v1::Node;
use serde::Serialize;
use tokio::time::Instant;

use super::Actor;
use crate::identity::{ApiError, Call, Lane};

/// The devices of a fleet say hello with a new key within this time, not all in one moment.
const SPREAD: Duration = Duration::from_secs(30);
/// A device that was asked for new keys is asked again so often, until its hello says that it made them.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How often it is asked whether a Node is really gone, and how long in between.
const LOOKS: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What is due with keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// What the device said in its hello; `None`: it has said none.
    rotated: Option<String>,
    /// What it was asked for last.
    asked: Option<String>,
    rotate_due: Option<Instant>,
    renew_due: Option<Instant>,
}

impl Keys {
    pub(super) fn greeted(&mut self, rotated: Option<String>, now: Instant) {
        self.rotated = rotated;
        self.rotate_due = Some(now);
    }

    /// The Node may say something else.
    pub(super) fn look(&mut self, wanted: Option<&str>, now: Instant) {
        if wanted != self.asked.as_deref() {
            self.rotate_due = Some(now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.rotate_due, self.renew_due].into_iter().flatten().min()
    }
}

impl Actor {
    /// The fleet has other keys: what is sealed with the ones that stay goes on.
    pub(super) fn fleet_changed(&mut self) {
        let keys = self.fleet.borrow_and_update().keys.clone();
        self.session.set_fleet(keys);
        self.keys.renew_due = Some(Instant::now() + SPREAD.mul_f64(rand::random()));
    }

    pub(super) async fn keep_keys(&mut self, now: Instant) {
        if self.keys.renew_due.is_some_and(|due| due <= now) {
            self.keys.renew_due = None;
            // Its hello says which statement it has, and the answer brings the newest.
            self.rehello("the fleet's keys have changed").await;
        }
        if self.keys.rotate_due.is_some_and(|due| due <= now) {
            self.keys.rotate_due = None;
            self.ask_rotation(now).await;
        }
    }

    async fn ask_rotation(&mut self, now: Instant) {
        let Some(request) = self.node().0.rotate.clone() else { return };
        // Without a session the next hello asks again.
        if !self.session.is_live() || self.keys.rotated.as_ref() == Some(&request) {
            return;
        }
        tracing::info!(device = %self.device, request, "asking for new keys");
        self.keys.asked = Some(request.clone());
        self.command(DownVerb::Rotate, &Rotate { request }).await;
        // It does not hurt to be asked twice.
        self.keys.rotate_due = Some(now + ASK_AGAIN);
    }

    /// The watch no longer shows the Node. That may also be because somebody took its label or broke its
    /// annotations: then the device is silent to us, and keeps what it has.
    pub(super) async fn tell_revoked(&mut self) {
        if !self.session.is_live() || !self.node_is_deleted().await {
            return;
        }
        tracing::info!(device = %self.device, "the Node was deleted: the device is told that it is out");
        let reason = format!("its Node {} was deleted", self.device);
        self.command(DownVerb::Revoked, &Revoked { reason }).await;
    }

    async fn node_is_deleted(&self) -> bool {
        let uid = self.node().0.uid.clone();
        for _ in 0..LOOKS {
            let call = Call::get("get nodes", Lane::Node, format!("/api/v1/nodes/{}", self.device));
            match self.context.client.send(&self.device, call).await {
                Err(ApiError::Gone { .. }) => return true,
                Ok(body) => {
                    let node: Node = serde_json::from_slice(&body).unwrap_or_default();
                    // One that was made again under the same name is another device.
                    return node.metadata.uid.is_some_and(|found| found != uid);
                }
                Err(error) => {
                    tracing::warn!(device = %self.device, %error, "it is not known whether the Node was deleted");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
        false
    }

    /// Says something in the session that needs no answer.
    async fn command<T: Serialize>(&mut self, verb: DownVerb, body: &T) {
        let subject = Subject::Down(self.device.clone(), verb).to_string();
        match self.session.seal(&subject, None, body) {
            Ok(message) => self.publish(subject, message).await,
            Err(error) => tracing::warn!(device = %self.device, %error, "a command cannot be sealed"),
        }
    }
}
