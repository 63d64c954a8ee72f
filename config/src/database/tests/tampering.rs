//! Databases that were changed from outside.

use super::*;
use crate::{
    database::{DatabaseError, Filter, Finding, verify::Verification},
    source::SourceError,
};

async fn filled() -> Fixture {
    let fixture = Fixture::new();
    for n in 1..=5 {
        fixture.set("Vlan", json!({ "id": n, "password": format!("p{n}") })).await;
    }
    fixture
}

async fn verified(fixture: &Fixture) -> Verification {
    fixture.database.verify().await.unwrap()
}

const WITHOUT_TRIGGERS: &str =
    "DROP TRIGGER audit_keeps_lines; DROP TRIGGER audit_changes_no_line; DROP TRIGGER audit_appends;";

#[tokio::test]
async fn the_database_refuses_changes_of_its_log() {
    let fixture = filled().await;
    fixture.database.close().await.unwrap();
    let connection = rusqlite::Connection::open(fixture.path()).unwrap();
    for sql in [
        "UPDATE audit SET who = 'nobody' WHERE line = 2",
        "DELETE FROM audit WHERE line = 5",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE line = 2",
        "INSERT INTO audit SELECT line + 10, at, who, origin, request_id, act, name, detail, revision, before, after, hash FROM audit WHERE line = 2",
    ] {
        let refused = connection.execute_batch(sql).unwrap_err();
        assert!(refused.to_string().contains("append-only"), "{sql}: {refused}");
    }
    drop(connection);
    assert!(verified(&fixture).await.is_sound());
}

#[tokio::test]
async fn a_changed_line_is_found_and_named() {
    for column in [
        "at = at + 1",
        "who = 'eve'",
        "origin = 'x'",
        "request_id = 'x'",
        "act = 'delete'",
        "act = 'x'",
        "name = NULL",
        "detail = ''",
        "revision = revision + 1",
        "before = NULL",
        "after = before",
        "hash = zeroblob(32)",
        "hash = zeroblob(3)",
    ] {
        let fixture = filled().await;
        fixture.by_hand(&format!("{WITHOUT_TRIGGERS} UPDATE audit SET {column} WHERE line = 3;")).await;
        let findings = verified(&fixture).await.findings;
        assert!(findings.contains(&Finding::Line(3)), "{column}: {findings:?}");
        assert_eq!(findings.iter().filter(|finding| matches!(finding, Finding::Trigger(_))).count(), 3);
    }
}

#[tokio::test]
async fn a_line_taken_from_the_middle_is_found() {
    let fixture = filled().await;
    fixture
        .by_hand(&format!(
            "{WITHOUT_TRIGGERS} DELETE FROM contents WHERE line = 2; DELETE FROM audit WHERE line = 2;"
        ))
        .await;
    assert!(verified(&fixture).await.findings.contains(&Finding::Line(3)));
}

#[tokio::test]
async fn a_log_whose_end_was_cut_off_is_not_used() {
    let fixture = filled().await;
    // With everything that could give it away: the item and its values are those of line 4 again.
    fixture
        .by_hand(&format!(
            "{WITHOUT_TRIGGERS}
             UPDATE items SET (value, revision, line) =
                 (SELECT c.value, a.revision, a.line FROM contents c JOIN audit a USING (line) WHERE line = 4);
             DELETE FROM contents WHERE line = 5; DELETE FROM audit WHERE line = 5;"
        ))
        .await;
    let findings = verified(&fixture).await.findings;
    assert!(findings.contains(&Finding::End(4, 5)), "{findings:?}");
    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::RolledBack { found: 4, expected: 5, .. }), "{refused}");
    let read = fixture.database.read(&model("Vlan")).await.unwrap_err();
    assert!(matches!(read, SourceError::Tampered { .. }) && !read.is_absence(), "{read}");
    let values = document(json!({ "id": 9 }));
    let change = Change { values: &values, actor: &actor(), expected: None };
    assert!(matches!(
        fixture.database.write(&model("Vlan"), change).await,
        Err(SourceError::Tampered { .. })
    ));
}

#[tokio::test]
async fn another_line_in_the_place_of_the_last_is_not_used() {
    let fixture = filled().await;
    fixture.by_hand(&format!("{WITHOUT_TRIGGERS} UPDATE audit SET hash = (SELECT hash FROM audit WHERE line = 4) WHERE line = 5;")).await;
    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Tampered { .. }), "{refused}");
}

