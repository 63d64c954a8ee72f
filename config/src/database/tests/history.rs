//! History and rollback.

use super::*;
use crate::database::{Act, DatabaseError, Filter, Retention};

#[tokio::test]
async fn the_history_tells_who_did_what_when_and_from_where() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "id": 1 })).await;
    fixture.set("Vlan", json!({ "id": 2 })).await;
    fixture.set("Vlan", json!({ "id": 1 })).await;
    fixture.set("Port", json!({ "id": 1 })).await;
    fixture.database.delete(&model("Vlan"), &actor()).await.unwrap();
    let all = fixture.database.history(&Filter::default()).await.unwrap();
    assert_eq!(all.iter().map(|entry| entry.line.line).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    let [deleted, port, third, second, first] = &*all else { panic!() };
    assert_eq!(first.line.actor, actor());
    assert_eq!((first.line.act, deleted.line.act), (Act::Set, Act::Delete));
    assert_eq!(first.line.before, None);
    assert_eq!((second.line.before, deleted.line.before), (first.line.after, third.line.after));
    assert_eq!(first.line.after, third.line.after, "the same values have the same hash");
    assert_ne!(first.line.after, port.line.after, "but not those of another item");
    assert_eq!(deleted.line.after, None);
    let key = Some("Vlan".parse().unwrap());
    let service = Some("switches".to_owned());
    let page = Filter { service, key, before: Some(5), limit: 2, ..Filter::default() };
    let lines: Vec<_> = fixture.database.history(&page).await.unwrap();
    assert_eq!(lines.iter().map(|entry| entry.line.line).collect::<Vec<_>>(), [3, 2]);
}

