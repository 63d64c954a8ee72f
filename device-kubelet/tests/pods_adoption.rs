//! What survives: a killed agent, a rebooted device, a broken or full disk.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pods_device;

use std::{fs, time::Duration};

use device_kubelet::{pods::PodsError, runtime::memory::MemoryOptions};
use fleet_wire::message::{DesiredVersion, NodeSettings};
use pods_device::{Device, FOREVER, files, main_status, settle, simple, state, waiting};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_its_containers() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    let before = device.until_phase("u1", "Running").await;
    device.events().await;
    let containers = device.containers().await;
    let held = device.pods.held();
    settle().await;
    device.restart_agent().await;
    assert_eq!(device.pods.held(), held);
    settle().await;
    assert_eq!(device.containers().await, containers);
    // Same start time, same transition times: the same status.
    assert_eq!(device.until_phase("u1", "Running").await, before);
    assert!(device.events().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_also_while_an_adopted_pod_waits_for_its_volumes() {
    let mut device = Device::with_image("busybox:1").await;
    let mut wanted = simple("web", "u1", "Never", FOREVER);
    wanted["pod"]["spec"]["volumes"] = json!([{"name": "conf", "configMap": {"name": "web"}}]);
    wanted["configMaps"] = json!({"web": {"data": {"a": "1"}}});
    device.apply(wanted.clone()).await;
    device.until_phase("u1", "Running").await;
    wanted["configMaps"] = json!({});
    device.apply(wanted).await;
    settle().await;
    let containers = device.containers().await;
    device.restart_agent().await;
    device.until_phase("u1", "Running").await;
    assert_eq!(device.containers().await, containers);
    device.runtime.end_container(&containers[0].id, 3, false);
    let status = device.until_phase("u1", "Failed").await;
    assert_eq!(state(&status).terminated.as_ref().unwrap().exit_code, 3);
}

#[tokio::test(start_paused = true)]
async fn a_rebooted_device_runs_its_pods_again_and_counts_on() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.apply(simple("job", "u2", "Never", FOREVER)).await;
    device.apply(simple("done", "u3", "OnFailure", &["true"])).await;
    let before = device.until_phase("u1", "Running").await;
    device.until_phase("u2", "Running").await;
    device.until_phase("u3", "Succeeded").await;
    settle().await;
    device.runtime.power_cycle();
    device.restart_agent().await;
    let after = device
        .until("u1", "running again", |report| {
            let main = main_status(&report.status);
            main.ready && main.restart_count == 1
        })
        .await
        .status;
    assert_eq!(after.start_time, before.start_time);
    assert!(main_status(&after).last_state.as_ref().unwrap().terminated.is_some());
    let job = device.until_phase("u2", "Failed").await;
    assert!(state(&job).terminated.is_some());
    settle().await;
    assert_eq!(device.running().await.len(), 1);
    device.until_phase("u3", "Succeeded").await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_goes_on_where_it_was() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["false"])).await;
    let looping = |count: i32| {
        move |report: &fleet_wire::message::PodReport| {
            waiting(&report.status).as_deref() == Some("CrashLoopBackOff")
                && main_status(&report.status).restart_count >= count
        }
    };
    device.until("u1", "looping", looping(4)).await;
    settle().await;
    device.restart_agent().await;
    let report = device.until("u1", "looping", looping(4)).await;
    assert_eq!(main_status(&report.status).restart_count, 4);
    device.until("u1", "restarted", looping(5)).await;
}

#[tokio::test(start_paused = true)]
async fn restart_counts_go_on_when_power_is_lost_twice_and_the_index_with_it() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    for (index_is_torn, count) in [(false, 1), (false, 2), (true, 3)] {
        settle().await;
        device.runtime.power_cycle();
        if index_is_torn {
            fs::write(device.dir.path().join("store/index"), b"torn").unwrap();
        }
        device.history.lock().unwrap().clear();
        device.restart_agent().await;
        // The sync brings what was lost.
        device.apply(simple("web", "u1", "Always", FOREVER)).await;
        // At once, before anything was looked at.
        let restarts = i32::try_from(device.pods.summaries()[0].restarts).unwrap();
        assert!(restarts >= count - 1, "{restarts}");
        device
            .until("u1", "running again", |report| {
                let main = main_status(&report.status);
                main.ready && main.restart_count == count
            })
            .await;
        let history = device.history.lock().unwrap();
        let told: Vec<i32> = history.iter().map(|report| main_status(&report.status).restart_count).collect();
        assert!(told.iter().all(|told| *told >= count - 1) && told.is_sorted(), "{told:?}");
    }
}

