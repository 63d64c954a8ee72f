//! How pods are deleted, on the runtime in memory, with the clock paused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pods_device;

use std::time::Duration;

use pods_device::{Device, FOREVER, bundle, condition, simple, state};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn graceful_deletion_stops_reports_and_leaves_nothing() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    device.delete("u1", 30).await;
    let status = device.until_stopped("u1").await;
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    let ended = state(&status).terminated.as_ref().unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (143, Some("Error")));
    assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("PodFailed"));
    assert!(device.containers().await.is_empty());
    assert!(!device.dir.path().join("pods/u1").exists());
    assert!(device.reasons().await.contains(&"Killing".to_owned()));
    device.remove("u1").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(device.pods.summaries().is_empty());
    assert!(device.pods.held().bundles.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_term_is_killed_after_its_grace() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["sleep", "100000"])).await;
    device.until_phase("u1", "Running").await;
    let before = tokio::time::Instant::now();
    device.delete("u1", 7).await;
    let status = device.until_stopped("u1").await;
    assert_eq!(state(&status).terminated.as_ref().unwrap().exit_code, 137);
    assert_eq!(before.elapsed().as_secs(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_takes_effect_during_the_first() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["sleep", "100000"])).await;
    device.until_phase("u1", "Running").await;
    device.delete("u1", 3600).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = tokio::time::Instant::now();
    device.remove("u1").await;
    while !device.pods.summaries().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
    assert!(device.containers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_paused_is_waited_for() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    let container = device.running().await.remove(0).id;
    device.runtime.pause_container(&container, true);
    device.delete("u1", 5).await;
    // The clock is paused, and stands still as long as somebody tries without a pause.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(device.running().await.len(), 1);
    assert!(device.reasons().await.contains(&"FailedKillPod".to_owned()));
    device.runtime.pause_container(&container, false);
    device.until_stopped("u1").await;
    assert!(device.containers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_has_what_the_others_left_of_the_grace() {
    let mut device = Device::with_image("busybox:1").await;
    // Neither of them ends when it is asked to.
    let stubborn = |name: &str| json!({"name": name, "image": "busybox:1", "command": ["sleep", "100000"]});
    let mut sidecar = stubborn("proxy");
    sidecar["restartPolicy"] = json!("Always");
    let spec = json!({"initContainers": [sidecar], "containers": [stubborn("main")]});
    device.apply(bundle("web", "u1", spec)).await;
    device.until_phase("u1", "Running").await;
    let before = tokio::time::Instant::now();
    device.delete("u1", 10).await;
    device.until_stopped("u1").await;
    assert_eq!(before.elapsed().as_secs(), 12);
}

#[tokio::test(start_paused = true)]
async fn the_successor_of_a_name_waits_until_the_first_is_gone() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["sleep", "100000"])).await;
    device.until_phase("u1", "Running").await;
    device.change(vec![simple("web", "u2", "Always", FOREVER)], vec!["u1"]).await.unwrap();
    device.until_phase("u2", "Running").await;
    let running = device.running().await;
    assert_eq!(running.len(), 1);
    assert_eq!(running[0].pod.uid.as_str(), "u2");
}
