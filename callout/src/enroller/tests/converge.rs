#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fleet_wire::enrollment::Enrollment;
use nkeys::{KeyPair, XKey};
use proptest::prelude::*;

use super::*;

const RETENTION: Duration = Duration::from_secs(3600);

fn held(uid: &str, state: RecordState, undelete: bool) -> Held {
    let enrollment = Enrollment {
        device: "pi".parse().unwrap(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: BTreeMap::new(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    };
    let record = Record { state, ..Record::new(enrollment, uid) };
    Held { record, version: "1".to_owned(), undelete }
}

fn node_of(held: &Held, uid: &str) -> NodeSeen {
    let mut node = held.record.enrollment.node();
    node.metadata.uid = Some(uid.to_owned());
    NodeSeen::from(&node)
}

fn step(held: &Held, node: Option<&NodeSeen>) -> Step {
    next(held, node, Timestamp::UNIX_EPOCH + RETENTION / 2, RETENTION)
}

#[test]
fn a_claim_gets_its_node_and_is_never_revoked_for_lack_of_one() {
    let claim = held("", RecordState::Enrolled, false);
    assert_eq!(step(&claim, None), Step::CreateNode);
    let node = node_of(&claim, "u");
    assert_eq!(step(&claim, Some(&node)), Step::Adopt("u".to_owned()));
    assert_eq!(step(&claim, Some(&NodeSeen { terminating: true, ..node })), Step::Blocked);
    assert_eq!(step(&claim, Some(&NodeSeen::default())), Step::Blocked);
}

#[test]
fn a_member_whose_node_is_gone_replaced_or_going_is_revoked() {
    let member = held("u", RecordState::Enrolled, false);
    assert_eq!(step(&member, None), Step::Revoke);
    assert_eq!(step(&member, Some(&node_of(&member, "another"))), Step::Revoke);
    assert_eq!(step(&member, Some(&NodeSeen { terminating: true, ..node_of(&member, "u") })), Step::Revoke);
    assert_eq!(step(&member, Some(&node_of(&member, "u"))), Step::Settled);
}

#[test]
fn a_node_that_shows_other_keys_than_the_record_is_put_right() {
    let member = held("u", RecordState::Enrolled, false);
    for wrong in [
        NodeSeen { identity_key: None, ..node_of(&member, "u") },
        NodeSeen { curve_key: Some("X".to_owned()), ..node_of(&member, "u") },
        NodeSeen { fingerprint: Some("SHA256:".to_owned()), ..node_of(&member, "u") },
    ] {
        assert_eq!(step(&member, Some(&wrong)), Step::Annotate);
    }
}

#[test]
fn a_revocation_is_taken_back_only_within_the_retention_time() {
    let at = Timestamp::UNIX_EPOCH;
    let wished = held("u", RecordState::Revoked(at), true);
    assert_eq!(step(&wished, None), Step::Undelete);
    assert_eq!(next(&wished, None, at + RETENTION * 2, RETENTION), Step::Forget);
    let left = held("u", RecordState::Revoked(at), false);
    assert_eq!(step(&left, None), Step::Settled);
    assert_eq!(next(&left, None, at + RETENTION * 2, RETENTION), Step::Forget);
    // A clock that was set back forgets nothing.
    assert_eq!(next(&left, None, at - RETENTION * 2, RETENTION), Step::Settled);
}

proptest! {
    #[test]
    fn only_a_recorded_node_that_is_missing_is_a_revocation(
        uid in "[a-c]?",
        node in proptest::option::of(("[a-c]", any::<bool>(), any::<bool>())),
        undelete: bool,
    ) {
        let member = held(&uid, RecordState::Enrolled, undelete);
        let node = node.map(|(uid, terminating, own)| {
            let node = if own { node_of(&member, &uid) } else { NodeSeen { uid, ..NodeSeen::default() } };
            NodeSeen { terminating, ..node }
        });
        let missing = node.as_ref().is_none_or(|node| node.uid != uid || node.terminating);
        let revoked = step(&member, node.as_ref()) == Step::Revoke;
        prop_assert_eq!(revoked, !uid.is_empty() && missing);
    }
}
