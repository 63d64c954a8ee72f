//! Signed updates: which take effect, which are refused, and what survives a restart.

use std::{fs, path::Path, time::Duration};

use jiff::ToSpan as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{envelope::Envelope, *};
use crate::{
    key::FieldPath,
    keyring::{KeyVersion, Purpose},
    model::SchemaVersion,
    source::Document,
};

const CANARY: &str = "canary-55d0-secret";

/// A signer and a receiver, each with keys of its own.
struct Place {
    folder: tempfile::TempDir,
    signer: UpdateSigner,
    keyring: Keyring,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keyring = |name| Keyring::open(&folder.path().join(name).join("keys")).unwrap();
        let (signer, keyring) = (UpdateSigner::new(keyring("signer")), keyring("receiver"));
        Self { folder, signer, keyring }
    }

    fn settings(&self) -> Settings {
        Settings {
            file: self.folder.path().join("receiver/updates.json"),
            audience: "switches".to_owned(),
            trusted: vec![self.signer.public_key().unwrap()],
            models: vec![model("Vlan"), model("Other")],
        }
    }

    fn open(&self) -> Updates {
        Updates::open(self.settings(), self.keyring.clone()).unwrap()
    }

    fn sign(&self, draft: Draft) -> Vec<u8> {
        self.signer.sign(&draft).unwrap()
    }
}

fn model(key: &str) -> Model {
    Model {
        key: key.parse().unwrap(),
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![FieldPath::root().join("password"), ["tls", "key"].into_iter().collect()],
        places: Default::default(),
    }
}

fn document(value: Value) -> Document {
    value.as_object().unwrap().clone()
}

fn draft(epoch: u64, value: Value) -> Draft {
    Draft {
        audience: "switches".to_owned(),
        epoch,
        expires: Timestamp::now() + 1.hour(),
        items: vec![Item::new(&model("Vlan"), document(value))],
        recipients: Vec::new(),
    }
}

fn refusal(updates: &Updates, bytes: &[u8]) -> Refusal {
    let before = updates.status();
    let Err(UpdatesError::Refused(refusal)) = updates.accept(bytes) else { panic!("it was not refused") };
    let after = updates.status();
    assert_eq!(after.head, before.head, "what was in effect stays");
    assert_eq!((after.refused, after.last_refusal.unwrap().0), (before.refused + 1, refusal.reason()));
    refusal
}

async fn id(updates: &Updates) -> Option<u64> {
    let layer = updates.read(&model("Vlan")).await.unwrap();
    layer.map(|layer| layer.values["id"].as_u64().unwrap())
}

#[tokio::test]
async fn an_update_is_in_effect_at_once_and_after_a_restart_and_takes_the_place_of_the_last() {
    let place = Place::new();
    let updates = place.open();
    assert_eq!(id(&updates).await, None);
    let outcome = updates.accept(&place.sign(draft(1, json!({"id": 1})))).unwrap();
    assert_eq!(outcome, Outcome::Applied { changed: vec!["Vlan".parse().unwrap()], unknown: vec![] });
    assert_eq!(id(&updates).await, Some(1));
    assert_eq!(id(&place.open()).await, Some(1));

    let mut next = draft(5, json!({}));
    next.items = vec![
        Item::new(&model("Other"), document(json!({"a": true}))),
        Item::new(&model("Later"), document(json!({}))),
    ];
    let key = |name: &str| name.parse::<Key>().unwrap();
    let changed = vec![key("Later"), key("Other"), key("Vlan")];
    assert_eq!(
        updates.accept(&place.sign(next)).unwrap(),
        Outcome::Applied { changed, unknown: vec![key("Later")] }
    );
    for updates in [&updates, &place.open()] {
        assert_eq!(id(updates).await, None, "an update is the whole: what is not in it is not set any more");
        let layer = updates.read(&model("Other")).await.unwrap().unwrap();
        assert_eq!((layer.revision, layer.version), (Some(5), Some(model("Other").version)));
        assert!(layer.place.contains("update 5"), "{}", layer.place);
    }
}

