#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fleet_wire::enrollment::Enrollment;
use nkeys::{KeyPair, XKey};

use super::*;

fn held(device: &str, uid: &str, version: &str) -> Held {
    let enrollment = Enrollment {
        device: device.parse().unwrap(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: BTreeMap::new(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    };
    Held { record: Record::new(enrollment, uid), version: version.to_owned(), undelete: false }
}

fn node(uid: &str) -> NodeSeen {
    NodeSeen { uid: uid.to_owned(), ..NodeSeen::default() }
}

#[test]
fn a_device_is_one_only_with_the_very_node_of_its_record() {
    let (view, pi) = (View::default(), "pi".parse().unwrap());
    view.note_record(held("pi", "u", "1"));
    assert!(!view.is_member(&pi));
    view.note_node("pi".parse().unwrap(), node("other"));
    assert!(!view.is_member(&pi));
    view.note_node("pi".parse().unwrap(), node("u"));
    assert!(view.is_member(&pi));
    view.note_node("pi".parse().unwrap(), NodeSeen { terminating: true, ..node("u") });
    assert!(!view.is_member(&pi));
}

#[test]
fn a_watch_that_lags_behind_a_write_takes_nothing_back() {
    let view = View::default();
    let (old, new) = (held("pi", "", "9"), held("pi", "u", "10"));
    let (old_key, new_key) =
        (old.record.enrollment.identity_key.clone(), new.record.enrollment.identity_key.clone());
    view.note_record(new);
    view.note_record(old);
    assert_eq!(view.key_use(&old_key), None);
    assert!(view.key_use(&new_key).unwrap().live);
}

#[test]
fn retired_and_revoked_keys_are_known_and_dead() {
    let view = View::default();
    let mut held = held("pi", "u", "1");
    let retired: IdentityKey = KeyPair::new_user().public_key().parse().unwrap();
    held.record.retired.push(retired.clone());
    view.note_record(held.clone());
    assert!(!view.key_use(&retired).unwrap().live);
    held.record.state = RecordState::Revoked("2026-01-01T00:00:00Z".parse().unwrap());
    held.version = "2".to_owned();
    view.note_record(held.clone());
    assert!(!view.key_use(&held.record.enrollment.identity_key).unwrap().live);
    assert_eq!(view.count(), (0, 1));
}

#[test]
fn a_complete_list_says_which_nodes_are_gone() {
    let view = View::default();
    view.note_node("pi".parse().unwrap(), node("u"));
    view.note_node("po".parse().unwrap(), node("v"));
    assert!(!view.is_synced());
    let gone = view.set_nodes(HashMap::from([("po".parse().unwrap(), node("v"))]));
    assert_eq!(gone, HashSet::from(["pi".parse().unwrap()]));
    view.set_records(Vec::new());
    assert!(view.is_synced());
}

#[test]
fn secrets_of_other_kinds_are_no_records() {
    let record = held("pi", "u", "1").record;
    let mut secret = record.secret("ns");
    assert_eq!(Held::parse(&secret).unwrap().record, record);
    secret.type_ = Some("Opaque".to_owned());
    assert_eq!(Held::parse(&secret), None);
    let mut damaged = record.secret("ns");
    damaged.data.as_mut().unwrap().remove("identityKey");
    assert_eq!(Held::parse(&damaged), None);
}
