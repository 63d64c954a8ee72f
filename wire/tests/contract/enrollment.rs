//! Becoming a member: doors, tokens, records, sealed requests.

use std::collections::BTreeMap;

use fleet_wire::{
    enrollment::{
        AccountProof, Carried, DeviceAccount, DeviceIssuer, Door, EnrollReply, EnrollRequest,
        EnrollStatement, Enrollment, EnrollmentIntent, EnrollmentToken, MAX_ENROLL_MESSAGE, Outcome, Proof,
        Record, RecordState, SealError, TokenId, TokenRecord, open_reply, open_request, seal_reply,
        seal_request,
    },
    keys::{CurveKey, IdentityKey, fingerprint},
    name::DeviceName,
    permissions::{Identity, Permissions},
};
use k8s_openapi::{ByteString, jiff::Timestamp};
use nkeys::{KeyPair, XKey};
use proptest::prelude::*;

/// A device that wants to become a member, and the enroller.
struct Applicant {
    identity: KeyPair,
    curve: XKey,
    enroller: XKey,
}

impl Applicant {
    fn new() -> Self {
        Self { identity: KeyPair::new_user(), curve: XKey::new(), enroller: XKey::new() }
    }

    fn identity_key(&self) -> IdentityKey {
        self.identity.public_key().parse().unwrap()
    }

    fn curve_key(&self) -> CurveKey {
        self.curve.public_key().parse().unwrap()
    }

    fn enroller_key(&self) -> CurveKey {
        self.enroller.public_key().parse().unwrap()
    }

    fn statement(&self, door: &Door) -> EnrollStatement {
        EnrollStatement::new(door, pi(), self.identity_key(), self.curve_key())
    }

    fn seal(&self, request: &EnrollRequest) -> Vec<u8> {
        seal_request(request, &self.curve, &self.enroller_key()).unwrap()
    }
}

fn pi() -> DeviceName {
    "pi-7".parse().unwrap()
}

fn enrollment(applicant: &Applicant) -> Enrollment {
    Enrollment {
        device: pi(),
        identity_key: applicant.identity_key(),
        curve_key: applicant.curve_key(),
        subject: Some("271@fleet".to_owned()),
        labels: BTreeMap::from([("room".to_owned(), "attic".to_owned())]),
        taint: false,
        pod_cidr: Some("10.42.0.0/24".to_owned()),
        report_pod_ip: true,
    }
}

#[test]
fn a_token_is_read_as_it_was_revealed() {
    let token = EnrollmentToken::random();
    let read: EnrollmentToken = token.reveal().parse().unwrap();
    assert_eq!(read.id, token.id);
    assert!(read.accepts("x", &token.mac("x")));
}

#[test]
fn a_tokens_secret_shows_in_no_debug_output() {
    let token = EnrollmentToken::random();
    let secret = token.reveal().split_once('.').unwrap().1.to_owned();
    let intent = EnrollmentIntent {
        device: pi(),
        nats_url: "tls://nats:4222".to_owned(),
        nats_ca: None,
        root_key: KeyPair::new_operator().public_key(),
        keys: fleet_wire::keys::SignedKeyStatement { statement: String::new(), signature: String::new() },
        token: token.clone(),
        account: None,
    };
    assert!(!format!("{token:?}{intent:?}").contains(&secret));
    let text = serde_json::to_string(&intent).unwrap();
    assert!(text.contains(&secret), "the file is what carries it");
    assert!(!text.contains("account"), "agents that know no accounts take it");
}

#[test]
fn an_account_is_carried_whole_and_shows_its_secret_in_no_debug_output() {
    let issuer = DeviceIssuer {
        issuer: "https://id.example".to_owned(),
        scopes: vec!["openid".to_owned()],
        audience: None,
        ca: None,
    };
    let key = AccountProof::KeyFile(Carried::new("s3cret"));
    let client = AccountProof::Client { id: "pi".to_owned(), secret: Carried::new("s3cret") };
    for proof in [key, client] {
        let account = DeviceAccount { issuer: issuer.clone(), proof };
        assert!(!format!("{account:?}").contains("s3cret"));
        let text = serde_json::to_string(&account).unwrap();
        assert_eq!(serde_json::from_str::<DeviceAccount>(&text).unwrap(), account);
    }
}