/// Names of the logs of u1's container.
fn logs(device: &Device) -> Vec<String> {
    let entries = fs::read_dir(device.dir.path().join("logs/default_web_u1/main")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn until_logs(device: &Device, wanted: &[&str]) {
    let waiting = async {
        while logs(device) != wanted {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), waiting).await;
    assert!(waited.is_ok(), "{:?} instead of {wanted:?}", logs(device));
}

fn with_logs() -> MemoryOptions {
    MemoryOptions { present: ["busybox:1".to_owned()].into(), write_logs: true, ..MemoryOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn logs_are_rotated_also_by_an_agent_that_adopted_the_container() {
    let mut device = Device::new(with_logs()).await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    let grow = |device: &Device| {
        let log = device.dir.path().join("logs/default_web_u1/main/0.log");
        fs::File::options().write(true).open(log).unwrap().set_len(11 << 20).unwrap();
    };
    assert_eq!(logs(&device), ["0.log"]);
    grow(&device);
    until_logs(&device, &["0.log", "0.log.0000000001"]).await;
    settle().await;
    device.restart_agent().await;
    grow(&device);
    until_logs(&device, &["0.log", "0.log.0000000001", "0.log.0000000002"]).await;
    device.delete("u1", 0).await;
    device.until_stopped("u1").await;
    assert!(!device.dir.path().join("logs/default_web_u1").exists());
}

#[tokio::test(start_paused = true)]
async fn logs_of_the_last_two_instances_are_kept() {
    let mut device = Device::new(with_logs()).await;
    device.apply(simple("web", "u1", "Always", &["sh", "-c", "echo hello; exit 1"])).await;
    device
        .until("u1", "restarted", |report| {
            waiting(&report.status).as_deref() == Some("CrashLoopBackOff")
                && main_status(&report.status).restart_count == 4
        })
        .await;
    assert_eq!(logs(&device), ["3.log", "4.log"]);
    let words = fs::read_dir(device.dir.path().join("pods/u1/containers/main")).unwrap();
    assert_eq!(words.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_the_agent_did_not_live_to_end_is_ended() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["sleep", "100000"])).await;
    device.until_phase("u1", "Running").await;
    device.delete("u1", 30).await;
    settle().await;
    device.restart_agent().await;
    device.until_stopped("u1").await;
    device.restart_agent().await;
    // Nobody may have heard of it before: it is told again.
    device.until_stopped("u1").await;
    assert!(device.containers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn strays_are_stopped_when_the_set_is_known_and_not_before() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    // The index is lost: the containers run on until the cluster was heard.
    fs::write(device.dir.path().join("store/index"), b"torn").unwrap();
    device.restart_agent().await;
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(device.pods.held().bundles.is_empty());
    assert_eq!(device.running().await.len(), 1);
    assert_eq!(files(&device, "broken").len(), 1);
    device.change(vec![], vec!["u1"]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(device.containers().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_broken_bundle_is_fetched_again_and_its_containers_are_kept() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.apply(simple("api", "u2", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    device.until_phase("u2", "Running").await;
    settle().await;
    let broken = files(&device, "bundles").into_iter().find(|path| path.to_string_lossy().contains("u1"));
    fs::write(broken.unwrap(), b"{").unwrap();
    let containers = device.containers().await;
    device.restart_agent().await;
    assert_eq!(device.pods.held().bundles.len(), 1);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(device.containers().await, containers);
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    assert_eq!(device.containers().await, containers);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_did_not_live_to_remove_is_removed_by_the_next() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let record = device.dir.path().join("store/records/u1");
    let content = fs::read(&record).unwrap();
    device.remove("u1").await;
    settle().await;
    assert!(!record.exists());
    // As if it had been killed when the new set and the end of the containers were on the disk, and nothing else.
    fs::write(&record, content).unwrap();
    let volume = device.dir.path().join("pods/u1/volumes/secret");
    fs::create_dir_all(&volume).unwrap();
    device.restart_agent().await;
    settle().await;
    assert!(!volume.exists() && !record.exists());
}

#[tokio::test(start_paused = true)]
async fn what_runs_of_a_pod_that_cannot_be_read_is_kept_until_it_can_or_is_removed() {
    let mut device = Device::with_image("busybox:1").await;
    let readable = simple("web", "u1", "Always", FOREVER);
    let mut unreadable = readable.clone();
    unreadable["pod"]["spec"]["containers"] = json!([]);
    device.apply(readable.clone()).await;
    device.until_phase("u1", "Running").await;
    let containers = device.containers().await;
    device.apply(unreadable.clone()).await;
    settle().await;
    device.events().await;
    device.restart_agent().await;
    let a_look_at_everything = Duration::from_secs(90);
    tokio::time::sleep(a_look_at_everything).await;
    assert_eq!(device.containers().await, containers);
    let events = device.events().await;
    let told = events.iter().find(|event| event.reason == "DeviceUnsupported").unwrap();
    assert_eq!(told.pod.as_ref().map(|key| key.name.as_str()), Some("web"));
    assert!(told.message.contains("no containers"), "{}", told.message);

    device.apply(readable).await;
    let status = device.until_phase("u1", "Running").await;
    assert_eq!(main_status(&status).restart_count, 0);
    assert_eq!(device.containers().await, containers);

    device.apply(unreadable).await;
    settle().await;
    device.restart_agent().await;
    settle().await;
    device.remove("u1").await;
    tokio::time::sleep(a_look_at_everything).await;
    assert!(device.containers().await.is_empty());
    assert!(files(&device, "records").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_read_can_be_deleted() {
    for restarts in [false, true] {
        let mut device = Device::with_image("busybox:1").await;
        let mut wanted = simple("web", "u1", "Always", FOREVER);
        device.apply(wanted.clone()).await;
        device.until_phase("u1", "Running").await;
        wanted["pod"]["spec"]["containers"] = json!([]);
        device.apply(wanted).await;
        settle().await;
        if restarts {
            device.restart_agent().await;
            settle().await;
        }
        device.delete("u1", 5).await;
        device.until_stopped("u1").await;
        assert!(device.containers().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_record_costs_history_and_nothing_else() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let containers = device.containers().await;
    fs::write(device.dir.path().join("store/records/u1"), [0xff; 100]).unwrap();
    device.restart_agent().await;
    device.until_phase("u1", "Running").await;
    assert_eq!(device.containers().await, containers);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_while_nothing_changes() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let writes = device.pods.writes();
    assert!(writes.files <= 4, "{writes:?}");
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(device.pods.writes(), writes);
    let held = device.pods.held();
    device
        .pods
        .apply(device_kubelet::pods::DesiredChange {
            version: held.version,
            upsert: vec![],
            remove: vec![],
            set_digest: held.set_digest,
            node_settings: NodeSettings::default(),
        })
        .await
        .unwrap();
    assert_eq!(device.pods.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn versions_never_go_back_and_digests_must_match() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    let held = device.pods.held();
    let mut change = device_kubelet::pods::DesiredChange {
        version: DesiredVersion::default(),
        upsert: vec![],
        remove: vec![],
        set_digest: held.set_digest,
        node_settings: NodeSettings::default(),
    };
    assert!(matches!(device.pods.apply(change.clone()).await, Err(PodsError::Stale { .. })));
    change.version = held.version;
    change.upsert = vec![("u9".parse().unwrap(), held.set_digest, "{}".into())];
    assert!(matches!(device.pods.apply(change).await, Err(PodsError::Digest { .. })));
    assert_eq!(device.pods.held(), held);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_not_held_but_deletions_are_obeyed() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let held = device.pods.held();
    // A directory in the way of the index stands for a disk that takes nothing.
    let index = device.dir.path().join("store/index");
    fs::rename(&index, device.dir.path().join("kept")).unwrap();
    fs::create_dir(&index).unwrap();
    let refused = device.change(vec![simple("new", "u2", "Always", FOREVER)], vec!["u1"]).await;
    assert!(matches!(refused, Err(PodsError::Store(_))), "{refused:?}");
    assert_eq!(device.pods.held(), held);
    settle().await;
    assert!(device.containers().await.is_empty());
    fs::remove_dir(&index).unwrap();
    device.apply(simple("new", "u2", "Always", FOREVER)).await;
    device.until_phase("u2", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_was_away_is_looked_at_again() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    device.runtime.set_unavailable(true);
    device.apply(simple("api", "u2", "Always", FOREVER)).await;
    device.until_waiting("u2", "ContainerCreating").await;
    settle().await;
    device.runtime.set_unavailable(false);
    device.until_phase("u2", "Running").await;
    assert_eq!(device.running().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_comes_up_after_the_agent_keeps_its_containers() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("job", "u1", "Never", FOREVER)).await;
    let before = device.until_phase("u1", "Running").await;
    settle().await;
    let containers = device.containers().await;
    device.runtime.set_unavailable(true);
    device.restart_agent().await;
    settle().await;
    device.runtime.set_unavailable(false);
    assert_eq!(device.until_phase("u1", "Running").await, before);
    settle().await;
    assert_eq!(device.containers().await, containers);
}
