//! The index of devices: records and Nodes together, in whichever order they come.

use nkeys::KeyPair;

use super::*;
use crate::fixtures::{identity_key, record};

fn with_node(record: Record) -> Index {
    let mut index = Index::default();
    index.put_node(record.enrollment.device.as_str(), record.node_uid.clone());
    index.put_record(record);
    index
}

#[test]
fn a_device_is_a_record_and_the_node_that_it_names() {
    let record = record("pi-7", "uid-1");
    let key = record.enrollment.identity_key.clone();
    let mut index = with_node(record.clone());
    assert!(matches!(index.standing(&key), Standing::Member(member) if member.device.as_str() == "pi-7"));
    assert_eq!(index.standing(&identity_key(&KeyPair::new_user())), Standing::Unknown);

    // The Node was deleted and made again by hand.
    index.put_node("pi-7", "uid-2");
    assert_eq!(index.standing(&key), Standing::WithoutNode);
    index.remove_node("pi-7", "uid-1");
    assert_eq!(index.nodes(), 1, "a late deletion does not take the new Node away");
    index.remove_node("pi-7", "uid-2");
    assert_eq!(index.standing(&key), Standing::WithoutNode);
    index.put_node("pi-7", "uid-1");
    index.remove_record(&record_name(&record.enrollment.device));
    assert_eq!(index.standing(&key), Standing::Unknown);
}

#[test]
fn a_revoked_device_stays_out_even_with_a_node() {
    let mut record = record("pi-7", "uid-1");
    record.state = RecordState::Revoked(jiff::Timestamp::UNIX_EPOCH);
    let key = record.enrollment.identity_key.clone();
    assert_eq!(with_node(record).standing(&key), Standing::Revoked);
}

#[test]
fn one_key_in_two_records_admits_neither() {
    let (one, mut two) = (record("pi-7", "uid-1"), record("pi-8", "uid-2"));
    let key = one.enrollment.identity_key.clone();
    two.enrollment.identity_key = key.clone();
    let mut index = with_node(one);
    index.put_node("pi-8", "uid-2");
    index.put_record(two.clone());
    assert_eq!(index.standing(&key), Standing::Ambiguous);
    // Once one of them is gone, the other is what it was.
    index.remove_record("device-pi-8");
    assert!(matches!(index.standing(&key), Standing::Member(member) if member.device.as_str() == "pi-7"));
}

#[test]
fn a_retired_key_is_dead_whoever_has_it_now() {
    let old = identity_key(&KeyPair::new_user());
    let mut rotated = record("pi-7", "uid-1");
    rotated.retired = vec![old.clone()];
    let key = rotated.enrollment.identity_key.clone();
    let mut index = with_node(rotated);
    assert_eq!(index.standing(&old), Standing::Retired);
    assert!(matches!(index.standing(&key), Standing::Member(_)));
    let mut thief = record("pi-8", "uid-2");
    thief.enrollment.identity_key = old.clone();
    index.put_node("pi-8", "uid-2");
    index.put_record(thief);
    assert_eq!(index.standing(&old), Standing::Retired);
}

#[test]
fn new_keys_replace_the_old_ones() {
    let before = record("pi-7", "uid-1");
    let old = before.enrollment.identity_key.clone();
    let mut index = with_node(before);
    let after = record("pi-7", "uid-1");
    let new = after.enrollment.identity_key.clone();
    index.put_record(after);
    assert_eq!(index.standing(&old), Standing::Unknown);
    assert!(matches!(index.standing(&new), Standing::Member(_)));
    assert_eq!(index.records(), 1);
}

#[test]
fn what_a_complete_list_lacks_is_forgotten() {
    let (one, two) = (record("pi-7", "uid-1"), record("pi-8", "uid-2"));
    let (key_one, key_two) = (one.enrollment.identity_key.clone(), two.enrollment.identity_key.clone());
    let mut index = with_node(one);
    index.put_node("pi-8", "uid-2");
    index.put_record(two);
    index.retain_records(&HashSet::from(["device-pi-8".to_owned()]));
    index.retain_nodes(&HashSet::from(["pi-8".to_owned()]));
    assert_eq!(index.standing(&key_one), Standing::Unknown);
    assert!(matches!(index.standing(&key_two), Standing::Member(_)));
    assert_eq!((index.records(), index.nodes()), (1, 1));
}