#[test]
fn what_is_no_token_is_refused_without_being_repeated() {
    let id = "0123456789abcdef0123";
    let secret = "A".repeat(43);
    for wrong in [
        String::new(),
        id.to_owned(),
        format!("{id}."),
        format!("{id}.{}", "A".repeat(42)),
        format!("{}.{secret}", &id[1..]),
        format!("{}.{secret}", id.to_uppercase()),
        format!("{id}.{secret}="),
        format!("{id}.{}*", &secret[1..]),
    ] {
        let error = wrong.parse::<EnrollmentToken>().unwrap_err().to_string();
        assert!(!error.contains("AAAA"), "{error}");
    }
}

#[test]
fn a_request_by_token_is_opened_by_the_enroller_alone() {
    let (device, token) = (Applicant::new(), EnrollmentToken::random());
    let door = Door::Token(token.id.clone());
    let statement = device.statement(&door);
    let message = device.seal(&statement.with_token(&device.identity, &token).unwrap());

    let (opened, request) = open_request(&message, &door, &device.enroller).unwrap();
    assert_eq!(opened, statement);
    assert!(request.vouched_by_token(&token));
    assert!(!request.vouched_by_token(&EnrollmentToken::random()), "another secret vouches for nothing");
    assert!(!request.vouched_by_key(&device.identity_key()), "and a token is no signature");
    assert!(matches!(open_request(&message, &door, &XKey::new()), Err(SealError::Box)));
}

#[test]
fn the_same_id_with_another_secret_vouches_for_nothing() {
    let (device, token) = (Applicant::new(), EnrollmentToken::random());
    let guess: EnrollmentToken = format!("{}.{}", token.id, "A".repeat(43)).parse().unwrap();
    let request =
        device.statement(&Door::Token(token.id.clone())).with_token(&device.identity, &guess).unwrap();
    assert!(!request.vouched_by_token(&token));
}

#[test]
fn a_request_passes_through_no_other_door() {
    let (device, token) = (Applicant::new(), EnrollmentToken::random());
    let door = Door::Token(token.id.clone());
    let message = device.seal(&device.statement(&door).with_token(&device.identity, &token).unwrap());
    for other in
        [Door::Token(EnrollmentToken::random().id), Door::Key(device.identity_key()), Door::Device(pi())]
    {
        assert!(matches!(open_request(&message, &other, &device.enroller), Err(SealError::Door)), "{other}");
    }
}

#[test]
fn nobody_enrolls_a_key_that_he_does_not_hold() {
    let (thief, victim, token) = (Applicant::new(), Applicant::new(), EnrollmentToken::random());
    let door = Door::Token(token.id.clone());
    // The victim's identity key, signed by the thief's.
    let statement = EnrollStatement::new(&door, pi(), victim.identity_key(), thief.curve_key());
    let message = thief.seal(&statement.with_token(&thief.identity, &token).unwrap());
    assert!(matches!(open_request(&message, &door, &thief.enroller), Err(SealError::Signature)));
    // The victim's curve key, sealed with the thief's.
    let statement = EnrollStatement::new(&door, pi(), thief.identity_key(), victim.curve_key());
    let message = thief.seal(&statement.with_token(&thief.identity, &token).unwrap());
    assert!(matches!(open_request(&message, &door, &thief.enroller), Err(SealError::Sender)));
}

#[test]
fn a_changed_statement_is_not_the_one_that_was_signed() {
    let (device, token) = (Applicant::new(), EnrollmentToken::random());
    let door = Door::Token(token.id.clone());
    let mut request = device.statement(&door).with_token(&device.identity, &token).unwrap();
    request.statement = request.statement.replace("pi-7", "pi-8");
    let message = device.seal(&request);
    assert!(matches!(open_request(&message, &door, &device.enroller), Err(SealError::Signature)));
    assert!(!request.vouched_by_token(&token));
}

