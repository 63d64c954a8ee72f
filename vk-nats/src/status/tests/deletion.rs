//! When a pod is deleted from the API.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::json;

use super::*;

fn pod(deleted: bool) -> Pod {
    let time = deleted.then_some("2026-11-21T12:00:00Z");
    serde_json::from_value(json!({ "metadata": { "name": "front", "deletionTimestamp": time } })).unwrap()
}

fn report(stopped: bool) -> PodReport {
    PodReport {
        key: fleet_wire::name::PodKey {
            namespace: "web".parse().unwrap(),
            name: "front".parse().unwrap(),
            uid: "8a0b".parse().unwrap(),
        },
        revision: 1,
        status: PodStatus::default(),
        stopped,
    }
}

#[test]
fn a_pod_goes_only_when_it_was_deleted_and_the_device_let_go() {
    assert_eq!(decide(&pod(true), &report(true)), Deletion::Delete);
    assert_eq!(decide(&pod(true), &report(false)), Deletion::Keep);
    assert_eq!(
        decide(&pod(false), &report(true)),
        Deletion::Keep,
        "a finished pod stays until someone deletes it"
    );
    assert_eq!(decide(&pod(false), &report(false)), Deletion::Keep);
}