#[tokio::test]
async fn the_same_update_again_is_no_refusal_and_an_older_one_is_also_after_a_restart() {
    let place = Place::new();
    let updates = place.open();
    let (one, two) = (place.sign(draft(1, json!({"id": 1}))), place.sign(draft(2, json!({"id": 2}))));
    updates.accept(&one).unwrap();
    updates.accept(&two).unwrap();
    for updates in [updates, place.open()] {
        assert_eq!(updates.accept(&two).unwrap(), Outcome::Current);
        assert!(matches!(refusal(&updates, &one), Refusal::Replayed { found: 1, last: 2 }));
        let other = place.sign(draft(2, json!({"id": 3})));
        assert!(matches!(refusal(&updates, &other), Refusal::Replayed { found: 2, last: 2 }));
        assert_eq!(id(&updates).await, Some(2));
    }
}

#[test]
fn each_refusal_says_what_is_wrong_and_what_to_do() {
    let place = Place::new();
    let updates = place.open();
    let good = place.sign(draft(1, json!({"id": 1})));

    assert!(matches!(refusal(&updates, &vec![b' '; LIMIT + 1]), Refusal::TooLarge { .. }));
    for bytes in [&b""[..], b"{}", b"[]", b"{\"format\":2}", &good[..good.len() / 2]] {
        assert!(matches!(refusal(&updates, bytes), Refusal::Malformed { .. }));
    }

    let stranger = Place::new();
    let refused = refusal(&updates, &stranger.sign(draft(1, json!({"id": 1}))));
    assert!(matches!(refused, Refusal::UnknownKey { .. }));
    assert!(refused.to_string().contains(&place.signer.public_key().unwrap().id().0), "{refused}");

    let other = refusal(&updates, &place.sign(Draft { audience: "routers".into(), ..draft(1, json!({})) }));
    assert!(matches!(&other, Refusal::Audience { found, own } if found == "routers" && own == "switches"));

    let expires = Timestamp::now() - 1.second();
    let expired = refusal(&updates, &place.sign(Draft { expires, ..draft(1, json!({})) }));
    assert!(matches!(expired, Refusal::Expired { .. }));
    assert!(expired.to_string().contains("clock"), "{expired}");

    let mut old = model("Vlan");
    old.version = SchemaVersion("fedcba9876543210".to_owned());
    let items = vec![Item::new(&model("Other"), document(json!({}))), Item::new(&old, document(json!({})))];
    let schema = refusal(&updates, &place.sign(Draft { items, ..draft(1, json!({})) }));
    assert!(matches!(schema, Refusal::SchemaVersion { .. }), "{schema}");

    // Another's signature; another's payload.
    let second = place.sign(draft(2, json!({"id": 2})));
    let (one, two) = (Envelope::parse(&good).unwrap(), Envelope::parse(&second).unwrap());
    let mixed = Envelope { signature: two.signature.clone(), ..one.clone() };
    assert!(matches!(refusal(&updates, &mixed.write().unwrap()), Refusal::Signature { .. }));
    let mixed = Envelope { payload: two.payload, ..one };
    assert!(matches!(refusal(&updates, &mixed.write().unwrap()), Refusal::PayloadHash));

    assert_eq!(updates.status().head, None);
    assert!(updates.accept(&good).is_ok(), "none of them has used up an epoch");
    assert_eq!(updates.status().last_refusal, None);
}

