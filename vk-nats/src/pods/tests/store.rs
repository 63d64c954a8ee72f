//! The store of pods: order, successors, removal.

use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::*;

fn pod(uid: &str, version: &str) -> Pod {
    Pod {
        metadata: ObjectMeta {
            namespace: Some("web".to_owned()),
            name: Some("front".to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        status: None,
    }
}

fn uid(text: &str) -> PodUid {
    text.parse().unwrap()
}

#[test]
fn a_successor_of_the_same_name_survives_the_removal_of_its_predecessor() {
    let pods = Pods::default();
    let device: DeviceName = "pi-7".parse().unwrap();
    pods.insert(&device, &uid("old"), &pod("old", "1"));
    pods.insert(&device, &uid("new"), &pod("new", "2"));
    assert_eq!(pods.remove(&uid("old")), Some(device.clone()));
    assert_eq!(pods.get("web", "front").unwrap().metadata.uid.as_deref(), Some("new"));
    assert_eq!(pods.on(&device).len(), 1);
    assert!(pods.of_device(&"pi-8".parse().unwrap(), &uid("new")).is_none(), "another device's pod");
    pods.remove(&uid("new"));
    assert!(pods.get("web", "front").is_none() && pods.on(&device).is_empty());
}

#[test]
fn an_older_state_does_not_replace_a_newer_one() {
    let pods = Pods::default();
    let device: DeviceName = "pi-7".parse().unwrap();
    assert!(pods.insert(&device, &uid("a"), &pod("a", "100")));
    assert!(!pods.insert(&device, &uid("a"), &pod("a", "99")));
    assert_eq!(pods.version(&device, &uid("a")), Some(Some(100)));
    assert!(pods.insert(&device, &uid("a"), &pod("a", "101")));
    assert_eq!(pods.version(&device, &uid("a")), Some(Some(101)));
    assert_eq!(pods.version(&"pi-8".parse().unwrap(), &uid("a")), None, "another device's pod");
    assert_eq!(pods.of_device(&device, &uid("a")), Some(pod("a", "101")));
}

#[test]
fn pods_on_other_nodes_are_remembered_until_their_node_turns_out_to_be_a_device() {
    let pods = Pods::default();
    pods.note_elsewhere("server", "a");
    pods.note_elsewhere("server", "a");
    pods.note_elsewhere("pi-7", "b");
    pods.forget_elsewhere("server", "a");
    assert!(!pods.take_elsewhere("server"));
    assert!(pods.take_elsewhere("pi-7"));
    assert!(!pods.take_elsewhere("pi-7"));
}
