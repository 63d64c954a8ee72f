//! Schemas that services leave beside the database.

use super::*;
use crate::{
    database::{BackupError, BackupFolder, BackupState, MADE_UP},
    keyring::Purpose,
};

fn described(schema: Value) -> Model {
    Model::new("Vlan".parse().unwrap(), Schema::try_from(schema).unwrap(), Vec::new()).unwrap()
}

fn vlan() -> Model {
    described(json!({
        "type": "object",
        "properties": { "id": { "type": "integer" }, "password": { "type": "string", "x-secret": true } },
    }))
}

async fn write(fixture: &Fixture, model: &Model) {
    let values = document(json!({ "id": 4, "password": CANARY }));
    let change = Change { values: &values, actor: &actor(), expected: None };
    fixture.database.write(model, change).await.unwrap();
}

async fn known(fixture: &Fixture) -> Option<Value> {
    let schema = fixture.again().schema(&"Vlan".parse().unwrap()).await.unwrap();
    schema.map(|schema| schema.to_value())
}

#[tokio::test]
async fn who_writes_leaves_the_schema() {
    let fixture = Fixture::new();
    assert_eq!(known(&fixture).await, None);
    write(&fixture, &vlan()).await;
    assert_eq!(known(&fixture).await, Some(vlan().schema.to_value()));
    assert_eq!(files_with(fixture.folder.path(), CANARY), Vec::<PathBuf>::new());
    let other =
        described(json!({ "type": "object", "properties": { "id": {}, "password": { "x-secret": true } } }));
    write(&fixture, &other).await;
    assert_eq!(known(&fixture).await, Some(other.schema.to_value()), "the newest counts");
}

#[tokio::test]
async fn a_schema_that_was_changed_by_hand_or_made_up_is_not_used() {
    let fixture = Fixture::new();
    write(&fixture, &vlan()).await;
    let made_up = described(json!({ "type": "object", "properties": { "id": {} }, MADE_UP: true }));
    write(&fixture, &made_up).await;
    assert_eq!(known(&fixture).await, Some(vlan().schema.to_value()), "a made-up one replaces nothing");

    let file = fixture.folder.path().join("schemas/switches/Vlan.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("\"x-secret\":true", "\"x-secret\":false");
    assert_ne!(text, changed);
    std::fs::write(&file, changed).unwrap();
    assert_eq!(known(&fixture).await, None);
    write(&fixture, &vlan()).await;
    assert_eq!(known(&fixture).await, Some(vlan().schema.to_value()), "the next write puts it right");
}

#[tokio::test]
async fn schemas_outlive_a_rotation() {
    let fixture = Fixture::new();
    write(&fixture, &vlan()).await;
    let keyring = Keyring::open(&fixture.folder.path().join("keys")).unwrap();
    let old = keyring.newest(Purpose::Cache).unwrap();
    keyring.rotate(Purpose::Cache).unwrap();
    fixture.database.reseal(&actor()).await.unwrap();
    keyring.drop_version(Purpose::Cache, old).unwrap();
    assert_eq!(known(&fixture).await, Some(vlan().schema.to_value()));
}

#[tokio::test]
async fn a_backup_tells_how_far_it_goes() {
    let fixture = Fixture::new();
    let folder = fixture.folder.path().join("backup");
    assert!(matches!(BackupState::of(&folder), Err(BackupError::Empty { .. })));
    write(&fixture, &vlan()).await;
    for line in [1, 2] {
        let state = fixture.database.backup(&BackupFolder::at(&folder)).await.unwrap();
        let (found, at) = BackupState::of(&folder).unwrap();
        assert_eq!((found.line, state.line), (line, line));
        assert!(at.is_some());
        fixture.set("Other", json!({ "n": line })).await;
    }
}