#[test]
fn a_clock_that_is_behind_is_no_way_to_deliver_what_expired_before_the_last_update_was_signed() {
    let trust = Trust::new(String::new(), vec![], vec![]);
    let (epoch, now) = (Timestamp::UNIX_EPOCH, Timestamp::now());
    let head = Head {
        key_id: KeyId(String::new()),
        audience: String::new(),
        epoch: 2,
        issued: epoch,
        expires: now - 1.hour(),
        payload_hash: String::new(),
    };
    // A device that starts in 1970 cannot tell; one that has an update of now can.
    trust.admit(&head, Some(1), epoch).unwrap();
    assert!(matches!(trust.admit(&head, Some(1), now), Err(Refusal::Expired { .. })));

    let place = Place::new();
    let updates = place.open();
    updates.accept(&place.sign(draft(1, json!({"id": 1})))).unwrap();
    let (found, _) = updates.shared.file.read().unwrap();
    let state = State::of(&updates.shared.file, found).unwrap().unwrap();
    let floor = state.not_before(&updates.shared.file).unwrap().unwrap();
    assert_eq!(Some(floor), updates.status().head.map(|head| head.issued));
}

#[tokio::test]
async fn an_update_stays_in_effect_when_it_has_expired_since() {
    let place = Place::new();
    let expires = Timestamp::now() + 150.milliseconds();
    place.open().accept(&place.sign(Draft { expires, ..draft(1, json!({"id": 1})) })).unwrap();
    while Timestamp::now() <= expires {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(id(&place.open()).await, Some(1));
}

#[tokio::test]
async fn who_is_trusted_no_more_has_said_nothing_and_made_nothing_old() {
    let place = Place::new();
    let thief = Place::new();
    let mut settings = place.settings();
    settings.trusted.push(thief.signer.public_key().unwrap());
    let updates = Updates::open(settings, place.keyring.clone()).unwrap();
    updates.accept(&thief.sign(draft(u64::MAX, json!({"id": 666})))).unwrap();
    assert!(matches!(
        refusal(&updates, &place.sign(draft(1, json!({"id": 1})))),
        Refusal::Replayed { last: u64::MAX, .. }
    ));

    let updates = place.open();
    assert_eq!(id(&updates).await, None);
    assert_eq!(updates.status().last_refusal.unwrap().0, "unknown_key");
    updates.accept(&place.sign(draft(1, json!({"id": 1})))).unwrap();
    assert_eq!(id(&updates).await, Some(1));
}

#[tokio::test]
async fn after_a_rotation_of_the_signers_key_both_are_trusted_and_neither_goes_back() {
    let place = Place::new();
    let mut settings = place.settings();
    let old = place.sign(draft(1, json!({"id": 1})));
    let late = place.sign(draft(2, json!({"id": 2})));
    Keyring::open(&place.folder.path().join("signer/keys")).unwrap().rotate(Purpose::Updates).unwrap();
    let new = place.sign(draft(3, json!({"id": 3})));
    settings.trusted.push(place.signer.public_key().unwrap());
    let updates = Updates::open(settings, place.keyring.clone()).unwrap();
    updates.accept(&old).unwrap();
    updates.accept(&new).unwrap();
    assert!(matches!(refusal(&updates, &late), Refusal::Replayed { found: 2, last: 3 }));
    assert_eq!(id(&updates).await, Some(3));
}

#[tokio::test]
async fn secrets_are_sealed_to_their_recipients_and_are_nowhere_in_plain_text() {
    let place = Place::new();
    let updates = place.open();
    let secret = json!({"id": 1, "password": CANARY});
    let error = place.signer.sign(&draft(1, secret.clone())).unwrap_err();
    assert!(matches!(error, SignError::PlainSecret { .. }), "{error}");

    let stranger = Place::new();
    let elsewhere = stranger.open().recipient().unwrap();
    let recipients = vec![elsewhere.clone()];
    let bytes = place.sign(Draft { recipients, ..draft(1, secret.clone()) });
    assert!(matches!(refusal(&updates, &bytes), Refusal::Recipient));

    let recipients = vec![elsewhere, updates.recipient().unwrap()];
    let sealed = Draft { recipients, ..draft(1, secret.clone()) };
    let bytes = place.sign(sealed.clone());
    assert!(!String::from_utf8_lossy(&bytes).contains(CANARY));
    assert!(!String::from_utf8_lossy(&Envelope::parse(&bytes).unwrap().payload).contains(CANARY));
    updates.accept(&bytes).unwrap();
    let layer = updates.read(&model("Vlan")).await.unwrap().unwrap();
    assert_eq!(layer.values, document(secret));
    assert!(!format!("{updates:?} {layer:?} {sealed:?} {:?}", updates.shared.effect).contains(CANARY));
    no_file_has(place.folder.path(), CANARY);
    no_file_has(place.folder.path(), &data_encoding::BASE64URL_NOPAD.encode(CANARY.as_bytes()));

    // The stranger does not get it for his own: it is for other ears, too, but from one whom he does not trust.
    let mut settings = stranger.settings();
    settings.trusted = vec![place.signer.public_key().unwrap()];
    settings.audience = "routers".to_owned();
    let other = Updates::open(settings, stranger.keyring.clone()).unwrap();
    assert!(matches!(refusal(&other, &bytes), Refusal::Audience { .. }));
}

fn no_file_has(folder: &Path, text: &str) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => no_file_has(&path, text),
            false => assert!(!String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text), "{path:?}"),
        }
    }
}

