//! Databases across rotations of their keys.

use super::*;
use crate::{
    database::{Act, DatabaseError, Filter},
    keyring::Purpose,
};

#[tokio::test]
async fn after_a_rotation_nothing_needs_the_old_key() {
    let fixture = Fixture::new();
    fixture.set("A", json!({ "n": 1, "password": "p1", "login": { "token": [CANARY] } })).await;
    fixture.set("A", json!({ "n": 2, "password": "p2", "$sealed": "not a seal" })).await;
    fixture.set("Plain", json!({ "n": 3 })).await;
    let keyring = Keyring::open(&fixture.folder.path().join("keys")).unwrap();
    let old = keyring.newest(Purpose::Encryption).unwrap();
    keyring.rotate(Purpose::Encryption).unwrap();

    let done = fixture.database.reseal(&actor()).await.unwrap();
    assert_eq!((done.items, done.versions), (1, 2));
    keyring.drop_version(Purpose::Encryption, old).unwrap();
    assert_eq!(fixture.get("A").await, Some(json!({ "n": 2, "password": "p2", "$sealed": "not a seal" })));
    let result = fixture.database.verify().await.unwrap();
    assert!(result.is_sound() && result.unchecked == 0, "{result:?}");
    let key = "A".parse().unwrap();
    fixture.database.rollback(Some(&key), 1, None, &actor()).await.unwrap();
    assert_eq!(
        fixture.get("A").await,
        Some(json!({ "n": 1, "password": "p1", "login": { "token": [CANARY] } }))
    );
    assert_eq!(files_with(fixture.folder.path(), CANARY), Vec::<PathBuf>::new());

    let lines = fixture.database.history(&Filter::default()).await.unwrap();
    let resealed: Vec<_> = lines.iter().filter(|entry| entry.line.act == Act::Reseal).collect();
    assert_eq!(resealed.len(), 1);
    assert_eq!(resealed[0].line.before, resealed[0].line.after, "the values are the same");
    let again = fixture.database.reseal(&actor()).await.unwrap();
    assert_eq!((again.items, again.versions), (0, 0));
}

#[tokio::test]
async fn after_a_rotation_of_the_cache_key_items_are_checked_with_the_new_one() {
    let fixture = Fixture::new();
    fixture.set("A", json!({ "n": 1 })).await;
    fixture.set("A", json!({ "n": 2 })).await;
    let keyring = Keyring::open(&fixture.folder.path().join("keys")).unwrap();
    let old = keyring.newest(Purpose::Cache).unwrap();
    keyring.rotate(Purpose::Cache).unwrap();
    assert_eq!(fixture.set("A", json!({ "n": 2 })).await, 2, "the same values are still the same");
    fixture.database.reseal(&actor()).await.unwrap();
    keyring.drop_version(Purpose::Cache, old).unwrap();
    assert_eq!(fixture.get("A").await, Some(json!({ "n": 2 })));
    let result = fixture.database.verify().await.unwrap();
    assert!(result.is_sound(), "{result:?}");
    assert_eq!(
        (result.versions, result.unchecked),
        (1, 2),
        "the chain holds; earlier values cannot be compared"
    );
    let key = "A".parse().unwrap();
    let refused = fixture.database.rollback(Some(&key), 1, None, &actor()).await;
    assert!(matches!(refused, Err(DatabaseError::Keys { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_database_without_items_survives_a_rotation_too() {
    let fixture = Fixture::new();
    let keyring = Keyring::open(&fixture.folder.path().join("keys")).unwrap();
    let old = keyring.newest(Purpose::Cache).unwrap();
    keyring.rotate(Purpose::Cache).unwrap();
    fixture.database.reseal(&actor()).await.unwrap();
    keyring.drop_version(Purpose::Cache, old).unwrap();
    fixture.set("A", json!({ "n": 1 })).await;
    assert!(fixture.database.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_dropped_key_is_told_and_nothing_is_made_up() {
    let fixture = Fixture::new();
    fixture.set("A", json!({ "password": "p" })).await;
    let keyring = Keyring::open(&fixture.folder.path().join("keys")).unwrap();
    let old = keyring.newest(Purpose::Encryption).unwrap();
    keyring.rotate(Purpose::Encryption).unwrap();
    keyring.drop_version(Purpose::Encryption, old).unwrap();
    let refused = fixture.database.read(&model("A")).await.unwrap_err();
    assert!(!refused.is_absence() && refused.to_string().contains("encryption key v1"), "{refused}");
    assert!(fixture.database.reseal(&actor()).await.is_err());
}
