//! A source that is away, with the real database keys and the real last-known-good file.

use std::{fs, path::Path, sync::atomic::Ordering};

use harmony_config::{
    Config, ConfigManager, Environment, Secret, chain::Answer, health::Status, keyring::Keyring,
    last_known_good::LastKnownGood,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Switch, Vlan, kept::Kept};

fn vlan(id: u16) -> Vlan {
    let switch = Some(Switch { host: "h".to_owned(), password: Secret::new("canary-4".to_owned()) });
    Vlan { id, name: "n".to_owned(), mtu: 1400, tags: Vec::new(), switch }
}

/// Another model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Other {
    text: String,
}

fn keyring(folder: &Path) -> Keyring {
    Keyring::open(&folder.join("keys")).unwrap()
}

fn start(folder: &Path, variables: &[(&str, &str)]) -> (ConfigManager, Kept) {
    let kept = Kept::new(folder.join("kept"));
    let keyring = Keyring::open(&folder.join("keys")).unwrap();
    let manager = ConfigManager::builder()
        .source(Environment::new().with_variables(variables.iter().copied()))
        .source(kept.clone())
        .last_known_good(LastKnownGood::open(&folder.join("config.lkg.json"), keyring).unwrap())
        .build();
    (manager, kept)
}

#[tokio::test]
async fn a_source_that_is_away_is_stood_in_for_by_what_it_last_gave_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = start(folder.path(), &[]);
    manager.set(&vlan(1)).await.unwrap();
    manager.get::<Vlan>().await.unwrap();
    kept.away.store(true, Ordering::SeqCst);
    assert_eq!(manager.get::<Vlan>().await.unwrap(), vlan(1));
    let health = manager.health();
    assert_eq!((health.status, health.last_known_good_in_use), (Status::Degraded, true));
    let error = manager.set(&vlan(2)).await.unwrap_err().to_string();
    assert!(error.contains("not mounted"), "it is read-only: {error}");

    let (manager, kept) = start(folder.path(), &[("HARMONY_CONFIG_Vlan__ID", "9")]);
    kept.away.store(true, Ordering::SeqCst);
    assert_eq!(manager.get::<Vlan>().await.unwrap(), vlan(9), "the environment still wins");
    let explanation = manager.explain::<Vlan>().await.unwrap();
    assert!(matches!(explanation.sources[1].1, Answer::LastKnownGood { .. }));
    assert!(explanation.to_string().contains("stand in, read-only"), "{explanation}");
    kept.away.store(false, Ordering::SeqCst);
    manager.get::<Vlan>().await.unwrap();
    let health = manager.health();
    assert_eq!((health.status, health.last_known_good_in_use), (Status::Ok, false));
    let file = fs::read_to_string(folder.path().join("config.lkg.json")).unwrap();
    assert!(!file.contains("canary"), "secrets are sealed there");
}

#[tokio::test]
async fn what_was_deleted_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = start(folder.path(), &[]);
    manager.set(&vlan(1)).await.unwrap();
    manager.get::<Vlan>().await.unwrap();
    manager.delete::<Vlan>().await.unwrap();
    kept.away.store(true, Ordering::SeqCst);
    let error = manager.get::<Vlan>().await.unwrap_err().to_string();
    assert!(error.contains("required settings are missing") && error.contains("not mounted"), "{error}");
}

#[tokio::test]
async fn a_file_that_was_tampered_with_is_set_aside_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let build = || ConfigManager::builder().database_in(folder.path(), "test").unwrap().build();
    build().set(&vlan(1)).await.unwrap();
    build().get::<Vlan>().await.unwrap();
    let path = folder.path().join("config.lkg.json");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"id\""), "the name of a field stands there: {text}");
    fs::write(&path, text.replace("1400", "1401")).unwrap();
    let manager = build();
    assert_eq!(manager.get::<Vlan>().await.unwrap(), vlan(1), "the database is not concerned");
    let health = manager.health();
    assert_eq!(health.status, Status::Degraded);
    assert!(health.last_known_good_error.is_some());
    assert!(health.sources[0].encryption.as_ref().unwrap().starts_with("AES-256-GCM"));
    let mut registry = prometheus_client::registry::Registry::default();
    manager.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(
        text.contains(
            "harmony_config_signature_failures_total{source=\"last-known-good\",reason=\"refused\"} 1"
        ),
        "{text}"
    );
    assert!(text.contains("harmony_config_reads_total{source=\"sqlite\",outcome=\"Gave\"} 1"), "{text}");
}

#[tokio::test]
async fn a_program_that_starts_writes_the_last_known_good_file_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.lkg.json");
    let build = || ConfigManager::builder().database_in(folder.path(), "test").unwrap().build();
    let unseen = ConfigManager::builder()
        .database_in(folder.path(), "test")
        .unwrap()
        .last_known_good(LastKnownGood::open(&folder.path().join("other"), keyring(folder.path())).unwrap())
        .build();
    unseen.set(&vlan(1)).await.unwrap();
    unseen.set(&Other { text: "t".to_owned() }).await.unwrap();
    build().require_all().of::<Vlan>().of::<Other>().check().await.unwrap();
    let kept = LastKnownGood::open(&file, keyring(folder.path())).unwrap().for_owner("test");
    assert_eq!(kept.generation().unwrap(), 1, "both models in one write");
    assert!(kept.recall("sqlite", &super::model()).unwrap().is_some());
    build().require_all().of::<Vlan>().of::<Other>().check().await.unwrap();
    assert_eq!(kept.generation().unwrap(), 1, "nothing changed");
}

#[tokio::test]
async fn services_that_share_a_folder_do_not_stand_in_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let build = |name: &str| ConfigManager::builder().database_in(folder.path(), name).unwrap().build();
    build("one").set(&vlan(1)).await.unwrap();
    build("two").set(&vlan(2)).await.unwrap();
    for (name, id) in [("one", 1), ("two", 2)] {
        build(name).get::<Vlan>().await.unwrap();
        let keyring = keyring(folder.path());
        let file = LastKnownGood::open(&folder.path().join("config.lkg.json"), keyring).unwrap();
        let recalled = file.for_owner(name).recall("sqlite", &super::model()).unwrap().unwrap();
        assert_eq!(recalled.layer.values["id"], id);
    }
}
