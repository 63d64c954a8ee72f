//! Items: reading, writing, secrets in them.

use std::os::unix::fs::PermissionsExt as _;

use futures::StreamExt as _;

use super::*;
use crate::{
    database::{Act, DatabaseError, Filter},
    source::SourceError,
};

#[tokio::test]
async fn what_was_written_is_read_again_also_by_another_connection() {
    let fixture = Fixture::new();
    let values =
        json!({ "name": "core", "vlans": [1, 2], "ratio": 0.1, "login": { "user": "a", "token": "t" } });
    let revision = fixture.set("Switch", values.clone()).await;
    let layer = fixture.again().read(&model("Switch")).await.unwrap().unwrap();
    assert_eq!(Value::Object(layer.values), values);
    assert_eq!((layer.revision, layer.version), (Some(revision), Some(model("Switch").version)));
    assert!(layer.place.ends_with("config.db, item Switch of switches"), "{}", layer.place);
    assert_eq!(fixture.get("Other").await, None);
}

#[tokio::test]
async fn secrets_are_in_no_file_of_the_folder() {
    let fixture = Fixture::new();
    let secret = |n: u32| json!({ "password": format!("{CANARY}-{n}"), "login": { "token": { "deep": CANARY } }, "n": n });
    for n in 0..30 {
        fixture.set("Switch", secret(n)).await;
    }
    // While the write-ahead log is there, and after it was folded into the file.
    assert_eq!(files_with(fixture.folder.path(), CANARY), Vec::<PathBuf>::new());
    let key = "Switch".parse().unwrap();
    let shown = fixture.database.show("switches", &key, &place("password"), &actor()).await.unwrap();
    assert_eq!(Value::Object(shown), secret(29));
    fixture.database.delete(&model("Switch"), &actor()).await.unwrap();
    fixture.database.close().await.unwrap();
    assert_eq!(files_with(fixture.folder.path(), CANARY), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn each_secret_that_is_shown_has_its_line_first() {
    let fixture = Fixture::new();
    fixture.set("Switch", json!({ "password": CANARY })).await;
    let places = [place("password"), ["login", "token"].into_iter().collect()];
    fixture.database.reveal(&model("Switch"), &places, &actor()).await.unwrap();
    fixture.database.reveal(&model("Switch"), &[], &actor()).await.unwrap();
    let all = Filter { changes_only: false, ..Filter::default() };
    let lines = fixture.database.history(&all).await.unwrap();
    let told: Vec<_> = lines.iter().map(|entry| (entry.line.act, entry.line.detail.as_deref())).collect();
    let reveal = |place| (Act::Reveal, place);
    assert_eq!(told, [reveal(None), reveal(Some("login.token")), reveal(Some("password")), (Act::Set, None)]);
    let key = "Switch".parse().unwrap();
    let refused =
        fixture.database.record(Act::Refuse, Some(&key), Some("eve may not read it"), &actor()).await;
    assert_eq!(refused.unwrap(), 5);
    fixture.by_hand("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END").await;
    let refused = fixture.database.reveal(&model("Switch"), &places, &actor()).await.unwrap_err();
    assert!(matches!(refused, SourceError::Audit { .. }), "{refused}");
    let shown = fixture.database.show("switches", &key, &place("password"), &actor()).await;
    assert!(matches!(shown, Err(DatabaseError::Audit { .. })), "{shown:?}");
    let values = document(json!({ "password": "x" }));
    let change = Change { values: &values, actor: &actor(), expected: None };
    let unwritten = fixture.database.write(&model("Switch"), change).await.unwrap_err();
    assert!(matches!(unwritten, SourceError::Audit { .. }), "{unwritten}");
    assert_eq!(fixture.get("Switch").await, Some(json!({ "password": CANARY })), "nothing was written");
}

#[tokio::test]
async fn secrets_are_in_no_list_search_or_debug_output() {
    let fixture = Fixture::new();
    fixture.set("Switch", json!({ "password": CANARY, "name": "core", "login": { "token": CANARY } })).await;
    let listed = fixture.database.list(None).await.unwrap();
    let history = fixture.database.history(&Default::default()).await.unwrap();
    let shown = format!("{listed:?} {history:?} {:?}", fixture.database);
    assert!(!shown.contains(CANARY) && shown.contains("core"), "{shown}");
    assert_eq!(listed[0].values, document(json!({ "name": "core", "login": {} })));
    assert_eq!(listed[0].secrets.len(), 2);
    assert_eq!(fixture.database.search(CANARY, None, 10).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn a_search_finds_keys_fields_and_values() {
    let fixture = Fixture::new();
    fixture
        .set("CoreSwitch", json!({ "uplink": { "speed": "10G" }, "tags": ["Edge", { "site": "Ulm" }] }))
        .await;
    fixture.set("Printer", json!({ "speed": 12, "password": "x" })).await;
    let search = async |text: &str| -> Vec<String> {
        let found = fixture.database.search(text, Some("switches"), 10).await.unwrap();
        found.into_iter().map(|found| format!("{}:{}", found.key, found.place)).collect()
    };
    assert_eq!(search("SPEED").await, ["CoreSwitch:uplink.speed", "Printer:speed"]);
    assert_eq!(search("10g").await, ["CoreSwitch:uplink.speed"]);
    assert_eq!(search("ulm").await, ["CoreSwitch:tags"]);
    assert_eq!(search("switch").await, ["CoreSwitch:"]);
    assert_eq!(search("passw").await, ["Printer:password"], "that there is a secret is none");
    assert!(fixture.database.search("speed", Some("other"), 10).await.unwrap().is_empty());
    assert_eq!(fixture.database.search("s", None, 2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_second_of_two_writers_is_told_what_he_missed() {
    let fixture = Fixture::new();
    let (model, values) = (model("Vlan"), document(json!({ "id": 1 })));
    let write = async |values: &Document, expected| {
        fixture.database.write(&model, Change { values, actor: &actor(), expected }).await
    };
    let first = write(&values, Some(0)).await.unwrap();
    let refused = write(&values, Some(0)).await.unwrap_err();
    assert!(
        matches!(refused, SourceError::Conflict { expected: 0, found, .. } if found == first),
        "{refused}"
    );
    let second = write(&document(json!({ "id": 2 })), Some(first)).await.unwrap();
    assert!(second > first);
    assert!(matches!(write(&values, Some(first)).await, Err(SourceError::Conflict { .. })));
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 2 })));
}

#[tokio::test]
async fn the_same_values_again_write_nothing() {
    let fixture = Fixture::new();
    let first = fixture.set("Vlan", json!({ "id": 1, "password": "p" })).await;
    assert_eq!(fixture.set("Vlan", json!({ "password": "p", "id": 1 })).await, first);
    assert_eq!(fixture.database.verify().await.unwrap().lines, 1);
    assert!(fixture.set("Vlan", json!({ "id": 1, "password": "q" })).await > first);
}

#[tokio::test]
async fn what_was_removed_is_gone_and_counts_on() {
    let fixture = Fixture::new();
    let first = fixture.set("Vlan", json!({ "id": 1 })).await;
    assert!(fixture.database.delete(&model("Vlan"), &actor()).await.unwrap());
    assert!(!fixture.database.delete(&model("Vlan"), &actor()).await.unwrap());
    assert_eq!(fixture.get("Vlan").await, None);
    assert!(fixture.set("Vlan", json!({ "id": 1 })).await > first + 1);
    assert!(fixture.database.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn services_do_not_see_each_others_items() {
    let fixture = Fixture::new();
    let other = open(&fixture.folder, Options { service: "printers".to_owned(), ..Options::default() });
    fixture.set("Vlan", json!({ "id": 1 })).await;
    assert_eq!(other.read(&model("Vlan")).await.unwrap(), None);
    let values = document(json!({ "id": 2 }));
    other
        .write(&model("Vlan"), Change { values: &values, actor: &actor(), expected: Some(0) })
        .await
        .unwrap();
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 1 })));
    assert_eq!(fixture.database.list(None).await.unwrap().len(), 2);
    assert_eq!(fixture.database.list(Some("printers")).await.unwrap().len(), 1);
    let epochs = fixture.database.epochs().await.unwrap();
    assert_eq!(
        epochs.into_iter().collect::<Vec<_>>(),
        [("printers".to_owned(), 2), ("switches".to_owned(), 1)]
    );
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_and_the_old_one_stays() {
    let fixture = Fixture::with(Options { limit: 1000, ..Options::default() });
    fixture.set("Vlan", json!({ "text": "short" })).await;
    let values = document(json!({ "text": "x".repeat(1000) }));
    let change = Change { values: &values, actor: &actor(), expected: None };
    let refused = fixture.database.write(&model("Vlan"), change).await.unwrap_err();
    assert!(matches!(refused, SourceError::TooLarge { limit: 1000, size: 1011, .. }), "{refused}");
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "text": "short" })));
}

