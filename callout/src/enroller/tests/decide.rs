#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fleet_wire::enrollment::{Door, EnrollmentToken};
use nkeys::{KeyPair, XKey};

use super::*;

struct Keys {
    identity: KeyPair,
    curve: XKey,
}

impl Keys {
    fn new() -> Self {
        Self { identity: KeyPair::new_user(), curve: XKey::new() }
    }

    fn public(&self) -> (IdentityKey, CurveKey) {
        (self.identity.public_key().parse().unwrap(), self.curve.public_key().parse().unwrap())
    }

    fn statement(&self, door: &Door, device: &str) -> EnrollStatement {
        let (identity, curve) = self.public();
        EnrollStatement::new(door, device.parse().unwrap(), identity, curve)
    }

    fn enrollment(&self, device: &str) -> Enrollment {
        let (identity_key, curve_key) = self.public();
        Enrollment {
            device: device.parse().unwrap(),
            identity_key,
            curve_key,
            subject: None,
            labels: BTreeMap::new(),
            taint: true,
            pod_cidr: None,
            report_pod_ip: false,
        }
    }

    fn record(&self, device: &str) -> Record {
        Record::new(self.enrollment(device), "uid-1")
    }

    fn node(&self) -> NodeSeen {
        NodeSeen {
            uid: "uid-1".to_owned(),
            identity_key: Some(self.identity.public_key()),
            of_this_fleet: true,
            ..NodeSeen::default()
        }
    }
}

fn revoked(mut record: Record) -> Record {
    record.state = RecordState::Revoked(Timestamp::UNIX_EPOCH);
    record
}

