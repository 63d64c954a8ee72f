#![allow(clippy::unwrap_used)]

use nkeys::KeyPair;

use super::*;

fn message(subject: &str, reply: Option<&str>, size: usize) -> Message {
    Message {
        subject: subject.into(),
        reply: reply.map(Into::into),
        payload: vec![0; size].into(),
        headers: None,
        status: None,
        description: None,
        length: size,
    }
}

struct Limits {
    doors: DefaultKeyedRateLimiter<Door>,
    all: DefaultDirectRateLimiter,
}

impl Limits {
    fn new(of_all: u32) -> Self {
        let one = Quota::with_period(DOOR_EVERY).unwrap().allow_burst(DOOR_BURST);
        let all = Quota::per_hour(NonZeroU32::new(of_all).unwrap());
        Self { doors: RateLimiter::keyed(one), all: RateLimiter::direct(all) }
    }

    fn admit(&self, message: Message) -> Result<Door, &'static str> {
        admit(message, &self.doors, &self.all).map(|asked| asked.door).map_err(|(_, reason)| reason)
    }
}

#[test]
fn an_answer_goes_into_the_senders_own_inbox_only() {
    let limits = Limits::new(1000);
    let door = "fleet.enroll.v1.device.pi";
    assert!(limits.admit(message(door, Some("_INBOX.pi.x"), 9)).is_ok());
    for foreign in
        ["_INBOX.po.x", "_INBOX.pi", "_INBOX.pix.y", "fleet.v1.1.pi.down.exec", "$SYS.REQ.SERVER.PING"]
    {
        assert_eq!(limits.admit(message(door, Some(foreign), 9)), Err("ForeignInbox"), "{foreign}");
    }
    assert_eq!(limits.admit(message(door, None, 9)), Err("NoReply"));
}

#[test]
fn what_is_no_door_and_what_is_too_large_is_dropped() {
    let limits = Limits::new(1000);
    for subject in [
        "fleet.enroll.v1",
        "fleet.enroll.v1.device.A_B",
        "fleet.enroll.v1.token.x",
        "fleet.enroll.v2.device.pi",
    ] {
        assert_eq!(limits.admit(message(subject, Some("_INBOX.pi.x"), 9)), Err("NoDoor"), "{subject}");
    }
    let large = message("fleet.enroll.v1.device.pi", Some("_INBOX.pi.x"), MAX_ENROLL_MESSAGE + 1);
    assert_eq!(limits.admit(large), Err("TooLarge"));
}

#[test]
fn who_floods_one_door_does_not_use_up_what_others_may_ask() {
    let limits = Limits::new(2 * DOOR_BURST.get());
    for _ in 0..1000 {
        let _ = limits.admit(message("fleet.enroll.v1.device.loud", Some("_INBOX.loud.x"), 9));
    }
    let again = message("fleet.enroll.v1.device.loud", Some("_INBOX.loud.x"), 9);
    assert_eq!(limits.admit(again), Err("TooOften"));
    assert!(limits.admit(message("fleet.enroll.v1.device.pi", Some("_INBOX.pi.x"), 9)).is_ok());
}

#[test]
fn a_request_is_opened_with_whichever_own_key_it_was_sealed_to() {
    let (old, new, stranger) = (XKey::new(), XKey::new(), XKey::new());
    let seeds = [(1, &old), (2, &new)]
        .map(|(version, key)| (fleet_wire::name::KeyVersion(version), key.seed().unwrap()));
    let keys = FleetKeys::from_seeds(seeds).unwrap();
    let (identity, curve) = (KeyPair::new_user(), XKey::new());
    let door = Door::Device("pi".parse().unwrap());
    let statement = EnrollStatement::new(
        &door,
        "pi".parse().unwrap(),
        identity.public_key().parse().unwrap(),
        curve.public_key().parse().unwrap(),
    );
    let request = statement.with_rotation(&identity, &identity).unwrap();
    let sealed = |to: &XKey| {
        fleet_wire::enrollment::seal_request(&request, &curve, &to.public_key().parse().unwrap()).unwrap()
    };
    for key in [&old, &new] {
        let (own, (opened, _)) = open(&keys, &door, &sealed(key)).unwrap();
        assert_eq!((own.public_key(), &opened), (key.public_key(), &statement));
    }
    assert!(open(&keys, &door, &sealed(&stranger)).is_err());
    let other = Door::Device("po".parse().unwrap());
    assert!(matches!(open(&keys, &other, &sealed(&new)), Err(SealError::Door)));
}

#[tokio::test]
async fn devices_get_the_newest_statement_and_the_last_good_one_while_the_file_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    let mut file = StatementFile::new(path.clone());
    assert!(file.read().await.is_none());
    let root = KeyPair::new_operator();
    let signed = |sequence| {
        let curve_keys = std::collections::BTreeMap::new();
        SignedKeyStatement::sign(&KeyStatement { sequence, curve_keys, enroller_key: None }, &root).unwrap()
    };
    for sequence in [1, 2] {
        std::fs::write(&path, serde_json::to_vec(&signed(sequence)).unwrap()).unwrap();
        assert_eq!(file.read().await, Some(signed(sequence)));
    }
    std::fs::write(&path, b"{}").unwrap();
    assert_eq!(file.read().await, Some(signed(2)));
}