#[test]
fn a_secret_that_somebody_signed_in_plain_text_is_refused() {
    let place = Place::new();
    let updates = place.open();
    for value in [json!({"password": "x"}), json!({"tls": {"key": {"a": 1}}}), json!({"tls": [{"key": 1}]})] {
        let mut careless = model("Vlan");
        careless.secrets.clear();
        let items = vec![Item::new(&careless, document(value))];
        let bytes = place.sign(Draft { items, ..draft(1, json!({})) });
        assert!(matches!(refusal(&updates, &bytes), Refusal::PlainSecret { .. }));
    }
    for value in [json!({"tls": {"ca": 1}}), json!({"tls": 1, "password": null})] {
        assert_eq!(plain_secret_of(value), None);
    }
}

fn plain_secret_of(value: Value) -> Option<FieldPath> {
    verify::plain_secret(&model("Vlan"), &document(value)).cloned()
}

#[tokio::test]
async fn after_a_rotation_of_the_receivers_keys_it_goes_on_and_old_keys_can_be_dropped() {
    let place = Place::new();
    let updates = place.open();
    let recipients = vec![updates.recipient().unwrap()];
    let sealed = |epoch, id| Draft { recipients: recipients.clone(), ..draft(epoch, json!({"id": id})) };
    updates.accept(&place.sign(sealed(1, 1))).unwrap();
    for purpose in [Purpose::Encryption, Purpose::Cache] {
        place.keyring.rotate(purpose).unwrap();
    }
    assert_ne!(updates.recipient().unwrap(), recipients[0]);
    updates.accept(&place.sign(sealed(2, 2))).unwrap();
    updates.reseal().unwrap();
    for purpose in [Purpose::Encryption, Purpose::Cache] {
        place.keyring.drop_version(purpose, KeyVersion(1)).unwrap();
    }
    let updates = place.open();
    assert_eq!(id(&updates).await, Some(2));
    assert!(matches!(refusal(&updates, &place.sign(sealed(3, 3))), Refusal::Recipient));
}

