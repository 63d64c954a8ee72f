//! Who is told what became of a device: an Event for people with `kubectl`, a line for the audit.
//!
//! Audit lines have the target `audit`; keys in them are public ones.

use std::time::Duration;

use fleet_wire::name::DeviceName;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// An Event is a courtesy: work does not wait longer for it.
const PATIENCE: Duration = Duration::from_secs(2);
const ACTION: &str = "Enrollment";

/// Writes Events of Nodes. `Debug` shows nothing of the client.
#[derive(Clone)]
pub struct Teller(Recorder);

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

impl Teller {
    /// With the process's client.
    pub fn new(client: kube::Client) -> Self {
        let reporter = Reporter { controller: "fleet.harmony.io/enroller".to_owned(), instance: None };
        Self(Recorder::new(client, reporter))
    }

    /// Something good happened to a device.
    pub async fn tell(&self, device: &DeviceName, node_uid: &str, reason: &str, note: String) {
        self.publish(EventType::Normal, device, node_uid, reason, note).await;
    }

    /// Something that an operator should look at.
    pub async fn warn(&self, device: &DeviceName, node_uid: &str, reason: &str, note: String) {
        self.publish(EventType::Warning, device, node_uid, reason, note).await;
    }

    async fn publish(&self, type_: EventType, device: &DeviceName, uid: &str, reason: &str, note: String) {
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
        match tokio::time::timeout(PATIENCE, self.0.publish(&event, &node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%device, reason, %error, "the Event is not written"),
            Err(_) => {
                tracing::warn!(%device, reason, "the Event is not written: the API server did not answer")
            }
        }
    }
}