#[tokio::test]
async fn an_older_copy_is_noticed_and_can_be_accepted_by_a_person() {
    let fixture = filled().await;
    fixture.database.close().await.unwrap();
    let copy = fixture.folder.path().join("copy.db");
    std::fs::copy(fixture.path(), &copy).unwrap();
    fixture.set("Vlan", json!({ "id": 6 })).await;
    fixture.set("Vlan", json!({ "id": 7 })).await;
    fixture.database.close().await.unwrap();
    std::fs::rename(&copy, fixture.path()).unwrap();

    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::RolledBack { found: 5, expected: 7, .. }), "{refused}");
    assert!(refused.to_string().contains("--accept"), "{refused}");
    let line = fixture.database.accept(&actor()).await.unwrap();
    assert_eq!(line, 6);
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 5, "password": "p5" })));
    let told = fixture
        .database
        .history(&Filter { changes_only: false, limit: 1, ..Filter::default() })
        .await
        .unwrap();
    assert_eq!(told[0].line.detail.as_deref(), Some("line 7 was seen"));
    assert!(verified(&fixture).await.is_sound());
}

#[tokio::test]
async fn a_database_without_its_head_is_not_used_until_a_person_says_so() {
    let fixture = filled().await;
    let keys = fixture.folder.path().join("keys");
    let head = std::fs::read_dir(&keys).unwrap().map(|entry| entry.unwrap().path());
    let head = head.into_iter().find(|path| path.extension().is_some_and(|end| end == "head")).unwrap();
    std::fs::remove_file(&head).unwrap();
    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Headless { .. }), "{refused}");
    assert!(verified(&fixture).await.findings.contains(&Finding::Headless));
    fixture.database.accept(&actor()).await.unwrap();
    assert!(verified(&fixture).await.is_sound());
    // A head that somebody wrote himself.
    let text = std::fs::read_to_string(&head).unwrap().replace("\"line\":6", "\"line\":5");
    std::fs::write(&head, text).unwrap();
    let refused = fixture.database.list(None).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Tampered { .. }), "{refused}");
}

#[tokio::test]
async fn values_that_were_edited_by_hand_are_not_used() {
    for (edit, shows) in [
        ("UPDATE items SET value = '{\"id\":9}'", "not the ones"),
        ("UPDATE items SET value = 'x'", "no JSON"),
        ("UPDATE items SET schema_version = 'ffffffffffffffff'", "not the ones"),
        ("UPDATE items SET revision = 4", "revision"),
        (
            "UPDATE items SET (value, line) = (SELECT value, line FROM contents WHERE line = 4)",
            "other values",
        ),
        ("DELETE FROM items", "there are none"),
        (
            "UPDATE items SET value = (SELECT replace(value, '\"password\":', '\"name\":') FROM items)",
            "does not open",
        ),
    ] {
        let fixture = filled().await;
        fixture.by_hand(&format!("{edit};")).await;
        let refused = fixture.database.read(&model("Vlan")).await.unwrap_err();
        assert!(matches!(refused, SourceError::Tampered { .. }), "{edit}: {refused}");
        assert!(refused.to_string().contains(shows), "{edit}: {refused}");
        assert!(!verified(&fixture).await.is_sound(), "{edit}");
    }
}

#[tokio::test]
async fn earlier_values_that_were_edited_by_hand_are_found_and_never_brought_back() {
    let fixture = filled().await;
    fixture.by_hand("UPDATE contents SET value = '{\"id\":9}' WHERE line = 2;").await;
    let findings = verified(&fixture).await.findings;
    assert!(matches!(&*findings, [Finding::Value(place, _)] if place.contains("line 2")), "{findings:?}");
    let key = "Vlan".parse().unwrap();
    let refused = fixture.database.rollback(Some(&key), 2, None, &actor()).await;
    assert!(matches!(refused, Err(DatabaseError::Tampered { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_item_that_the_log_does_not_know_is_found() {
    let fixture = filled().await;
    fixture.by_hand("INSERT INTO items VALUES('switches', 'Port', '{}', 'x', 6, 0, 6);").await;
    assert_eq!(fixture.get("Port").await, None, "it is not used");
    assert!(matches!(&*verified(&fixture).await.findings, [Finding::Value(..)]));
}
