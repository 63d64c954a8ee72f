//! Sealing of secret places in documents.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{key::Key, model::SchemaVersion};

const CANARY: &str = "canary-7f3a-secret";

fn keys() -> (tempfile::TempDir, Keyring) {
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    (folder, keyring)
}

fn model(secrets: &[&[&str]]) -> Model {
    Model {
        key: "Vlan".parse::<Key>().unwrap(),
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: secrets.iter().map(|names| names.iter().copied().collect()).collect(),
        places: Default::default(),
    }
}

fn document(value: Value) -> Document {
    value.as_object().unwrap().clone()
}

#[test]
fn secret_places_are_sealed_and_the_others_stay_readable() {
    let (_folder, keyring) = keys();
    let model = model(&[&["password"], &["tls", "key"], &["absent"]]);
    let plain =
        document(json!({"host": "a", "password": CANARY, "tls": {"key": {"pem": CANARY}, "ca": "b"}}));
    let at_rest = seal_document(&keyring, "svc", &model, &plain).unwrap();
    let text = serde_json::to_string(&at_rest).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    assert_eq!(at_rest["host"], "a");
    assert_eq!(at_rest["tls"]["ca"], "b");
    assert!(at_rest["password"][SEALED].as_str().unwrap().starts_with("v1."));
    assert_eq!(at_rest["password"].as_object().unwrap().len(), 1);
    assert!(!at_rest.contains_key("absent"));
    assert_eq!(open_document(&keyring, "svc", &model, &at_rest).unwrap(), plain);
}

#[test]
fn a_model_that_is_secret_as_a_whole_is_one_seal() {
    let (_folder, keyring) = keys();
    let model = model(&[&[], &["password"]]);
    let plain = document(json!({"host": CANARY, "password": "x"}));
    let at_rest = seal_document(&keyring, "svc", &model, &plain).unwrap();
    assert_eq!(at_rest.keys().collect::<Vec<_>>(), [SEALED]);
    assert_eq!(open_document(&keyring, "svc", &model, &at_rest).unwrap(), plain);
}

#[test]
fn a_list_with_secrets_in_its_items_is_sealed_as_one() {
    let (_folder, keyring) = keys();
    let model = model(&[&["hosts", "password"]]);
    let plain = document(json!({"hosts": [{"name": "a", "password": CANARY}], "ports": [1]}));
    let at_rest = seal_document(&keyring, "svc", &model, &plain).unwrap();
    assert!(!serde_json::to_string(&at_rest).unwrap().contains(CANARY));
    assert_eq!(at_rest["ports"], json!([1]));
    assert_eq!(open_document(&keyring, "svc", &model, &at_rest).unwrap(), plain);
}

#[test]
fn a_sealed_value_that_was_moved_does_not_open() {
    let (_folder, keyring) = keys();
    let model = model(&[&["one"], &["two"]]);
    let plain = document(json!({"one": "1", "two": "2"}));
    let at_rest = seal_document(&keyring, "svc", &model, &plain).unwrap();
    let mut swapped = at_rest.clone();
    swapped.insert("one".to_owned(), at_rest["two"].clone());
    for (owner, document) in [("svc", &swapped), ("other", &at_rest)] {
        let error = open_document(&keyring, owner, &model, document).unwrap_err();
        assert!(matches!(error, SealError::Keyring(KeyringError::Unopenable { .. })), "{error}");
        assert!(matches!(error.into_source_error("row 1"), SourceError::Tampered { .. }));
    }
}

#[test]
fn what_only_looks_sealed_is_refused() {
    let (_folder, keyring) = keys();
    let model = model(&[&["one"]]);
    for value in [json!({SEALED: 1}), json!({SEALED: "v1.AAAA"}), json!({SEALED: "v1.AAAA", "more": 1})] {
        let error = open_document(&keyring, "svc", &model, &document(json!({"one": value}))).unwrap_err();
        assert!(matches!(error, SealError::Malformed { .. }), "{error}");
    }
}

#[test]
fn a_rotation_or_a_field_that_became_secret_asks_for_sealing() {
    let (_folder, keyring) = keys();
    let (before, after) = (model(&[&["one"]]), model(&[&["one"], &["two", "inside"]]));
    let plain = document(json!({"one": "1", "two": {"inside": "2"}}));
    let at_rest = seal_document(&keyring, "svc", &before, &plain).unwrap();
    assert!(!needs_sealing(&keyring, &before, &at_rest).unwrap());
    assert!(needs_sealing(&keyring, &after, &at_rest).unwrap());
    assert_eq!(open_document(&keyring, "svc", &after, &at_rest).unwrap(), plain, "it is still readable");
    let again = seal_document(&keyring, "svc", &after, &plain).unwrap();
    assert!(!needs_sealing(&keyring, &after, &again).unwrap());
    assert_eq!(
        open_document(&keyring, "svc", &before, &again).unwrap(),
        plain,
        "also if it is secret no more"
    );
    keyring.rotate(Purpose::Encryption).unwrap();
    assert!(needs_sealing(&keyring, &after, &again).unwrap());
}

fn json() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "secret", SEALED, ""]);
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<i32>().prop_map(Value::from),
        "[a-z]{0,5}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(name.clone(), inner, 0..4).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_sealed_opens_as_it_was_whatever_it_is(value in json()) {
        let (_folder, keyring) = keys();
        let model = model(&[&["secret"], &["a", "secret"], &["b", "a", "b"]]);
        let plain = document(json!({"a": value.clone(), "b": value.clone(), "secret": value}));
        let at_rest = seal_document(&keyring, "svc", &model, &plain).unwrap();
        prop_assert!(!needs_sealing(&keyring, &model, &at_rest).unwrap());
        prop_assert_eq!(open_document(&keyring, "svc", &model, &at_rest).unwrap(), plain);
    }

    #[test]
    fn any_document_is_opened_or_refused(value in json()) {
        let (_folder, keyring) = keys();
        let model = model(&[&["secret"]]);
        let found = document(json!({"a": value.clone(), "secret": value}));
        let _ = needs_sealing(&keyring, &model, &found);
        if let Ok(opened) = open_document(&keyring, "svc", &model, &found) {
            prop_assert_eq!(opened, found);
        }
    }
}