#[test]
fn new_keys_need_the_old_ones_word() {
    let (old, new) = (KeyPair::new_user(), Applicant::new());
    let old_key: IdentityKey = old.public_key().parse().unwrap();
    let door = Door::Device(pi());
    let request = new.statement(&door).with_rotation(&new.identity, &old).unwrap();
    assert!(request.vouched_by_key(&old_key));
    assert!(!request.vouched_by_key(&new.identity_key()), "the new key does not vouch for itself");
    // The signature that every request carries is no word of the old key's.
    let own = new.statement(&door).with_rotation(&new.identity, &new.identity).unwrap();
    let moved = EnrollRequest { proof: Proof::Rotation(own.signature.clone()), ..own };
    assert!(!moved.vouched_by_key(&new.identity_key()));
}

#[test]
fn an_answer_belongs_to_its_request() {
    let (device, token) = (Applicant::new(), EnrollmentToken::random());
    let statement = device.statement(&Door::Token(token.id));
    let reply = EnrollReply { nonce: statement.nonce.clone(), outcome: Outcome::Enrolled, keys: None };
    let message = seal_reply(&reply, &device.enroller, &device.curve_key()).unwrap();
    let enroller = device.enroller_key();
    assert_eq!(open_reply(&message, &statement, &device.curve, &enroller).unwrap(), reply);

    let later = EnrollStatement { nonce: "another".to_owned(), ..statement.clone() };
    assert!(matches!(open_reply(&message, &later, &device.curve, &enroller), Err(SealError::Nonce)));
    let forger = XKey::new();
    let forged = seal_reply(&reply, &forger, &device.curve_key()).unwrap();
    assert!(matches!(open_reply(&forged, &statement, &device.curve, &enroller), Err(SealError::Sender)));
}

#[test]
fn a_request_that_is_too_large_is_not_even_opened() {
    let device = Applicant::new();
    let huge = vec![1; MAX_ENROLL_MESSAGE + 1];
    assert!(matches!(open_request(&huge, &Door::Device(pi()), &device.enroller), Err(SealError::Frame(_))));
    let door = Door::Key(device.identity_key());
    let request = device
        .statement(&door)
        .with_certificate_request(&device.identity, "x".repeat(MAX_ENROLL_MESSAGE))
        .unwrap();
    assert!(matches!(
        seal_request(&request, &device.curve, &device.enroller_key()),
        Err(SealError::Frame(_))
    ));
}

#[test]
fn records_and_tokens_are_read_as_they_were_written() {
    let applicant = Applicant::new();
    let retired = vec![Applicant::new().identity_key(), Applicant::new().identity_key()];
    let at: Timestamp = "2026-11-21T09:00:00Z".parse().unwrap();
    for state in [RecordState::Enrolled, RecordState::Revoked(at)] {
        let record = Record {
            enrollment: enrollment(&applicant),
            node_uid: "uid-1".to_owned(),
            state,
            retired: retired.clone(),
        };
        assert_eq!(Record::parse(&record.secret("fleet")).unwrap(), record);
        assert_eq!(record.admits("uid-1"), state == RecordState::Enrolled);
        assert!(!record.admits("uid-2"), "another Node of the same name makes no device");
    }
    let record = TokenRecord {
        token: EnrollmentToken::random(),
        device: pi(),
        expires: at,
        labels: BTreeMap::from([("room".to_owned(), "attic".to_owned())]),
        taint: true,
        report_pod_ip: false,
        subject: None,
        used_by: Some((applicant.identity_key(), applicant.curve_key())),
    };
    let read = TokenRecord::parse(&record.secret("fleet")).unwrap();
    assert_eq!(read.secret("fleet"), record.secret("fleet"));
}

#[test]
fn a_damaged_record_names_the_field() {
    let good = Record::new(enrollment(&Applicant::new()), "uid-1").secret("fleet");
    for field in ["device", "identityKey", "curveKey", "state", "labels", "taint", "nodeUid"] {
        let mut damaged = good.clone();
        let data = damaged.data.as_mut().unwrap();
        data.insert(field.to_owned(), ByteString(vec![0xff, 0xfe]));
        assert_eq!(Record::parse(&damaged).unwrap_err().field, field);
    }
    let mut halfway = good;
    let data = halfway.data.as_mut().unwrap();
    data.insert("state".to_owned(), ByteString(b"revoked".to_vec()));
    assert_eq!(Record::parse(&halfway).unwrap_err().field, "revokedAt");
}

