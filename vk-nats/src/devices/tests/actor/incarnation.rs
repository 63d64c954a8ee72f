//! The token that tells a device from its copy.

use serde_json::json;

use super::super::*;
use crate::devices::bench::Bench;

#[tokio::test(start_paused = true)]
async fn an_old_incarnation_is_a_condition_and_an_event() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    let first = bench.hello(None, empty).await;
    bench.beat(empty).await;
    let second = bench.hello(Some(first.incarnation.clone()), empty).await;
    bench.beat(empty).await;
    bench.requests(3).await;
    assert_ne!(first.incarnation, second.incarnation);

    bench.hello(Some(first.incarnation), empty).await;
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let requests = bench.api.lock().unwrap().clone();
    let event = requests.iter().find(|(_, path, _)| path.ends_with("/events")).unwrap();
    assert_eq!(event.2["reason"], "IdentityConflict");
    let last = requests.iter().rfind(|(_, path, _)| path.ends_with("/nodes/pi-7/status")).unwrap();
    assert_eq!(last.2["status"]["conditions"][0]["type"], "IdentityConflict");
    assert_eq!(last.2["status"]["conditions"][0]["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn old_incarnations_one_after_the_other_are_one_event() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    for _ in 0..20 {
        bench.hello(None, empty).await;
        bench.beat(empty).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let requests = bench.api.lock().unwrap().clone();
    assert_eq!(requests.iter().filter(|(_, path, _)| path.ends_with("/events")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hello_replayed_before_the_first_message_changes_nothing() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    let first = bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;

    // The device's next hello, which shows its token, is recorded on its way and played again, with an older one,
    // before the device has said anything in the session that it opened.
    let replays = 3;
    let old = bench.sealed_hello(None, empty);
    let genuine = bench.hello(Some(first.incarnation.clone()), empty).await;
    let subject = bench.subject(UpVerb::Hello);
    for _ in 0..replays {
        let inbox = bench.inbox();
        bench.give(&subject, Some(inbox), old.clone()).await;
        bench.next().await;
    }
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(5)).await;

    let requests = bench.api.lock().unwrap().clone();
    let last = requests.iter().rfind(|(_, path, _)| path.ends_with("/nodes/pi-7/status")).unwrap();
    let kept = &last.2["metadata"]["annotations"][fleet_wire::enrollment::INCARNATION];
    assert_eq!(
        kept,
        &json!(genuine.incarnation),
        "the token that the device was given is the one that counts"
    );
    assert!(
        requests.iter().all(|(_, path, _)| !path.ends_with("/events")),
        "a conflict of identities was seen"
    );

    // What the device was told is what it shows next: it is no copy of itself.
    bench.hello(Some(genuine.incarnation), empty).await;
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.api.lock().unwrap().iter().all(|(_, path, _)| !path.ends_with("/events")));
}
