//! Patches of a Node's status.

use fleet_wire::enrollment::Enrollment;
use k8s_openapi::api::core::v1::{NodeAddress, NodeSystemInfo};
use nkeys::{KeyPair, XKey};

use super::*;
use crate::packed::Packed;

fn node() -> DeviceNode {
    let node = Enrollment {
        device: "pi-7".parse().unwrap(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: BTreeMap::new(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    }
    .node();
    DeviceNode::parse(&node).unwrap()
}

fn report() -> NodeStatus {
    NodeStatus {
        capacity: Some(BTreeMap::from([("cpu".to_owned(), Quantity("4".to_owned()))])),
        allocatable: Some(BTreeMap::from([("cpu".to_owned(), Quantity("4".to_owned()))])),
        node_info: Some(NodeSystemInfo {
            architecture: "arm64".to_owned(),
            operating_system: "linux".to_owned(),
            ..NodeSystemInfo::default()
        }),
        addresses: Some(vec![NodeAddress {
            type_: "InternalIP".to_owned(),
            address: "192.168.1.7".to_owned(),
        }]),
        ..NodeStatus::default()
    }
}

fn additions() -> Additions {
    Additions {
        address: "10.0.0.5".parse().unwrap(),
        port: 10_307,
        incarnation: Some("3.abc".to_owned()),
        identity_conflict: false,
        key_version: None,
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The node as the API has it after a patch.
fn after(mut node: DeviceNode, patch: &Value) -> DeviceNode {
    let mut observed = node.observed.get().unwrap();
    observed.status.conditions = serde_json::from_value(patch["status"]["conditions"].clone()).unwrap();
    observed.status.capacity = report().capacity;
    observed.status.allocatable = report().allocatable;
    observed.status.node_info = report().node_info;
    observed.status.addresses =
        Some(vec![NodeAddress { type_: "Hostname".to_owned(), address: "10.0.0.5".to_owned() }]);
    node.published_port = Some(10_307);
    node.incarnation = Some("3.abc".to_owned());
    let labels: BTreeMap<String, String> =
        serde_json::from_value(patch["metadata"]["labels"].clone()).unwrap();
    observed.labels.extend(labels);
    node.observed = Packed::new(&observed);
    node
}

#[test]
fn the_first_patch_makes_a_node_ready_under_one_hostname_address() {
    let node = node();
    let patch = patch(&node, &report(), None, &additions(), at("2026-11-21T12:00:00Z"), false).unwrap();
    assert_eq!(
        patch["status"]["addresses"],
        json!([{ "$patch": "replace" }, { "type": "Hostname", "address": "10.0.0.5" }])
    );
    assert_eq!(patch["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10_307);
    assert_eq!(patch["metadata"]["annotations"][INCARNATION], "3.abc");
    assert_eq!(patch["metadata"]["labels"]["kubernetes.io/arch"], "arm64");
    assert_eq!(patch["metadata"]["labels"]["beta.kubernetes.io/os"], "linux");
    let ready = &patch["status"]["conditions"][0];
    assert_eq!((&ready["type"], &ready["status"]), (&json!("Ready"), &json!("True")));
    assert_eq!(ready["lastTransitionTime"], "2026-11-21T12:00:00Z");
}

#[test]
fn nothing_is_written_when_nothing_changed_and_a_refresh_moves_only_heartbeats() {
    let first = patch(&node(), &report(), None, &additions(), at("2026-11-21T12:00:00Z"), false).unwrap();
    let node = after(node(), &first);
    let later = at("2026-11-21T12:05:00Z");
    assert_eq!(patch(&node, &report(), None, &additions(), later, false), None);
    assert_eq!(patch(&node, &report(), Some(&report()), &additions(), later, false), None);
    let refresh = patch(&node, &report(), None, &additions(), later, true).unwrap();
    let ready = &refresh["status"]["conditions"][0];
    assert_eq!(ready["lastTransitionTime"], "2026-11-21T12:00:00Z");
    assert_eq!(ready["lastHeartbeatTime"], "2026-11-21T12:05:00Z");
}

#[test]
fn a_node_that_was_given_up_is_ready_again_at_once_and_foreign_conditions_stay() {
    let first = patch(&node(), &report(), None, &additions(), at("2026-11-21T12:00:00Z"), false).unwrap();
    let mut node = after(node(), &first);
    let mut observed = node.observed.get().unwrap();
    let conditions = observed.status.conditions.as_mut().unwrap();
    conditions[0].status = "Unknown".to_owned();
    conditions[0].reason = Some("NodeStatusUnknown".to_owned());
    conditions.push(NodeCondition {
        type_: "NetworkUnavailable".to_owned(),
        status: "False".to_owned(),
        ..NodeCondition::default()
    });
    node.observed = Packed::new(&observed);
    let patch =
        patch(&node, &report(), Some(&report()), &additions(), at("2026-11-21T13:00:00Z"), false).unwrap();
    let conditions = patch["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 1, "what others own is not in the patch");
    assert_eq!(conditions[0]["status"], "True");
    assert_eq!(conditions[0]["lastTransitionTime"], "2026-11-21T13:00:00Z");
}

#[test]
fn a_resource_that_is_gone_is_taken_away_and_normalized_quantities_do_not_loop() {
    let first = patch(&node(), &report(), None, &additions(), at("2026-11-21T12:00:00Z"), false).unwrap();
    let mut node = after(node(), &first);
    let with_camera = BTreeMap::from([
        ("cpu".to_owned(), Quantity("4000m".to_owned())),
        ("example.com/camera".to_owned(), Quantity("1".to_owned())),
    ]);
    let mut observed = node.observed.get().unwrap();
    observed.status.capacity = Some(with_camera);
    node.observed = Packed::new(&observed);
    let now = at("2026-11-21T12:01:00Z");
    let patch_ = patch(&node, &report(), None, &additions(), now, false).unwrap();
    assert_eq!(patch_["status"]["capacity"], json!({ "cpu": "4", "example.com/camera": null }));
    assert_eq!(patch(&node, &report(), Some(&report()), &additions(), now, false), None);
}

#[test]
fn an_identity_conflict_is_a_condition_until_it_is_taken_back() {
    let clone = Additions { identity_conflict: true, ..additions() };
    let first = patch(&node(), &report(), None, &clone, at("2026-11-21T12:00:00Z"), false).unwrap();
    assert_eq!(first["status"]["conditions"][0]["type"], IDENTITY_CONFLICT);
    assert_eq!(first["status"]["conditions"][0]["status"], "True");
    let node = after(node(), &first);
    let second = patch(&node, &report(), None, &additions(), at("2026-11-21T12:01:00Z"), false).unwrap();
    assert_eq!(second["status"]["conditions"][0]["status"], "False");
}

#[test]
fn what_a_device_calls_its_architecture_becomes_a_label_only_if_it_can_be_one() {
    let mut hostile = report();
    hostile.node_info.as_mut().unwrap().architecture = "arm64\",\"x".to_owned();
    let patch = patch(&node(), &hostile, None, &additions(), at("2026-11-21T12:00:00Z"), false).unwrap();
    assert!(patch["metadata"]["labels"].get("kubernetes.io/arch").is_none());
    assert_eq!(patch["metadata"]["labels"]["kubernetes.io/os"], "linux");
}
