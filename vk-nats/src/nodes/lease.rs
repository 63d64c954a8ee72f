//! A Node's Lease: the sign of life that Kubernetes' lifecycle controller looks at.
//!
//! It is renewed only while heartbeats arrive. Nothing here ever marks a Node unready: silence does.

use std::time::Duration;

use fleet_wire::name::DeviceName;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::DeviceNode;
use crate::identity::{ApiError, Call, JSON, Lane, MERGE_PATCH, NodeClient};

/// How often a Lease is renewed. A third of the usual lease duration leaves room for two failures.
pub const RENEW_EVERY: Duration = Duration::from_secs(15);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// After how long a silent device counts as gone.
pub fn silence_limit(heartbeat_interval: Duration) -> Duration {
    heartbeat_interval * 3
}

/// When the device's next renewal is due after `now`: every device at its own point of the interval, so
/// that a thousand Leases are not written in the same moment. `started` is when this process began.
pub fn next_renewal(device: &DeviceName, started: Instant, now: Instant) -> Instant {
    let digest = Sha256::digest(device.as_str().as_bytes());
    let period = RENEW_EVERY.as_millis() as u64;
    let phase = u64::from(u32::from_be_bytes([digest[4], digest[5], digest[6], digest[7]])) % period;
    let elapsed = now.saturating_duration_since(started).as_millis() as u64;
    let mut due = elapsed - elapsed % period + phase;
    if due <= elapsed {
        due += period;
    }
    started + Duration::from_millis(due)
}

/// Renews the Lease, or makes it.
///
/// # Errors
/// See [`ApiError`].
pub async fn renew(client: &NodeClient, node: &DeviceNode, duration: Duration) -> Result<(), ApiError> {
    let spec = spec(&node.device, duration, Timestamp::now());
    // A Node that never was ready has no Lease yet: ask once, not twice.
    if node.ready.is_none() {
        match create(client, node, &spec).await {
            Err(ApiError::AlreadyExists { .. }) => {}
            other => return other,
        }
    }
    let patch = Call::new(
        "patch leases",
        Lane::Node,
        Method::PATCH,
        format!("{LEASES}/{}", node.device),
        MERGE_PATCH,
        &json!({ "spec": spec }),
    );
    match client.send(&node.device, patch).await {
        Ok(_) => Ok(()),
        Err(ApiError::Gone { .. }) => match create(client, node, &spec).await {
            Err(ApiError::AlreadyExists { .. }) => Ok(()),
            other => other,
        },
        Err(error) => Err(error),
    }
}

async fn create(client: &NodeClient, node: &DeviceNode, spec: &Value) -> Result<(), ApiError> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": node.device,
            "namespace": "kube-node-lease",
            // As kubelets do: the garbage collector removes it with the Node.
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": node.device, "uid": node.uid }],
        },
        "spec": spec,
    });
    let call = Call::new("create leases", Lane::NewLease, Method::POST, LEASES.to_owned(), JSON, &lease);
    client.send(&node.device, call).await.map(|_| ())
}

fn spec(device: &DeviceName, duration: Duration, now: Timestamp) -> Value {
    json!({
        "holderIdentity": device,
        "leaseDurationSeconds": duration.as_secs(),
        // MicroTime has exactly six digits.
        "renewTime": format!("{now:.6}"),
    })
}

#[cfg(test)]
#[path = "tests/lease.rs"]
mod tests;
