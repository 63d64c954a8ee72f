//! Following settings while a program runs.

use std::{fs, sync::Arc, sync::atomic::Ordering, time::Duration};

use futures::StreamExt;
use harmony_config::{ConfigManager, File, health::Status};
use serde_json::json;

use super::{Vlan, kept::Kept, model};

const DEADLINE: Duration = Duration::from_secs(20);

fn vlan(id: u16) -> Vlan {
    Vlan { id, name: "n".to_owned(), mtu: 1500, tags: Vec::new(), switch: None }
}

async fn next<S: futures::Stream<Item = Arc<Vlan>> + Unpin>(changes: &mut S) -> u16 {
    tokio::time::timeout(DEADLINE, changes.next()).await.unwrap().unwrap().id
}

async fn until(what: impl Fn() -> bool) {
    let done = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, done).await.unwrap();
}

#[tokio::test]
async fn who_watches_sees_each_write_that_changes_something_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(folder.path());
    let manager = ConfigManager::builder().source(kept.clone()).build();
    manager.set(&vlan(1)).await.unwrap();
    let handle = manager.handle::<Vlan>().await.unwrap();
    let mut changes = manager.watch::<Vlan>().await.unwrap();
    assert_eq!(handle.current().id, 1);
    manager.set(&vlan(2)).await.unwrap();
    assert_eq!(next(&mut changes).await, 2);
    assert_eq!(handle.current().id, 2);
    assert_eq!(manager.health().epoch, 1);
    // The same value again is no change: the next thing seen is the one after it.
    let reads = kept.reads.load(Ordering::SeqCst);
    manager.set(&vlan(2)).await.unwrap();
    until(|| kept.reads.load(Ordering::SeqCst) >= reads + 2).await;
    manager.set(&vlan(3)).await.unwrap();
    assert_eq!(next(&mut changes).await, 3);
    assert_eq!(manager.health().epoch, 2);
}

#[tokio::test]
async fn an_invalid_value_is_never_seen_and_the_last_good_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Vlan.toml");
    fs::write(&path, "id = 1\nname = \"n\"\n").unwrap();
    let manager = ConfigManager::builder().source(File::folder(folder.path())).build();
    let handle = manager.handle::<Vlan>().await.unwrap();
    let mut changes = handle.changes();
    fs::write(&path, "id = \"canary\"\nname = \"n\"\n").unwrap();
    until(|| manager.health().status == Status::Failing).await;
    assert_eq!(handle.current().id, 1);
    let error = manager.health().models[0].error.clone().unwrap().text;
    assert!(error.contains("id: expected a whole number") && !error.contains("canary"), "{error}");
    fs::write(&path, "id = 2\nname = \"n\"\n").unwrap();
    assert_eq!(next(&mut changes).await, 2);
    assert_eq!(manager.health().status, Status::Ok);
}

#[tokio::test(start_paused = true)]
async fn what_no_source_tells_of_is_found_from_time_to_time() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(folder.path());
    let manager = ConfigManager::builder().source(kept.clone()).build();
    manager.set(&vlan(1)).await.unwrap();
    let handle = manager.handle::<Vlan>().await.unwrap();
    let mut changes = handle.changes();
    let mut item = kept.item(&model()).unwrap();
    item.values["id"] = json!(9);
    kept.store(&model(), &item);
    let value = tokio::time::timeout(harmony_config::chain::LOOK_AGAIN * 2, changes.next()).await.unwrap();
    assert_eq!(value.unwrap().id, 9);
}

#[tokio::test]
async fn nothing_is_read_any_more_when_nobody_watches() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(folder.path());
    let manager = ConfigManager::builder().source(kept.clone()).look_again(Duration::from_millis(1)).build();
    manager.set(&vlan(1)).await.unwrap();
    let handle = manager.handle::<Vlan>().await.unwrap();
    let again = manager.handle::<Vlan>().await.unwrap();
    assert!(Arc::ptr_eq(&handle.current(), &again.current()), "one task, one value");
    drop(handle);
    let before = kept.reads.load(Ordering::SeqCst);
    until(|| kept.reads.load(Ordering::SeqCst) > before + 2).await;
    drop(again);
    // The task is gone when its span of the manager is.
    tokio::task::yield_now().await;
    let after = kept.reads.load(Ordering::SeqCst);
    manager.get::<Vlan>().await.unwrap();
    assert!(kept.reads.load(Ordering::SeqCst) <= after + 2);
}