#[test]
fn a_state_that_was_removed_or_put_back_is_an_error_until_a_person_begins_anew() {
    let place = Place::new();
    let updates = place.open();
    let (one, two) = (place.sign(draft(1, json!({"id": 1}))), place.sign(draft(2, json!({"id": 2}))));
    updates.accept(&one).unwrap();
    let file = place.settings().file;
    let older = fs::read(&file).unwrap();
    updates.accept(&two).unwrap();
    let again = || Updates::open(place.settings(), place.keyring.clone());
    fs::write(&file, &older).unwrap();
    assert!(matches!(again().unwrap_err(), UpdatesError::State(WitnessError::Older { .. })));
    assert!(matches!(updates.accept(&one), Err(UpdatesError::State(_))));
    assert_eq!(updates.status().last_refusal.unwrap().0, "not_kept");
    fs::remove_file(&file).unwrap();
    assert!(matches!(again().unwrap_err(), UpdatesError::Lost { .. }));
    assert!(matches!(updates.accept(&one), Err(UpdatesError::Lost { .. })));
    Updates::forget(&place.settings(), place.keyring.clone()).unwrap();
    again().unwrap().accept(&one).unwrap();
}

#[tokio::test]
async fn two_processes_share_what_one_of_them_has_accepted() {
    let place = Place::new();
    let (one, two) = (place.open(), place.open());
    let (first, second) = (place.sign(draft(1, json!({"id": 1}))), place.sign(draft(2, json!({"id": 2}))));
    one.accept(&second).unwrap();
    assert!(matches!(two.accept(&first), Err(UpdatesError::Refused(Refusal::Replayed { .. }))));
    assert!(matches!(two.accept(&second).unwrap(), Outcome::Applied { .. }));
    assert_eq!(id(&two).await, Some(2));
}

#[tokio::test]
async fn what_reads_is_told_of_an_update_and_not_of_a_refusal() {
    let place = Place::new();
    let updates = place.open();
    let mut changes = updates.changes(&model("Vlan")).unwrap();
    updates.accept(&place.sign(draft(1, json!({"id": 1})))).unwrap();
    changes.next().await.unwrap();
    refusal(&updates, b"");
    updates.accept(&place.sign(draft(1, json!({"id": 1})))).unwrap_err();
    assert!(futures::poll!(changes.next()).is_pending());
}

#[tokio::test]
async fn a_file_is_looked_at_when_it_changes_and_what_is_in_it_may_be_anything() {
    let place = Place::new();
    let updates = place.open();
    let file = place.folder.path().join("delivered.json");
    let feed = FileFeed::new(&file).every(Duration::from_millis(5)).run(updates.clone());
    let feed = tokio::spawn(feed);
    let wait = async |wanted: &dyn Fn(&Status) -> bool| wait(&updates, wanted).await;
    let first = place.sign(draft(1, json!({"id": 1})));
    fs::write(&file, &first).unwrap();
    wait(&|status| status.head.is_some()).await;
    fs::write(&file, vec![b'x'; LIMIT + 100]).unwrap();
    wait(&|status| matches!(&status.last_refusal, Some((reason, _)) if *reason == "too_large")).await;
    fs::remove_file(&file).unwrap();
    fs::write(&file, place.sign(draft(2, json!({"id": 2})))).unwrap();
    wait(&|status| status.head.as_ref().is_some_and(|head| head.epoch == 2)).await;
    assert_eq!(id(&updates).await, Some(2));
    feed.abort();
}