#[test]
fn a_name_that_is_none_of_a_service_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    for service in ["", "a/b", "größe", "a b", "-x", &"x".repeat(65)] {
        let options = Options { service: service.to_owned(), ..Options::default() };
        let refused = Database::open(&folder.path().join("config.db"), keyring.clone(), options);
        assert!(matches!(refused, Err(DatabaseError::Service { .. })), "{service:?}");
    }
    assert!(super::super::check_service(&Options::default().service).is_ok(), "the program's name will do");
}

#[tokio::test]
async fn all_files_are_their_owners_only() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    let mut files = 0;
    for entry in std::fs::read_dir(fixture.folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode & 0o077, 0, "{:?} has mode {mode:o}", entry.path());
        files += usize::from(entry.path().is_file());
    }
    assert_eq!(files, 3, "database, write-ahead log and its index");
}

#[tokio::test]
async fn all_items_are_loaded_at_once() {
    let fixture = Fixture::new();
    for n in 0..20 {
        fixture.set(&format!("Item{n}"), json!({ "n": n, "password": format!("p{n}") })).await;
    }
    let loaded = fixture.database.load().await.unwrap();
    assert_eq!(loaded.len(), 20);
    let one = &loaded[&"Item7".parse().unwrap()];
    assert_eq!(Value::Object(one.values.clone()), json!({ "n": 7, "password": "p7" }));
}