fn key_use(device: &str, live: bool) -> KeyUse {
    KeyUse { device: device.parse().unwrap(), live }
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn token(device: &str) -> TokenRecord {
    TokenRecord {
        token: EnrollmentToken::random(),
        device: device.parse().unwrap(),
        expires: NOW + std::time::Duration::from_secs(60),
        labels: BTreeMap::new(),
        taint: true,
        report_pod_ip: false,
        subject: None,
        used_by: None,
    }
}

fn asks_with(token: &EnrollmentToken, keys: &Keys, device: &str) -> (EnrollStatement, EnrollRequest) {
    let statement = keys.statement(&Door::Token(token.id.clone()), device);
    let request = statement.with_token(&keys.identity, token).unwrap();
    (statement, request)
}

fn by(token: &TokenRecord, keys: &Keys, device: &str, known: Known<'_>) -> Result<TokenGrant, Denial> {
    let (statement, request) = asks_with(&token.token, keys, device);
    by_token(Some(token), (&statement, &request), known, NOW)
}

#[test]
fn a_fresh_token_claims_a_free_name_and_is_spent() {
    let granted = by(&token("pi"), &Keys::new(), "pi", Known::default());
    assert_eq!(granted, Ok(TokenGrant { admission: Admission::Claim, mark: true }));
}

#[test]
fn an_unknown_token_and_a_wrong_secret_look_the_same_from_outside() {
    let (keys, token) = (Keys::new(), token("pi"));
    let guess = EnrollmentToken::random();
    let (statement, request) = asks_with(&guess, &keys, "pi");
    let unknown = by_token(None, (&statement, &request), Known::default(), NOW).unwrap_err();
    let wrong = by_token(Some(&token), (&statement, &request), Known::default(), NOW).unwrap_err();
    assert_eq!((&unknown, &wrong), (&Denial::NoToken, &Denial::Secret));
    assert_eq!(unknown.refusal(), wrong.refusal());
}

#[test]
fn a_proof_of_another_kind_is_no_token() {
    let (keys, token) = (Keys::new(), token("pi"));
    let statement = keys.statement(&Door::Token(token.token.id.clone()), "pi");
    let request = statement.with_rotation(&keys.identity, &keys.identity).unwrap();
    let denied = by_token(Some(&token), (&statement, &request), Known::default(), NOW);
    assert_eq!(denied, Err(Denial::Secret));
}

#[test]
fn a_token_enrolls_its_own_device_only() {
    let denied = by(&token("pi"), &Keys::new(), "other", Known::default());
    assert_eq!(denied, Err(Denial::OtherName("pi".parse().unwrap())));
}

#[test]
fn an_expired_token_enrolls_nobody_but_finishes_what_it_began_in_time() {
    let keys = Keys::new();
    let mut token = token("pi");
    token.expires = NOW;
    assert_eq!(by(&token, &keys, "pi", Known::default()), Err(Denial::Expired(NOW)));
    token.used_by = Some(keys.public());
    let granted = by(&token, &keys, "pi", Known::default());
    assert_eq!(granted, Ok(TokenGrant { admission: Admission::Claim, mark: false }));
}

#[test]
fn a_used_token_serves_the_same_keys_and_no_others() {
    let keys = Keys::new();
    let mut token = token("pi");
    token.used_by = Some(keys.public());
    assert_eq!(by(&token, &Keys::new(), "pi", Known::default()), Err(Denial::Used));
    // The same identity key with another curve key is another set of keys.
    let (identity, _) = keys.public();
    token.used_by = Some((identity, Keys::new().public().1));
    assert_eq!(by(&token, &keys, "pi", Known::default()), Err(Denial::Used));
}

#[test]
fn a_lost_answer_is_given_again() {
    let (keys, mut token) = (Keys::new(), token("pi"));
    token.used_by = Some(keys.public());
    let (record, node, found) = (keys.record("pi"), keys.node(), key_use("pi", true));
    let known = Known { key: Some(&found), record: Some(&record), node: Some(&node) };
    let again = TokenGrant { admission: Admission::Again, mark: false };
    assert_eq!(by(&token, &keys, "pi", known), Ok(again.clone()));
    // A member does not spend another token.
    token.used_by = None;
    assert_eq!(by(&token, &keys, "pi", known), Ok(again));
}

#[test]
fn keys_of_another_device_are_refused() {
    let found = key_use("elsewhere", true);
    let known = Known { key: Some(&found), ..Known::default() };
    let denied = by(&token("pi"), &Keys::new(), "pi", known);
    assert_eq!(denied, Err(Denial::KeyTaken("elsewhere".parse().unwrap())));
}

#[test]
fn dead_keys_stay_dead_under_every_name() {
    let keys = Keys::new();
    let found = key_use("elsewhere", false);
    let known = Known { key: Some(&found), ..Known::default() };
    assert_eq!(by(&token("pi"), &keys, "pi", known), Err(Denial::KeyDead("elsewhere".parse().unwrap())));

    // Also when only the record of the name tells, and when the token was used by these very keys.
    let record = revoked(keys.record("pi"));
    let known = Known { record: Some(&record), ..Known::default() };
    let mut token = token("pi");
    token.used_by = Some(keys.public());
    assert_eq!(by(&token, &keys, "pi", known), Err(Denial::KeyDead("pi".parse().unwrap())));

    let mut record = Keys::new().record("pi");
    record.retired.push(keys.public().0);
    let known = Known { record: Some(&record), ..Known::default() };
    assert_eq!(by(&token, &keys, "pi", known), Err(Denial::KeyDead("pi".parse().unwrap())));
}

#[test]
fn a_live_name_is_taken_also_while_its_node_is_not_there_yet() {
    let mut record = Keys::new().record("pi");
    for uid in ["uid-1", ""] {
        record.node_uid = uid.to_owned();
        let known = Known { record: Some(&record), ..Known::default() };
        assert_eq!(by(&token("pi"), &Keys::new(), "pi", known), Err(Denial::NameTaken));
    }
}

#[test]
fn the_same_identity_with_another_curve_key_is_not_the_same_device() {
    let keys = Keys::new();
    let mut record = keys.record("pi");
    record.enrollment.curve_key = Keys::new().public().1;
    let known = Known { record: Some(&record), ..Known::default() };
    assert_eq!(by(&token("pi"), &keys, "pi", known), Err(Denial::NameTaken));
}

#[test]
fn a_revoked_name_takes_new_keys_and_keeps_the_old_ones_dead() {
    let (old, older, new) = (Keys::new(), Keys::new(), Keys::new());
    let mut record = revoked(old.record("pi"));
    record.retired.push(older.public().0);
    let known = Known { record: Some(&record), ..Known::default() };
    let granted = by(&token("pi"), &new, "pi", known).unwrap();
    assert_eq!(granted.admission, Admission::Reclaim);

    let next = claim(new.enrollment("pi"), Some(&record));
    assert_eq!(next.retired, [older.public().0, old.public().0]);
    assert_eq!((next.state, next.node_uid.as_str()), (RecordState::Enrolled, ""));
}

#[test]
fn the_name_of_a_node_that_is_somebody_elses_is_refused_before_the_token_is_spent() {
    let keys = Keys::new();
    let foreign = [
        NodeSeen { uid: "server".to_owned(), ..NodeSeen::default() },
        NodeSeen { of_this_fleet: false, ..keys.node() },
        NodeSeen { terminating: true, ..keys.node() },
        Keys::new().node(),
    ];
    for node in foreign {
        let known = Known { node: Some(&node), ..Known::default() };
        assert_eq!(by(&token("pi"), &keys, "pi", known), Err(Denial::ForeignNode), "{node:?}");
    }
    // A Node that an interrupted enrollment made is its own.
    let node = keys.node();
    let known = Known { node: Some(&node), ..Known::default() };
    assert!(by(&token("pi"), &keys, "pi", known).is_ok());
}

fn rotate(
    (_, new): (&Keys, &Keys),
    voucher: &Keys,
    (door, device): (&str, &str),
    known: Known<'_>,
) -> Result<Rotation, Denial> {
    let door: DeviceName = door.parse().unwrap();
    let statement = new.statement(&Door::Device(door.clone()), device);
    let request = statement.with_rotation(&new.identity, &voucher.identity).unwrap();
    rotation(&door, (&statement, &request), known)
}

#[test]
fn a_rotation_replaces_both_keys_and_retires_the_old_one() {
    let (old, new) = (Keys::new(), Keys::new());
    let (record, node) = (old.record("pi"), old.node());
    let known = Known { record: Some(&record), node: Some(&node), ..Known::default() };
    let Ok(Rotation::Replace(next)) = rotate((&old, &new), &old, ("pi", "pi"), known) else {
        panic!("not rotated")
    };
    assert_eq!(next.retired, [old.public().0]);
    assert_eq!((next.enrollment.identity_key, next.enrollment.curve_key), new.public());
    assert_eq!((next.node_uid.as_str(), next.state), ("uid-1", RecordState::Enrolled));
}

#[test]
fn a_rotation_whose_answer_was_lost_is_confirmed() {
    let (old, new) = (Keys::new(), Keys::new());
    let mut record = new.record("pi");
    record.retired.push(old.public().0);
    let (node, found) = (new.node(), key_use("pi", true));
    let known = Known { key: Some(&found), record: Some(&record), node: Some(&node) };
    assert_eq!(rotate((&old, &new), &old, ("pi", "pi"), known), Ok(Rotation::Again));
}

#[test]
fn a_rotation_is_refused_to_whoever_is_not_that_member() {
    let (old, new, thief) = (Keys::new(), Keys::new(), Keys::new());
    let (record, node) = (old.record("pi"), old.node());
    let known = Known { record: Some(&record), node: Some(&node), ..Known::default() };
    let keys = (&old, &new);
    assert_eq!(rotate(keys, &old, ("pi", "other"), known), Err(Denial::OtherDevice));
    assert_eq!(rotate(keys, &thief, ("pi", "pi"), known), Err(Denial::NotVouched));
    assert_eq!(rotate(keys, &old, ("pi", "pi"), Known::default()), Err(Denial::NotAMember));
    assert_eq!(rotate(keys, &old, ("pi", "pi"), Known { node: None, ..known }), Err(Denial::NotAMember));
    let other = NodeSeen { uid: "uid-2".to_owned(), ..old.node() };
    assert_eq!(
        rotate(keys, &old, ("pi", "pi"), Known { node: Some(&other), ..known }),
        Err(Denial::NotAMember)
    );
    let gone = revoked(record.clone());
    assert_eq!(
        rotate(keys, &old, ("pi", "pi"), Known { record: Some(&gone), ..known }),
        Err(Denial::NotAMember)
    );
}

#[test]
fn a_rotation_to_keys_that_are_known_is_refused() {
    let (old, new) = (Keys::new(), Keys::new());
    let (record, node) = (old.record("pi"), old.node());
    let known = Known { record: Some(&record), node: Some(&node), ..Known::default() };
    let dead = key_use("pi", false);
    let denied = rotate((&old, &new), &old, ("pi", "pi"), Known { key: Some(&dead), ..known });
    assert_eq!(denied, Err(Denial::KeyDead("pi".parse().unwrap())));
    let taken = key_use("other", true);
    let denied = rotate((&old, &new), &old, ("pi", "pi"), Known { key: Some(&taken), ..known });
    assert_eq!(denied, Err(Denial::KeyTaken("other".parse().unwrap())));
    let half =
        Keys { identity: KeyPair::from_seed(&old.identity.seed().unwrap()).unwrap(), curve: XKey::new() };
    assert_eq!(rotate((&old, &half), &old, ("pi", "pi"), known), Err(Denial::OldKeys));
}

#[test]
fn a_refusal_names_no_other_device() {
    let other: DeviceName = "secret-name".parse().unwrap();
    for denial in [Denial::KeyTaken(other.clone()), Denial::KeyDead(other.clone()), Denial::OtherName(other)]
    {
        assert!(!denial.refusal().message.contains("secret-name"), "{denial}");
    }
}
