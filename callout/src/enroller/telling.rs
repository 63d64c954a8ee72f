//! Who is told what became of a device: an Event for people with `kubectl`, a line for the audit.
//!
//! Audit lines have the target `audit`; keys in them are public ones.

use std::time::Duration;

use fleet_wire::name::DeviceName;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

/// How long the API server may take for an Event.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that may wait to be written. They are a courtesy: one more is dropped, and no work waits for them.
const QUEUE: usize = 4096;
const ACTION: &str = "Enrollment";

/// Has Events of Nodes written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::Sender<(Event, ObjectReference)>);

/// Writes them, one after the other.
#[derive(Debug)]
pub struct Scribe(mpsc::Receiver<(Event, ObjectReference)>);

/// Both ends of the queue.
pub fn teller() -> (Teller, Scribe) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Teller(sender), Scribe(receiver))
}

impl Teller {
    /// Something good happened to a device.
    pub fn tell(&self, device: &DeviceName, node_uid: &str, reason: &str, note: String) {
        self.publish(EventType::Normal, device, node_uid, reason, note);
    }

    /// Something that an operator should look at.
    pub fn warn(&self, device: &DeviceName, node_uid: &str, reason: &str, note: String) {
        self.publish(EventType::Warning, device, node_uid, reason, note);
    }

    fn publish(&self, type_: EventType, device: &DeviceName, uid: &str, reason: &str, note: String) {
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(device.to_string()),
            // As kubelets do it: `kubectl describe node` looks for the UID and for the name.
            uid: Some(if uid.is_empty() { device.to_string() } else { uid.to_owned() }),
            ..ObjectReference::default()
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: ACTION.to_owned(),
            secondary: None,
        };
        if self.0.try_send((event, node)).is_err() {
            tracing::warn!(%device, reason, "the Event is dropped: too many wait");
        }
    }
}

impl Scribe {
    /// Writes Events until the last teller is gone.
    pub async fn run(mut self, client: kube::Client) {
        let reporter = Reporter { controller: "fleet.harmony.io/enroller".to_owned(), instance: None };
        let recorder = Recorder::new(client, reporter);
        while let Some((event, node)) = self.0.recv().await {
            let (device, reason) = (node.name.as_deref().unwrap_or_default(), &event.reason);
            match tokio::time::timeout(PATIENCE, recorder.publish(&event, &node)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(device, reason, %error, "the Event is not written"),
                Err(_) => {
                    tracing::warn!(device, reason, "the Event is not written: the API server did not answer");
                }
            }
        }
    }
}
