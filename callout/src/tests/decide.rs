//! Decisions: who gets in, as whom, and for which reason others do not.

use nkeys::KeyPair;

use super::*;
use crate::fixtures::{identity_key, record};

fn policy() -> Policy {
    Policy {
        device_requests: true,
        components: BTreeMap::from([
            ("system:serviceaccount:harmony-fleet:vk-nats".to_owned(), Component::ClusterSide),
            ("system:serviceaccount:harmony-fleet:enroller".to_owned(), Component::Enroller),
        ]),
        admin_role: "fleet-admin".to_owned(),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn later() -> Timestamp {
    Timestamp::from_second(1_800_000_300).unwrap()
}

/// `pi-7` logs in with its key, `pi-8` with a token of `machine-8`, too.
struct Fleet {
    index: Index,
    plain: IdentityKey,
    tokened: IdentityKey,
    stranger: IdentityKey,
    retired: IdentityKey,
    revoked: IdentityKey,
}

fn fleet() -> Fleet {
    let mut index = Index::default();
    let retired = identity_key(&KeyPair::new_user());
    let mut plain = record("pi-7", "uid-7");
    plain.retired = vec![retired.clone()];
    let mut tokened = record("pi-8", "uid-8");
    tokened.enrollment.subject = Some("machine-8".to_owned());
    let mut revoked = record("pi-9", "uid-9");
    revoked.state = fleet_wire::enrollment::RecordState::Revoked(now());
    let key = |record: &fleet_wire::enrollment::Record| record.enrollment.identity_key.clone();
    let fleet = (key(&plain), key(&tokened), key(&revoked));
    for record in [plain, tokened, revoked] {
        index.put_node(record.enrollment.device.as_str(), record.node_uid.clone());
        index.put_record(record);
    }
    let stranger = identity_key(&KeyPair::new_user());
    Fleet { index, plain: fleet.0, tokened: fleet.1, stranger, retired, revoked: fleet.2 }
}

fn proven(key: &IdentityKey) -> Key<'_> {
    Key { key, proven: true }
}

impl Fleet {
    fn decide(&self, facts: Facts<'_>) -> Result<Identity, Refusal> {
        match decide(facts, &self.index, &policy(), now()) {
            Decision::Admit(admission) => Ok(admission.identity),
            Decision::Refuse(refusal) => Err(refusal),
        }
    }

    fn registry(&self, key: &IdentityKey) -> Result<Identity, Refusal> {
        self.decide(Facts::Registry(proven(key)))
    }

    fn token(&self, key: &IdentityKey, holder: Holder) -> Result<Identity, Refusal> {
        self.decide(Facts::Token(proven(key), Ok(holder)))
    }
}

fn machine(subject: &str) -> Holder {
    Holder::Device { subject: subject.to_owned(), expires: later() }
}

fn person(role: &str) -> Holder {
    Holder::Person { subject: "ada".into(), roles: BTreeSet::from([role.to_owned()]), expires: later() }
}

fn account(name: &str) -> Holder {
    let user = format!("system:serviceaccount:harmony-fleet:{name}");
    Holder::ServiceAccount { user, expires: Some(later()) }
}

fn device(name: &str) -> Identity {
    Identity::Device(name.parse().unwrap())
}

#[test]
fn a_device_gets_in_with_its_key() {
    let fleet = fleet();
    assert_eq!(fleet.registry(&fleet.plain), Ok(device("pi-7")));
    assert_eq!(fleet.registry(&fleet.stranger), Err(Refusal::UnknownKey));
    assert_eq!(fleet.registry(&fleet.retired), Err(Refusal::RetiredKey));
    assert_eq!(fleet.registry(&fleet.revoked), Err(Refusal::Revoked));
}

#[test]
fn without_proof_nobody_learns_what_a_key_stands_for() {
    let fleet = fleet();
    for key in [&fleet.plain, &fleet.tokened, &fleet.stranger, &fleet.retired, &fleet.revoked] {
        let unproven = || Key { key, proven: false };
        let facts = [
            Facts::Registry(unproven()),
            Facts::Applicant(unproven()),
            Facts::Token(unproven(), Ok(person("fleet-admin"))),
            Facts::Token(unproven(), Ok(machine("machine-8"))),
            Facts::Token(unproven(), Ok(account("vk-nats"))),
            Facts::Token(unproven(), Err(TokenRefusal::Unavailable)),
        ];
        for facts in facts {
            assert_eq!(fleet.decide(facts), Err(Refusal::Signature));
        }
    }
}

#[test]
fn a_device_with_a_subject_needs_key_and_token() {
    let fleet = fleet();
    assert_eq!(fleet.token(&fleet.tokened, machine("machine-8")), Ok(device("pi-8")));
    assert_eq!(fleet.registry(&fleet.tokened), Err(Refusal::TokenRequired));
    // Another device's token, and its own token with another device's key.
    assert_eq!(fleet.token(&fleet.tokened, machine("machine-7")), Err(Refusal::Subject));
    assert_eq!(fleet.token(&fleet.plain, machine("machine-8")), Err(Refusal::Subject));
    assert_eq!(fleet.token(&fleet.stranger, machine("machine-8")), Err(Refusal::UnknownKey));
    assert_eq!(fleet.token(&fleet.revoked, machine("machine-9")), Err(Refusal::Revoked));
}

#[test]
fn no_token_passes_as_one_of_another_kind() {
    let fleet = fleet();
    let user = "machine-8".to_owned();
    let as_person = Holder::Person { subject: user.clone(), roles: BTreeSet::new(), expires: later() };
    assert_eq!(fleet.token(&fleet.tokened, as_person), Err(Refusal::DeviceKey));
    assert_eq!(
        fleet.token(&fleet.tokened, Holder::ServiceAccount { user, expires: None }),
        Err(Refusal::DeviceKey)
    );
    // A machine user that calls itself like a component.
    let machine = machine("system:serviceaccount:harmony-fleet:vk-nats");
    assert_eq!(fleet.token(&fleet.stranger, machine), Err(Refusal::UnknownKey));
}

#[test]
fn a_person_needs_the_role_and_a_key_of_its_own() {
    let fleet = fleet();
    let administrator = Identity::Administrator(fleet.stranger.clone());
    assert_eq!(fleet.token(&fleet.stranger, person("fleet-admin")), Ok(administrator));
    assert_eq!(fleet.token(&fleet.stranger, person("fleet-viewer")), Err(Refusal::Role));
    for key in [&fleet.plain, &fleet.tokened, &fleet.retired, &fleet.revoked] {
        assert_eq!(fleet.token(key, person("fleet-admin")), Err(Refusal::DeviceKey));
    }
}

#[test]
fn a_component_is_a_service_account_of_the_settings() {
    let fleet = fleet();
    assert_eq!(fleet.token(&fleet.stranger, account("vk-nats")), Ok(Identity::ClusterSide));
    assert_eq!(fleet.token(&fleet.stranger, account("enroller")), Ok(Identity::Enroller));
    assert_eq!(fleet.token(&fleet.stranger, account("default")), Err(Refusal::Component));
    assert_eq!(fleet.token(&fleet.plain, account("vk-nats")), Err(Refusal::DeviceKey));
}

#[test]
fn nobody_outlives_its_token() {
    let fleet = fleet();
    for (key, holder) in [
        (&fleet.tokened, machine("machine-8")),
        (&fleet.stranger, person("fleet-admin")),
        (&fleet.stranger, account("vk-nats")),
    ] {
        let facts = Facts::Token(proven(key), Ok(holder.clone()));
        match decide(facts, &fleet.index, &policy(), now()) {
            Decision::Admit(admission) => assert_eq!(admission.not_after, Some(later())),
            Decision::Refuse(refusal) => panic!("{refusal}"),
        }
        let facts = Facts::Token(proven(key), Ok(holder));
        let decision = decide(facts, &fleet.index, &policy(), later());
        assert_eq!(decision, Decision::Refuse(Refusal::TokenExpired));
    }
}

#[test]
fn a_key_asks_for_membership_only_where_that_is_allowed_and_never_after_its_death() {
    let fleet = fleet();
    let apply = |key| fleet.decide(Facts::Applicant(proven(key)));
    assert_eq!(apply(&fleet.stranger), Ok(Identity::Applicant(fleet.stranger.clone())));
    assert_eq!(apply(&fleet.retired), Err(Refusal::RetiredKey));
    assert_eq!(apply(&fleet.revoked), Err(Refusal::Revoked));
    // The answer that made it a member was lost: it asks again, and gets no more than its own door.
    assert_eq!(apply(&fleet.plain), Ok(Identity::Applicant(fleet.plain.clone())));
    let off = Policy { device_requests: false, ..policy() };
    let decision = decide(Facts::Applicant(proven(&fleet.stranger)), &fleet.index, &off, now());
    assert_eq!(decision, Decision::Refuse(Refusal::RequestsOff));
}

#[test]
fn what_proves_nothing_is_not_called_verified() {
    let fleet = fleet();
    let id = "0123456789abcdef0123".parse().unwrap();
    for facts in [Facts::EnrollmentToken(&id), Facts::Applicant(proven(&fleet.stranger))] {
        match decide(facts, &fleet.index, &policy(), now()) {
            Decision::Admit(admission) => assert!(!admission.verified),
            Decision::Refuse(refusal) => panic!("{refusal}"),
        }
    }
}

#[test]
fn why_a_token_was_not_believed_is_said() {
    let fleet = fleet();
    let cases = [
        (TokenRefusal::UnknownIssuer, Refusal::UnknownIssuer),
        (TokenRefusal::Refused("audience"), Refusal::Token("audience")),
        (TokenRefusal::Unavailable, Refusal::Unavailable),
        (TokenRefusal::RateLimited, Refusal::RateLimited),
    ];
    for (given, expected) in cases {
        assert_eq!(fleet.decide(Facts::Token(proven(&fleet.tokened), Err(given))), Err(expected));
    }
}
