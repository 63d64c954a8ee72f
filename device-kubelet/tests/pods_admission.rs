//! Pods for which there is no room, on the runtime in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pods_device;

use device_kubelet::{
    pods::admission::capacity::Allocatable,
    runtime::memory::{MemoryOptions, MemoryRuntime},
};
use pods_device::{Device, bundle, settle};
use serde_json::{Value, json};

const SMALL: Allocatable =
    Allocatable { milli_cpu: 1000, memory: 1 << 30, ephemeral_storage: None, pods: 10 };

async fn device() -> Device {
    let options = MemoryOptions { present: ["busybox:1".to_owned()].into(), ..MemoryOptions::default() };
    Device::on_small(MemoryRuntime::new(options), SMALL).await
}

fn pod(name: &str, uid: &str, cpu: &str, host_port: Option<u16>) -> Value {
    let ports: Vec<Value> = host_port
        .iter()
        .map(|port| json!({"containerPort": 80, "hostPort": port, "protocol": "TCP"}))
        .collect();
    bundle(
        name,
        uid,
        json!({
            "restartPolicy": "Always",
            "containers": [{
                "name": "main", "image": "busybox:1", "command": ["serve"], "ports": ports,
                "resources": {"requests": {"cpu": cpu}},
            }],
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_room_fails_with_a_kubelets_reason_and_nothing_of_it_begins() {
    let mut device = device().await;
    device.apply(pod("large", "u1", "2", None)).await;
    let status = device.until_phase("u1", "Failed").await;
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(
        status.message.as_deref(),
        Some(
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 2000, used: 0, capacity: 1000"
        )
    );
    assert_eq!((status.container_statuses, status.conditions), (None, None));
    assert!(status.start_time.is_some());
    let events = device.events().await;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.reason, "OutOfcpu");
    assert_eq!(
        event.message,
        "Node didn't have enough resource: cpu, requested: 2000, used: 0, capacity: 1000"
    );
    assert!(device.containers().await.is_empty());
    // It stays so, over restarts, and takes no room.
    settle().await;
    device.restart_agent().await;
    assert_eq!(device.until_phase("u1", "Failed").await.reason.as_deref(), Some("OutOfcpu"));
    device.apply(pod("web", "u2", "1", None)).await;
    device.until_phase("u2", "Running").await;
    device.delete("u1", 0).await;
    assert_eq!(device.until_stopped("u1").await.reason.as_deref(), Some("OutOfcpu"));
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_let_in_again_by_an_agent_that_finds_less() {
    let mut device = device().await;
    device.apply(pod("web", "u1", "600m", Some(8080))).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    device.allocatable.milli_cpu = 500;
    device.restart_agent().await;
    device.until_phase("u1", "Running").await;
    // Its room and its port are taken, nevertheless, and also after the power was off.
    device.runtime.power_cycle();
    device.restart_agent().await;
    device.until_phase("u1", "Running").await;
    device.apply(pod("other", "u2", "0", Some(8080))).await;
    let status = device.until_phase("u2", "Failed").await;
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    assert!(status.message.unwrap().ends_with("node(s) didn't have free ports for the requested pod ports"));
    device.apply(pod("third", "u3", "1m", None)).await;
    assert_eq!(device.until_phase("u3", "Failed").await.reason.as_deref(), Some("OutOfcpu"));
}

#[tokio::test(start_paused = true)]
async fn room_is_free_again_when_a_pod_is_gone() {
    let mut device = device().await;
    device.apply(pod("web", "u1", "1", Some(8080))).await;
    device.until_phase("u1", "Running").await;
    device.delete("u1", 30).await;
    device.until_stopped("u1").await;
    device.apply(pod("next", "u2", "1", Some(8080))).await;
    device.until_phase("u2", "Running").await;
    // Deleted by force, and its successor comes at once, under the same name.
    device.change(vec![pod("next", "u3", "1", Some(8080))], vec!["u2"]).await.unwrap();
    device.until_phase("u3", "Running").await;
    assert_eq!(device.running().await.len(), 1);
}