#[tokio::test]
async fn an_item_goes_back_and_that_is_a_new_revision() {
    let fixture = Fixture::new();
    let first = fixture.set("Vlan", json!({ "id": 1, "password": CANARY })).await;
    let second = fixture.set("Vlan", json!({ "id": 2, "password": "other" })).await;
    let key = "Vlan".parse().unwrap();
    let stale = fixture.database.rollback(Some(&key), first, Some(first), &actor()).await;
    assert!(matches!(stale, Err(DatabaseError::Conflict { .. })), "{stale:?}");
    let third = fixture.database.rollback(Some(&key), first, Some(second), &actor()).await.unwrap();
    assert!(third > second);
    assert_eq!(fixture.get("Vlan").await, Some(json!({ "id": 1, "password": CANARY })));
    assert_eq!(
        fixture.database.rollback(Some(&key), third, None, &actor()).await.unwrap(),
        third,
        "no change"
    );
    for unknown in [0, third + 1] {
        let refused = fixture.database.rollback(Some(&key), unknown, None, &actor()).await;
        assert!(matches!(refused, Err(DatabaseError::Missing { .. })), "{refused:?}");
    }
    let then = fixture.database.version("switches", &key, second).await.unwrap().unwrap();
    assert_eq!((then.revision, then.values), (second, document(json!({ "id": 2 }))));
    assert!(fixture.database.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_whole_service_goes_back_at_once() {
    let fixture = Fixture::new();
    fixture.set("A", json!({ "n": 1 })).await;
    fixture.set("B", json!({ "n": 1 })).await;
    let good = fixture.set("Same", json!({ "n": 1 })).await;
    fixture.set("A", json!({ "n": 2 })).await;
    fixture.database.delete(&model("B"), &actor()).await.unwrap();
    let bad = fixture.set("C", json!({ "n": 2 })).await;
    let before = fixture.database.snapshot("switches", good).await.unwrap();
    assert_eq!(before.items.keys().map(ToString::to_string).collect::<Vec<_>>(), ["A", "B", "Same"]);

    let back = fixture.database.rollback(None, good, Some(bad), &actor()).await.unwrap();
    let state: Vec<_> = [fixture.get("A").await, fixture.get("B").await, fixture.get("C").await].into();
    assert_eq!(state, [Some(json!({ "n": 1 })), Some(json!({ "n": 1 })), None]);
    let after = fixture.database.snapshot("switches", back).await.unwrap();
    assert!(before.items.iter().all(|(key, item)| after.items[key].values == item.values));
    assert_eq!(after.items.len(), 3);
    let changed: Vec<_> =
        after.items.values().filter(|item| item.revision == back).map(|item| item.key.as_str()).collect();
    assert_eq!(changed, ["A", "B"], "one revision for all of it, and none for what was the same");
    // And forward again.
    fixture.database.rollback(None, bad, None, &actor()).await.unwrap();
    assert_eq!(fixture.get("C").await, Some(json!({ "n": 2 })));
    assert_eq!(fixture.get("B").await, None);
    assert!(fixture.database.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn old_values_are_forgotten_and_that_they_were_is_not() {
    let retention = Retention { versions: 3, bytes: 1 << 20 };
    let fixture = Fixture::with(Options { retention, ..Options::default() });
    fixture.set("Rare", json!({ "n": 0 })).await;
    for n in 0..10 {
        fixture.set("Vlan", json!({ "n": n })).await;
    }
    let all = fixture.database.history(&Filter::default()).await.unwrap();
    let kept: Vec<_> = all.iter().filter(|entry| entry.is_kept).map(|entry| entry.line.line).collect();
    assert_eq!((all.len(), kept), (11, vec![11, 10, 9, 1]));
    let key = "Vlan".parse().unwrap();
    let refused = fixture.database.rollback(Some(&key), 5, None, &actor()).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Forgotten { revision: 5, oldest: 9, .. }), "{refused}");
    assert!(refused.to_string().contains("oldest"), "{refused}");
    let snapshot = fixture.database.snapshot("switches", 5).await.unwrap();
    assert_eq!((snapshot.items.len(), snapshot.forgotten.len()), (1, 1));
    assert_eq!(fixture.database.verify().await.unwrap().versions, 4);
}

#[tokio::test]
async fn large_values_are_kept_in_smaller_number() {
    let retention = Retention { versions: 20, bytes: 10_000 };
    let fixture = Fixture::with(Options { retention, ..Options::default() });
    for n in 0..10 {
        fixture.set("Vlan", json!({ "n": n, "text": "x".repeat(3_000) })).await;
    }
    assert_eq!(fixture.database.verify().await.unwrap().versions, 3);
    for n in 0..4 {
        fixture.set("Vlan", json!({ "n": n, "text": "x".repeat(30_000) })).await;
    }
    assert_eq!(fixture.database.verify().await.unwrap().versions, 2, "the way back is always there");
}

/// Rows C3 and U10: 500 items with 20 versions each are less than 10 MB.
#[tokio::test]
async fn five_hundred_items_with_twenty_versions_are_less_than_ten_megabytes() {
    let fixture = Fixture::new();
    // In one transaction for each version: what is measured is the size, not the disk.
    for version in 0..22 {
        let batch = fixture.database.thread.run(move |opened, place| {
            opened.write(place, &actor(), |writing| {
                for item in 0..500 {
                    let values = document(json!({
                        "address": format!("10.{version}.{}.{}", item / 256, item % 256),
                        "description": format!("Uplink of rack {item} to the core, as it was cabled in stage {version}"),
                        "password": format!("a password of usual length {item} {version}"),
                        "timeouts": { "connect": 5, "read": 30 + version, "retries": 3 },
                        "vlans": [10, 20, 30, version],
                    }));
                    super::super::items::set(writing, "switches", &model(&format!("Item{item}")), &values, None)?;
                }
                Ok(())
            })
        });
        batch.await.unwrap();
    }
    let result = fixture.database.verify().await.unwrap();
    assert!(result.is_sound(), "{result:?}");
    assert_eq!((result.lines, result.items, result.versions), (11_000, 500, 10_000));
    fixture.database.close().await.unwrap();
    let size = std::fs::metadata(fixture.path()).unwrap().len();
    println!("500 items with 20 versions each, 11 000 lines: {size} bytes");
    assert!(size < 10_000_000, "{size}");
}