#[test]
fn a_fingerprint_depends_on_both_keys() {
    let (one, other) = (Applicant::new(), Applicant::new());
    let print = fingerprint(&one.identity_key(), &one.curve_key());
    assert!(print.starts_with("SHA256:") && print.len() == 50, "{print}");
    assert_ne!(print, fingerprint(&one.identity_key(), &other.curve_key()));
    assert_ne!(print, fingerprint(&other.identity_key(), &one.curve_key()));
}

#[test]
fn keys_of_other_kinds_are_refused() {
    let (user, account, curve) = (KeyPair::new_user(), KeyPair::new_account(), XKey::new());
    assert!(user.public_key().parse::<IdentityKey>().is_ok());
    assert!(account.public_key().parse::<IdentityKey>().is_err());
    assert!(curve.public_key().parse::<IdentityKey>().is_err());
    assert!(user.public_key().parse::<CurveKey>().is_err());
    assert!(user.seed().unwrap().parse::<IdentityKey>().is_err(), "a seed is no public key");
}

#[test]
fn who_asks_at_a_door_gets_that_door_and_nothing_else() {
    let device = Applicant::new();
    let id: TokenId = EnrollmentToken::random().id;
    for (identity, door) in [
        (Identity::TokenHolder(id.clone()), Door::Token(id)),
        (Identity::Applicant(device.identity_key()), Door::Key(device.identity_key())),
    ] {
        let permissions = Permissions::of(&identity);
        assert_eq!(permissions.publish, [door.subject()]);
        assert_eq!(permissions.subscribe, [format!("{}.>", door.inbox_prefix())]);
    }
    assert!(Permissions::default().publish.is_empty() && Permissions::default().subscribe.is_empty());
}

#[test]
fn an_administrator_looks_and_says_nothing() {
    let permissions = Permissions::of(&Identity::Administrator(Applicant::new().identity_key()));
    assert!(permissions.publish.is_empty());
    assert!(!permissions.subscribe.iter().any(|subject| subject == ">" || subject.starts_with('$')));
}

proptest! {
    #[test]
    fn a_door_is_found_again_by_its_subject(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?") {
        let key = Applicant::new().identity_key();
        let doors =
            [Door::Device(name.parse().unwrap()), Door::Token(EnrollmentToken::random().id), Door::Key(key)];
        for door in doors {
            prop_assert_eq!(&Door::parse(&door.subject()).unwrap(), &door);
            let reply = format!("{}.a1", door.inbox_prefix());
            prop_assert!(door.is_own_inbox(&reply));
            prop_assert!(!door.is_own_inbox("_INBOX.other.a1"));
            prop_assert!(!door.is_own_inbox(&door.subject()));
        }
    }

    #[test]
    fn no_subject_is_a_door_by_chance(tail in "\\PC{0,80}") {
        if let Ok(door) = Door::parse(&format!("fleet.enroll.v1.{tail}")) {
            prop_assert_eq!(door.subject(), format!("fleet.enroll.v1.{tail}"));
            prop_assert!(!tail.contains(['*', '>', ' ']));
        }
    }

    #[test]
    fn no_device_has_the_inbox_of_a_door(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?") {
        let device: DeviceName = name.parse().unwrap();
        let own = format!("{}.a1", fleet_wire::subject::inbox_prefix(&device));
        prop_assert!(!Door::Token(EnrollmentToken::random().id).is_own_inbox(&own));
        prop_assert!(!Door::Key(Applicant::new().identity_key()).is_own_inbox(&own));
    }

    #[test]
    fn whatever_comes_is_refused_and_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let device = Applicant::new();
        let key = device.curve.public_key();
        for message in [bytes.clone(), [b"\x01", key.as_bytes(), b"xkv1", &bytes[..]].concat()] {
            prop_assert!(open_request(&message, &Door::Device(pi()), &device.enroller).is_err());
        }
    }
}
