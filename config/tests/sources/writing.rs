//! Setting values: where they are kept, and what hides them.

use std::sync::atomic::Ordering;

use harmony_config::{ConfigError, ConfigManager, Environment, FieldPath, SourceError};
use serde_json::json;

use super::{Vlan, chain, kept::Kept, model};

fn vlan(id: u16) -> Vlan {
    Vlan { id, name: "n".to_owned(), mtu: 1500, tags: Vec::new(), switch: None }
}

#[tokio::test]
async fn what_is_set_is_kept_by_the_first_source_that_keeps_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[]);
    let written = manager.set(&vlan(5)).await.unwrap();
    assert_eq!((written.source.as_str(), written.revision, written.overridden.len()), ("kept", 1, 0));
    assert_eq!(manager.get::<Vlan>().await.unwrap(), vlan(5));
    let deleted = manager.delete::<Vlan>().await.unwrap();
    assert!(deleted.removed && deleted.still.is_empty());
    assert!(kept.item(&model()).is_none());
    assert!(!manager.delete::<Vlan>().await.unwrap().removed);
}

#[tokio::test]
async fn a_write_that_another_source_hides_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, _) = chain(folder.path(), &[("HARMONY_CONFIG_Vlan__ID", "9")]);
    let written = manager.set(&vlan(5)).await.unwrap();
    let id = FieldPath::root().join("id");
    assert_eq!(written.overridden, [(id, "variable HARMONY_CONFIG_Vlan__ID".to_owned())]);
    let deleted = manager.delete::<Vlan>().await.unwrap();
    assert_eq!(deleted.still, ["the environment"]);
}

#[tokio::test]
async fn a_chain_that_keeps_nothing_says_so() {
    let manager = ConfigManager::builder().source(Environment::new()).build();
    let error = manager.set(&vlan(1)).await.unwrap_err();
    assert!(matches!(error, ConfigError::NowhereToKeep { .. }), "{error}");
}

#[tokio::test]
async fn unknown_and_unfit_values_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[]);
    manager.register::<Vlan>().unwrap();
    let bad = json!({ "id": 70_000, "name": "n", "nmae": 1, "mtu": 1 });
    let error =
        manager.set_values("Vlan", bad.as_object().unwrap().clone(), None).await.unwrap_err().to_string();
    for expected in ["id: expected a whole number", "nmae is no field", "did you mean name?"] {
        assert!(error.contains(expected), "{error}");
    }
    let error = manager.set(&Vlan { mtu: 1, ..vlan(1) }).await.unwrap_err().to_string();
    assert!(error.contains("mtu"), "bounds hold for typed values, too: {error}");
    let error = manager.set_values("Valn", Default::default(), None).await.unwrap_err().to_string();
    assert!(error.contains("it has Vlan"), "{error}");
    assert!(kept.item(&model()).is_none());
}

#[tokio::test]
async fn one_field_is_set_and_removed_without_touching_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[]);
    manager.set(&vlan(5)).await.unwrap();
    let host: FieldPath = ["switch", "host"].into_iter().collect();
    // `switch` was null: there is no table to put a host into, until it is one.
    let switch = FieldPath::root().join("switch");
    manager.set_field("Vlan", &switch, Some(json!({ "password": "p" }))).await.unwrap();
    manager.set_field("Vlan", &host, Some(json!("h"))).await.unwrap();
    assert_eq!(manager.get::<Vlan>().await.unwrap().switch.unwrap().host, "h");
    manager.set_field("Vlan", &FieldPath::root().join("mtu"), None).await.unwrap();
    assert!(!kept.item(&model()).unwrap().values.contains_key("mtu"));
    let error = manager.set_field("Vlan", &FieldPath::root().join("idd"), Some(json!(1))).await.unwrap_err();
    assert!(error.to_string().contains("did you mean id?"), "{error}");
}

#[tokio::test]
async fn a_write_for_an_older_revision_is_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, _) = chain(folder.path(), &[]);
    manager.set(&vlan(5)).await.unwrap();
    manager.set(&vlan(6)).await.unwrap();
    let values = serde_json::to_value(vlan(7)).unwrap().as_object().unwrap().clone();
    let error = manager.set_values("Vlan", values.clone(), Some(1)).await.unwrap_err();
    let ConfigError::Source { error: SourceError::Conflict { expected: 1, found: 2, .. }, .. } = error else {
        panic!("{error}");
    };
    manager.set_values("Vlan", values, Some(2)).await.unwrap();
    assert_eq!(manager.get::<Vlan>().await.unwrap().id, 7);
}

#[tokio::test]
async fn a_keeping_source_that_is_away_is_an_error_and_not_another_source() {
    let folder = tempfile::tempdir().unwrap();
    let first = Kept::new(folder.path().join("first"));
    let second = Kept::new(folder.path().join("second"));
    let manager = ConfigManager::builder().source(first.clone()).source(second.clone()).build();
    first.away.store(true, Ordering::SeqCst);
    let error = manager.set(&vlan(1)).await.unwrap_err();
    assert!(matches!(error, ConfigError::Source { error: SourceError::Unavailable { .. }, .. }), "{error}");
    assert!(second.item(&model()).is_none());
}
