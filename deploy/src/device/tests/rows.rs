//! How devices stand, from what stands in the cluster.

use std::collections::BTreeMap;

use fleet_wire::enrollment::{Enrollment, EnrollmentToken};
use k8s_openapi::{
    api::{
        coordination::v1::LeaseSpec,
        core::v1::{NodeCondition, NodeStatus},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use nkeys::{KeyPair, XKey};

use super::{
    super::{
        list::render,
        request::tests::{decided, request_of},
        show::text,
    },
    *,
};
use crate::output::Format;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn enrollment(device: &str) -> Enrollment {
    Enrollment {
        device: device.parse().unwrap(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: BTreeMap::from([("site".to_owned(), "hall-3".to_owned())]),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    }
}

fn node(enrollment: &Enrollment, uid: &str, ready: Option<&str>) -> Node {
    let mut node = enrollment.node();
    node.metadata.uid = Some(uid.to_owned());
    node.metadata.creation_timestamp = Some(Time(at(0)));
    node.status = ready.map(|status| NodeStatus {
        conditions: Some(vec![NodeCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            message: Some("no heartbeat\u{1b}[2J".to_owned()),
            ..NodeCondition::default()
        }]),
        ..NodeStatus::default()
    });
    node
}

fn member(device: &str, ready: Option<&str>) -> Sources {
    let enrollment = enrollment(device);
    Sources {
        nodes: vec![node(&enrollment, "uid-1", ready)],
        records: vec![Record::new(enrollment, "uid-1").secret("harmony-fleet-devices")],
        ..Sources::default()
    }
}

fn revoked(device: &str) -> Sources {
    let mut record = Record::new(enrollment(device), "uid-1");
    record.state = RecordState::Revoked(at(-60));
    Sources { records: vec![record.secret("harmony-fleet-devices")], ..Sources::default() }
}

fn token(device: &str, expires: Timestamp, used: bool) -> Secret {
    let Enrollment { identity_key, curve_key, device, .. } = enrollment(device);
    TokenRecord {
        token: EnrollmentToken::random(),
        device,
        expires,
        labels: BTreeMap::new(),
        taint: true,
        report_pod_ip: false,
        subject: None,
        used_by: used.then_some((identity_key, curve_key)),
    }
    .secret("harmony-fleet")
}

fn only(sources: &Sources) -> Device {
    let mut devices = devices(sources, at(0));
    assert_eq!(devices.len(), 1, "{devices:#?}");
    devices.remove(0)
}

fn state(sources: &Sources) -> State {
    only(sources).state.unwrap()
}

#[test]
fn a_member_is_as_ready_as_its_node() {
    assert_eq!(state(&member("pi-1", Some("True"))), State::Ready);
    for ready in [Some("False"), Some("Unknown"), None] {
        let device = only(&member("pi-1", ready));
        assert_eq!(device.state, Some(State::NotReady), "{ready:?}");
        assert!(!device.reason.is_empty() && device.next.contains("journalctl"), "{device:?}");
    }
}

#[test]
fn what_the_callout_would_not_admit_is_broken() {
    let mut other_uid = member("pi-1", Some("True"));
    other_uid.nodes[0].metadata.uid = Some("uid-2".to_owned());
    let mut no_record = member("pi-1", Some("True"));
    no_record.records.clear();
    let mut damaged = member("pi-1", Some("True"));
    damaged.records[0].data.as_mut().unwrap().remove("nodeUid");
    let mut revoked_with_node = member("pi-1", Some("True"));
    revoked_with_node.records = revoked("pi-1").records;
    for broken in [other_uid, no_record, damaged, revoked_with_node] {
        let device = only(&broken);
        assert_eq!(device.state, Some(State::Broken), "{device:?}");
        assert!(!device.next.is_empty(), "{device:?}");
    }
}

#[test]
fn a_revocation_goes_through_its_states() {
    let mut going = member("pi-1", Some("True"));
    going.nodes.clear();
    assert_eq!(state(&going), State::Revoking);
    let mut gone = revoked("pi-1");
    let device = only(&gone);
    assert_eq!((device.state, device.revoked), (Some(State::Revoked), Some(at(-60))));
    assert!(device.next.contains("undelete pi-1"), "{}", device.next);
    gone.records[0].metadata.annotations = Some(BTreeMap::from([(UNDELETE.to_owned(), "now".to_owned())]));
    assert_eq!(state(&gone), State::Restoring);
}

#[test]
fn an_invitation_counts_until_it_is_used_or_over() {
    let with = |token| Sources { tokens: vec![token], ..Sources::default() };
    assert_eq!(state(&with(token("pi-1", at(60), false))), State::Invited);
    assert_eq!(state(&with(token("pi-1", at(-1), false))), State::Expired);
    assert!(devices(&with(token("pi-1", at(60), true)), at(0)).is_empty());
    let both = Sources {
        tokens: vec![token("pi-1", at(60), false), token("pi-1", at(-1), false)],
        ..Sources::default()
    };
    assert_eq!(state(&both), State::Invited);
}

#[test]
fn a_revoked_name_that_is_invited_again_says_so() {
    let mut sources = revoked("pi-1");
    sources.tokens.push(token("pi-1", at(60), false));
    let device = only(&sources);
    assert_eq!((device.state, device.revoked), (Some(State::Invited), Some(at(-60))));
    sources.tokens = vec![token("pi-1", at(-1), false)];
    assert_eq!(state(&sources), State::Revoked);
}

#[test]
fn a_request_is_shown_with_the_fingerprint_that_counts() {
    let with = |request| Sources { requests: vec![request], ..Sources::default() };
    let request = request_of("pi-1");
    let device = only(&with(request.clone()));
    assert_eq!(device.state, Some(State::PendingApproval));
    assert_eq!(device.fingerprint.as_ref(), request.metadata.annotations.as_ref().unwrap().get(FINGERPRINT));
    assert_eq!(state(&with(decided(request.clone(), "Approved"))), State::Approved);
    assert_eq!(state(&with(decided(request.clone(), "Denied"))), State::Denied);

    let mut again = revoked("pi-1");
    again.requests.push(request);
    let device = only(&again);
    assert_eq!(device.state, Some(State::PendingApproval));
    assert_eq!(
        device.fingerprint,
        Some(again.requests[0].metadata.annotations.clone().unwrap()[FINGERPRINT].clone())
    );
}

#[test]
fn of_several_requests_the_one_that_waits_counts_then_the_approved_one() {
    let named = |name: &str| {
        let mut request = request_of("pi-1");
        request.metadata.name = Some(name.to_owned());
        request
    };
    let [first, second] = ["device-pi-1-aaaaaaaa", "device-pi-1-bbbbbbbb"].map(named);
    let of = |requests: [CertificateSigningRequest; 2]| {
        only(&Sources { requests: requests.into(), ..Sources::default() })
    };
    let both = of([first.clone(), second.clone()]);
    assert_eq!(both.state, Some(State::PendingApproval));
    assert!(both.reason.starts_with("2 devices"), "{}", both.reason);
    let approved = of([decided(first.clone(), "Approved"), decided(second.clone(), "Denied")]);
    assert_eq!(approved.state, Some(State::Approved));
    assert_eq!(
        approved.fingerprint.as_ref(),
        Some(&first.metadata.annotations.as_ref().unwrap()[FINGERPRINT])
    );
    let waiting = of([first, decided(second, "Denied")]);
    assert_eq!(waiting.state, Some(State::PendingApproval));
}

#[test]
fn who_asks_for_a_name_that_is_taken_changes_nothing_but_a_note() {
    let mut sources = member("pi-1", Some("True"));
    let before = only(&sources);
    sources.requests.push(request_of("pi-1"));
    let device = only(&sources);
    assert_eq!((device.state, &device.fingerprint), (Some(State::Ready), &before.fingerprint));
    assert!(device.notes[0].contains("device deny device-pi-1-0123abcd"), "{:?}", device.notes);

    sources.requests[0].spec.request.0.clear();
    assert!(only(&sources).notes[0].starts_with("do not approve"), "{:?}", only(&sources).notes);
}

#[test]
fn strangers_requests_and_leases_make_no_device() {
    let mut forged = request_of("pi-1");
    forged.metadata.annotations = None;
    let mut kubelet = request_of("pi-2");
    kubelet.spec.signer_name = "kubernetes.io/kubelet-serving".to_owned();
    let lease =
        Lease { metadata: ObjectMeta { name: Some("server-1".into()), ..ObjectMeta::default() }, spec: None };
    let sources = Sources { requests: vec![forged, kubelet], leases: vec![lease], ..Sources::default() };
    assert!(devices(&sources, at(0)).is_empty());
}

#[test]
fn the_table_has_a_line_for_each_and_obeys_no_device() {
    let mut sources = member("pi-2", Some("False"));
    sources.nodes[0].metadata.annotations.as_mut().unwrap().insert(KEY_VERSION.to_owned(), "3".to_owned());
    sources.leases.push(Lease {
        metadata: ObjectMeta { name: Some("pi-2".into()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec { renew_time: Some(MicroTime(at(90))), ..LeaseSpec::default() }),
    });
    sources.tokens.push(token("pi-10", at(3700), false));
    let all = devices(&sources, at(100));
    let table = render(&all, Format::Wide, at(100), false).unwrap();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!(lines[1][..2], ["pi-10", "Invited (expires in 60m)"], "{table}");
    let fingerprint = all[1].fingerprint.as_deref().unwrap();
    assert_eq!(lines[2][..6], ["pi-2", "NotReady", "100s", fingerprint, "3", "10s ago"], "{table}");
    assert!(table.contains("site=hall-3") && !table.contains('\u{1b}'), "{table:?}");
    assert_eq!(render(&all, Format::Name, at(100), false).unwrap(), "pi-10\npi-2\n");

    let shown = text(&all[1], at(100), false);
    assert!(shown.contains("no heartbeat") && !shown.contains('\u{1b}'), "{shown:?}");
    let json: serde_json::Value =
        serde_json::from_str(&render(&all, Format::Json, at(100), false).unwrap()).unwrap();
    assert_eq!(json["items"][1]["state"], "NotReady");
    assert_eq!(json["items"][1]["keyVersion"], 3);
    assert_eq!(json["items"][0]["invitations"][0]["expires"], at(3700).to_string());
    let yaml = render(&all, Format::Yaml, at(100), false).unwrap();
    assert!(yaml.contains("state: NotReady"), "{yaml}");
}

#[test]
fn no_output_contains_a_token() {
    let sources = Sources { tokens: vec![token("pi-1", at(60), false)], ..Sources::default() };
    let secret = TokenRecord::parse(&sources.tokens[0]).unwrap().token.reveal();
    let (_, secret) = secret.split_once('.').unwrap();
    let all = devices(&sources, at(0));
    for format in [Format::Table, Format::Wide, Format::Json, Format::Yaml] {
        assert!(!render(&all, format, at(0), false).unwrap().contains(secret));
    }
    assert!(!text(&all[0], at(0), false).contains(secret) && !format!("{all:?}").contains(secret));
}
