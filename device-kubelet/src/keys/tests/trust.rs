#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use fleet_wire::name::KeyVersion;
use nkeys::{KeyPair, XKey};

use super::*;

fn statement(sequence: u64) -> KeyStatement {
    KeyStatement {
        sequence,
        curve_keys: BTreeMap::from([(KeyVersion(1), XKey::new().public_key())]),
        enroller_key: None,
    }
}

#[test]
fn the_fleets_keys_need_the_pinned_signature_and_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (KeyPair::new_operator(), KeyPair::new_operator());
    let file = dir.path().join("fleet.json");
    let write = |statement: &KeyStatement, key: &KeyPair| {
        let signed = SignedKeyStatement::sign(statement, key).unwrap();
        fs::write(&file, serde_json::to_vec(&signed).unwrap()).unwrap();
    };
    let load = || Trust::load_with_file(dir.path(), &root.public_key(), &file);

    assert!(matches!(load(), Err(KeysError::Read { .. })));
    write(&statement(5), &other);
    assert!(matches!(load(), Err(KeysError::Statement { .. })));
    fs::write(&file, "{").unwrap();
    assert!(matches!(load(), Err(KeysError::StatementSyntax { .. })));
    write(&statement(5), &root);
    load().unwrap();
    load().unwrap();
    write(&statement(4), &root);
    assert!(matches!(load(), Err(KeysError::StatementRollback { found: 4, seen: 5, .. })));
    write(&statement(6), &root);
    load().unwrap();
    fs::remove_file(&file).unwrap();
    load().unwrap();
    write(&statement(5), &root);
    assert!(matches!(load(), Err(KeysError::StatementRollback { found: 5, seen: 6, .. })));
    assert_eq!(
        Trust::load(dir.path(), &root.public_key()).unwrap().sequence(),
        Some(6),
        "what is refused is not kept"
    );
}

#[test]
fn other_keys_under_an_accepted_number_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = KeyPair::new_operator();
    let mut trust = Trust::load(dir.path(), &root.public_key()).unwrap();
    assert!(matches!(trust.fleet_keys(), Err(KeysError::NoStatement)));
    let sign = |statement: &KeyStatement| SignedKeyStatement::sign(statement, &root).unwrap();
    let first = statement(1);
    assert!(trust.offer(&sign(&first)).unwrap());
    assert!(!trust.offer(&sign(&first)).unwrap(), "the same is no news");
    let error = trust.offer(&sign(&statement(1))).unwrap_err();
    assert!(matches!(error, KeysError::StatementFork { sequence: 1, .. }), "{error}");
    let again = Trust::load(dir.path(), &root.public_key()).unwrap();
    assert_eq!(again.fleet_keys().unwrap().public(), first.curve_keys);
}

#[test]
fn a_statement_without_a_usable_key_is_refused_whoever_signed_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = KeyPair::new_operator();
    let mut trust = Trust::load(dir.path(), &root.public_key()).unwrap();
    let empty = KeyStatement { curve_keys: BTreeMap::new(), ..statement(9) };
    assert!(trust.offer(&SignedKeyStatement::sign(&empty, &root).unwrap()).is_err());
    assert_eq!(trust.sequence(), None);
}

#[test]
fn what_another_fleet_said_counts_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (KeyPair::new_operator(), KeyPair::new_operator());
    let mut trust = Trust::load(dir.path(), &old.public_key()).unwrap();
    trust.offer(&SignedKeyStatement::sign(&statement(40), &old).unwrap()).unwrap();
    let mut trust = Trust::load(dir.path(), &new.public_key()).unwrap();
    assert_eq!(trust.sequence(), None);
    assert!(trust.offer(&SignedKeyStatement::sign(&statement(1), &new).unwrap()).unwrap());
}
