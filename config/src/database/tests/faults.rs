//! A database that is locked, damaged, or in a strange place.

use std::time::Duration;

use super::*;
use crate::{database::DatabaseError, source::SourceError};

fn impatient() -> Options {
    Options { patience: Duration::from_millis(100), ..Options::default() }
}

#[tokio::test]
async fn a_write_waits_no_longer_than_told_for_another_writer_and_reads_go_on() {
    let fixture = Fixture::with(impatient());
    fixture.set("Vlan", json!({ "id": 1 })).await;
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let values = document(json!({ "id": 2 }));
    let actor = actor();
    let change = || Change { values: &values, actor: &actor, expected: None };
    let refused = fixture.database.write(&model("Vlan"), change()).await.unwrap_err();
    assert!(refused.is_absence() && refused.to_string().contains("locked by another process"), "{refused}");
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 1 })));
    let revealed = fixture.database.show("switches", &"Vlan".parse().unwrap(), &place(""), &actor).await;
    assert!(matches!(revealed, Err(DatabaseError::Audit { .. })), "not shown without its line: {revealed:?}");
    other.execute_batch("ROLLBACK").unwrap();
    fixture.database.write(&model("Vlan"), change()).await.unwrap();
    assert!(fixture.database.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_database_that_another_process_has_for_itself_is_an_absence() {
    let fixture = Fixture::with(impatient());
    fixture.set("Vlan", json!({ "id": 1 })).await;
    fixture.database.close().await.unwrap();
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT").unwrap();
    let refused = fixture.database.read(&model("Vlan")).await.unwrap_err();
    assert!(matches!(refused, SourceError::Unavailable { .. }), "{refused}");
    drop(other);
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 1 })), "opened again with the next use");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_left_as_it_is() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    fixture.database.close().await.unwrap();
    let text = "not a database ".repeat(1000);
    std::fs::write(fixture.path(), &text).unwrap();
    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Corrupt { .. }), "{refused}");
    assert!(refused.to_string().contains("restore"), "{refused}");
    let read = fixture.database.read(&model("Vlan")).await.unwrap_err();
    assert!(read.is_absence(), "the last known good values step in: {read}");
    let values = document(json!({ "id": 2 }));
    let change = Change { values: &values, actor: &actor(), expected: None };
    fixture.database.write(&model("Vlan"), change).await.unwrap_err();
    assert_eq!(std::fs::read_to_string(fixture.path()).unwrap(), text, "nobody's file is overwritten");
}

#[tokio::test]
async fn damage_in_the_middle_of_the_file_is_an_error_or_found_and_never_other_values() {
    let fixture = Fixture::new();
    for n in 0..40 {
        fixture.set(&format!("Item{n}"), json!({ "text": "x".repeat(700), "n": n })).await;
    }
    fixture.database.close().await.unwrap();
    let good = std::fs::read(fixture.path()).unwrap();
    let mut refusals = 0;
    for page in 0..good.len() / 4096 {
        let mut bad = good.clone();
        for byte in &mut bad[(page * 4096).max(100)..(page + 1) * 4096] {
            *byte = !*byte;
        }
        std::fs::write(fixture.path(), &bad).unwrap();
        for n in 0..40 {
            match fixture.database.read(&model(&format!("Item{n}"))).await {
                Ok(Some(layer)) => {
                    assert_eq!(Value::Object(layer.values), json!({ "text": "x".repeat(700), "n": n }));
                }
                // A damaged index may hide an item from a search; `verify` finds that.
                Ok(None) | Err(_) => refusals += 1,
            }
        }
        let sound = fixture.database.verify().await;
        assert!(!sound.is_ok_and(|result| result.is_sound()), "page {page}");
        fixture.database.close().await.unwrap();
    }
    assert!(refusals > 40, "{refusals}");
    std::fs::write(fixture.path(), &good).unwrap();
    assert!(fixture.database.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_file_cut_short_is_an_error() {
    let fixture = Fixture::new();
    for n in 0..40 {
        fixture.set(&format!("Item{n}"), json!({ "text": "x".repeat(700) })).await;
    }
    fixture.database.close().await.unwrap();
    let good = std::fs::read(fixture.path()).unwrap();
    for keep in [1, 99, 100, 4096, good.len() / 2, good.len() - 4096, good.len() - 1] {
        std::fs::write(fixture.path(), &good[..keep]).unwrap();
        let sound = fixture.database.verify().await;
        assert!(!sound.is_ok_and(|result| result.is_sound()), "{keep} bytes");
        fixture.database.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_database_that_was_emptied_is_not_taken_for_a_first_start() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    fixture.database.close().await.unwrap();
    std::fs::write(fixture.path(), "").unwrap();
    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Corrupt { .. }), "{refused}");
}

#[tokio::test]
async fn somebody_elses_database_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1)").unwrap();
    drop(other);
    let before = std::fs::read(&path).unwrap();
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    let refused = Database::open(&path, keyring, Options::default()).unwrap_err();
    assert!(matches!(refused, DatabaseError::Foreign { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn what_is_no_file_is_called_by_its_name_and_left_as_it_is() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("folder")).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["folder", "pipe", "socket"] {
        let refused = Database::open(&at(name), keyring.clone(), Options::default()).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("/{name} is a {name}")) && text.contains("another path"), "{text}");
        // A source of which nothing can be had: what it last gave may stand in.
        assert!(refused.into_source_error("sqlite").is_absence());
    }
    assert_eq!(std::fs::read_dir(at("folder")).unwrap().count(), 0);
    drop(socket);
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_as_it_is() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    fixture.by_hand("PRAGMA user_version = 99").await;
    let refused = fixture.database.read(&model("Vlan")).await.unwrap_err();
    assert!(matches!(refused, SourceError::Malformed { .. }), "{refused}");
    assert!(refused.to_string().contains("Update the program"), "{refused}");
}

#[tokio::test]
async fn other_keys_open_nothing() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1, "password": CANARY })).await;
    let keyring = Keyring::open(&fixture.folder.path().join("others")).unwrap();
    let refused = Database::open(&fixture.path(), keyring, Options::default()).unwrap_err();
    assert!(matches!(refused, DatabaseError::Headless { .. }), "{refused}");
}

#[tokio::test]
async fn a_reader_that_gives_up_leaves_the_write_whole() {
    let fixture = Fixture::new();
    for n in 0..50 {
        let values = document(json!({ "n": n }));
        let change = Change { values: &values, actor: &actor(), expected: None };
        let model = model("Vlan");
        let mut write = fixture.database.write(&model, change);
        // Polled once, so that it is on its way, and then dropped.
        assert!(futures::poll!(&mut write).is_pending());
    }
    // It waits for the writes before it; a read would not.
    assert_eq!(fixture.database.verify().await.unwrap().lines, 50);
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "n": 49 })));
}

#[tokio::test(flavor = "current_thread")]
async fn the_runtime_goes_on_while_the_database_waits() {
    let fixture = Fixture::with(Options { patience: Duration::from_secs(600), ..Options::default() });
    fixture.set("Vlan", json!({ "id": 1 })).await;
    let other = rusqlite::Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let values = document(json!({ "id": 2 }));
    let model = model("Vlan");
    let change = Change { values: &values, actor: &actor(), expected: None };
    let free = async {
        // Were the only thread of this runtime to wait, nobody would ever let go.
        tokio::task::yield_now().await;
        other.execute_batch("ROLLBACK").unwrap();
    };
    let (written, ()) = tokio::join!(fixture.database.write(&model, change), free);
    written.unwrap();
}