async fn wait(updates: &Updates, wanted: &dyn Fn(&Status) -> bool) {
    let until = async {
        while !wanted(&updates.status()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until).await.unwrap();
}

#[tokio::test]
async fn a_good_update_that_could_not_be_kept_is_tried_again_without_being_delivered_again() {
    let place = Place::new();
    let updates = place.open();
    updates.accept(&place.sign(draft(1, json!({"id": 1})))).unwrap();
    fs::remove_file(place.settings().file).unwrap();
    let file = place.folder.path().join("delivered.json");
    fs::write(&file, place.sign(draft(2, json!({"id": 2})))).unwrap();
    let feed = FileFeed::new(&file).every(Duration::from_millis(5)).run(updates.clone());
    let feed = tokio::spawn(feed);
    wait(&updates, &|status| matches!(&status.last_refusal, Some(("not_kept", _)))).await;
    Updates::forget(&place.settings(), place.keyring.clone()).unwrap();
    wait(&updates, &|status| status.head.as_ref().is_some_and(|head| head.epoch == 2)).await;
    feed.abort();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn an_update_with_any_other_byte_or_cut_anywhere_is_refused_or_the_same(other in any::<u8>(), seal in any::<bool>()) {
        let place = Place::new();
        let updates = place.open();
        let recipients = if seal { vec![updates.recipient().unwrap()] } else { vec![] };
        let good = place.sign(Draft { recipients, ..draft(1, json!({"id": 1})) });
        let trust = &updates.shared.trust;
        let opened = |bytes: &[u8]| -> Option<Payload> {
            let envelope = trust.authenticate(bytes).ok()?;
            let plain = recipient::open(&place.keyring, &envelope).ok()?;
            trust.payload(&envelope, &plain).ok()
        };
        let right = opened(&good).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] = other;
            // Names of other recipients, and spaces, may be changed; what is said cannot.
            if let Some(payload) = opened(&bytes) {
                prop_assert!(payload == right, "byte {} is {}", at, other);
            }
        }
        for length in 0..good.len() {
            prop_assert!(opened(&good[..length]).is_none(), "cut to {}", length);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Envelope::parse(&bytes).is_err());
        let _ = Payload::parse(&bytes);
    }

    #[test]
    fn any_json_in_the_frame_is_read_as_it_is_written_or_refused(
        head in "[a-zA-Z0-9_-]{0,20}",
        payload in "[a-zA-Z0-9_-]{0,20}",
        more in prop::option::of("[a-z]{0,5}"),
    ) {
        let mut frame = json!({"format": 1, "head": head, "signature": "AAAA", "payload": payload});
        if let Some(more) = more {
            frame["sealed"] = json!({"sender": more, "keys": {}});
        }
        let _ = Envelope::parse(&serde_json::to_vec(&frame).unwrap());
    }

    #[test]
    fn a_public_key_is_read_as_it_is_written(text in "(ed25519:)?[A-Za-z0-9_=-]{0,48}") {
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string(), text.clone());
        }
        if let Ok(recipient) = text.parse::<Recipient>() {
            prop_assert_eq!(recipient.to_string(), text);
        }
    }
}

#[derive(Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema, crate::Config)]
struct Door {
    open: bool,
    #[serde(default)]
    codes: Vec<crate::Secret<String>>,
}

#[tokio::test]
async fn values_that_the_model_cannot_have_are_refused_as_a_whole_and_never_repeated() {
    let place = Place::new();
    let door = Model::of::<Door>().unwrap();
    let settings = Settings { models: vec![model("Vlan"), door.clone()], ..place.settings() };
    let updates = Updates::open(settings, place.keyring.clone()).unwrap();
    let recipient = updates.recipient().unwrap();
    let draft = |epoch, value: Value| {
        let items =
            vec![Item::new(&model("Vlan"), document(json!({ "id": 1 }))), Item::new(&door, document(value))];
        Draft { items, recipients: vec![recipient.clone()], ..draft(epoch, json!({})) }
    };
    for (wrong, at) in [
        (json!({ "open": CANARY }), "open: expected true or false, found text"),
        (json!({ "codes": [[CANARY]] }), "codes.0"),
        (json!({ "opne": true }), "did you mean open?"),
    ] {
        let refused = refusal(&updates, &place.sign(draft(1, wrong)));
        assert_eq!(refused.reason(), "unfit");
        let text = format!("{refused} {refused:?}");
        assert!(text.contains(at) && !text.contains(CANARY), "{text}");
        assert!(!refused.is_forgery());
        assert_eq!(id(&updates).await, None, "the other item is not taken, either");
    }
    // A part is enough: other sources have the rest. And the epoch of what was refused is not used up.
    updates.accept(&place.sign(draft(1, json!({ "codes": ["1"] })))).unwrap();
    assert_eq!(id(&updates).await, Some(1));
}