#[tokio::test]
async fn a_listener_hears_of_its_item_whoever_wrote_it() {
    let fixture = Fixture::new();
    let other = fixture.again();
    let mut ticks = fixture.database.changes(&model("Vlan")).unwrap();
    let wait = std::time::Duration::from_secs(20);
    for n in 0..3 {
        let values = document(json!({ "id": n }));
        let writer = if n == 1 { &fixture.database } else { &other };
        writer
            .write(&model("Vlan"), Change { values: &values, actor: &actor(), expected: None })
            .await
            .unwrap();
        tokio::time::timeout(wait, ticks.next()).await.expect("a tick").unwrap();
        assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": n })));
    }
    other.delete(&model("Vlan"), &actor()).await.unwrap();
    tokio::time::timeout(wait, ticks.next()).await.expect("a tick").unwrap();
    assert_eq!(fixture.get("Vlan").await, None);
}

#[tokio::test]
async fn a_folder_that_was_deleted_is_a_first_start_again() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    std::fs::remove_dir_all(fixture.folder.path()).unwrap();
    let again = fixture.again();
    assert_eq!(again.read(&model("Vlan")).await.unwrap(), None);
    let values = document(json!({ "id": 2 }));
    again
        .write(&model("Vlan"), Change { values: &values, actor: &actor(), expected: Some(0) })
        .await
        .unwrap();
    assert!(again.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn another_file_at_the_same_path_is_noticed_without_a_restart() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    for name in ["config.db", "config.db-wal", "config.db-shm"] {
        std::fs::remove_file(fixture.folder.path().join(name)).unwrap();
    }
    assert_eq!(fixture.get("Vlan").await, None, "not what an unlinked file has");
    fixture.set("Vlan", json!({ "id": 2 })).await;
    assert_eq!(fixture.again().read(&model("Vlan")).await.unwrap().unwrap().revision, Some(1));
}

#[tokio::test]
async fn who_still_has_the_removed_file_open_takes_nothing_from_the_new_one() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    for name in ["config.db", "config.db-wal", "config.db-shm"] {
        std::fs::remove_file(fixture.folder.path().join(name)).unwrap();
    }
    let new = fixture.again();
    let values = document(json!({ "id": 2 }));
    new.write(&model("Vlan"), Change { values: &values, actor: &actor(), expected: Some(0) }).await.unwrap();
    // Lets go of the removed file, whose write-ahead log had the name that the new one's has.
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 2 })));
    new.close().await.unwrap();
    assert_eq!(new.read(&model("Vlan")).await.unwrap().unwrap().values, values);
    assert!(fixture.database.verify().await.unwrap().is_sound());
}
