//! Packing of objects.

use k8s_openapi::api::core::v1::{NodeStatus, Pod};
use serde_json::json;

use super::*;

/// A pod with what JSON and types may see differently: quantities, times with and without fractions, numbers or
/// texts, empty lists and maps.
fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "front", "namespace": "web", "uid": "8a0b", "resourceVersion": "17",
            "creationTimestamp": "2026-11-21T12:00:00Z", "deletionTimestamp": "2026-11-21T12:00:30Z",
            "labels": { "app": "front" }, "annotations": {},
        },
        "spec": {
            "nodeName": "pi-7",
            "containers": [{
                "name": "web", "image": "web:1", "args": ["--password", "hunter2"],
                "resources": { "limits": { "cpu": "250m", "memory": "64Mi" } },
                "readinessProbe": { "httpGet": { "port": "http" } },
                "livenessProbe": { "httpGet": { "port": 8080 } },
            }],
            "tolerations": [],
        },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T12:00:01Z" }],
            "containerStatuses": [{
                "name": "web", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "running": { "startedAt": "2026-11-21T12:00:01Z" } },
            }],
        },
    }))
    .unwrap()
}

#[test]
fn what_is_packed_comes_out_as_it_was() {
    let pod = pod();
    let packed = Packed::new(&pod);
    assert_eq!(packed.get(), Some(pod.clone()));
    assert_eq!(packed, Packed::new(&pod), "the same object has the same text");
    assert!(!packed.is_empty() && packed.len() < 2000);

    let empty = NodeStatus::default();
    assert_eq!(Packed::new(&empty).get(), Some(empty));
}

#[test]
fn objects_that_differ_are_told_apart() {
    let mut other = pod();
    other.metadata.deletion_grace_period_seconds = Some(30);
    assert_ne!(Packed::new(&pod()), Packed::new(&other));
}

#[test]
fn nothing_of_the_content_is_shown() {
    let shown = format!("{:?}", Packed::new(&pod()));
    assert!(!shown.contains("hunter2") && shown.contains("bytes"), "{shown}");
}
