//! Events of Nodes, from one state to the next.

use fleet_wire::enrollment::Enrollment;
use k8s_openapi::api::core::v1::{NodeCondition, NodeSystemInfo};
use nkeys::{KeyPair, XKey};

use super::*;
use crate::{nodes::device_node::Observed, packed::Packed};

fn node(status: NodeStatus) -> DeviceNode {
    let node = Enrollment {
        device: "pi-7".parse().unwrap(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: Default::default(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    }
    .node();
    let observed = Packed::new(&Observed { status, ..Observed::default() });
    DeviceNode { observed, ..DeviceNode::parse(&node).unwrap() }
}

fn status(boot_id: &str, conditions: &[(&str, &str)]) -> NodeStatus {
    let conditions = conditions.iter().map(|(type_, status)| NodeCondition {
        type_: (*type_).to_owned(),
        status: (*status).to_owned(),
        ..NodeCondition::default()
    });
    NodeStatus {
        conditions: Some(conditions.collect()),
        node_info: Some(NodeSystemInfo { boot_id: boot_id.to_owned(), ..NodeSystemInfo::default() }),
        ..NodeStatus::default()
    }
}

fn reasons(before: NodeStatus, report: &NodeStatus) -> Vec<&'static str> {
    transitions(&node(before), report).iter().map(|transition| transition.reason).collect()
}

const FINE: [(&str, &str); 4] =
    [("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"), ("Ready", "True")];

#[test]
fn a_new_node_tells_what_a_kubelets_does() {
    let told = transitions(&node(NodeStatus::default()), &status("a", &FINE));
    let reasons: Vec<_> = told.iter().map(|transition| transition.reason).collect();
    assert_eq!(
        reasons,
        ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]
    );
    assert_eq!(told[3].message, "Node pi-7 status is now: NodeReady");
    assert!(told.iter().all(|transition| !transition.warning));
}

#[test]
fn what_stays_as_it_is_is_not_told() {
    assert!(reasons(status("a", &FINE), &status("a", &FINE)).is_empty());
    let warm = [("HighTemperature", "True"), ("Ready", "True")];
    assert!(reasons(status("a", &FINE), &status("", &warm)).is_empty(), "no words of a kubelet");
}

#[test]
fn a_node_that_was_given_up_is_ready_again() {
    let given_up = [("Ready", "Unknown"), ("DiskPressure", "False")];
    assert_eq!(
        reasons(status("a", &given_up), &status("a", &[("DiskPressure", "True"), ("Ready", "True")])),
        ["NodeHasDiskPressure", "NodeReady"]
    );
    assert_eq!(reasons(status("a", &FINE), &status("a", &[("Ready", "False")])), ["NodeNotReady"]);
}

#[test]
fn another_boot_id_is_a_reboot() {
    let told = transitions(&node(status("a", &FINE)), &status("b", &FINE));
    assert_eq!((told[0].reason, told[0].warning), ("Rebooted", true));
    assert_eq!(told[0].message, "Node pi-7 has been rebooted, boot id: b");
}

#[test]
fn what_the_watch_does_not_show_yet_is_told_once() {
    let (mut told, now) = (Told::default(), Instant::now());
    let found = || transitions(&node(NodeStatus::default()), &status("a", &FINE));
    assert_eq!(told.news(found(), now).len(), 4);
    assert!(told.news(found(), now + Duration::from_secs(2)).is_empty());
    assert_eq!(told.news(found(), now + Duration::from_secs(60)).len(), 4);
}
