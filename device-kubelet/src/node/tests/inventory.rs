//! The Node's status from recorded observations.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::runtime::memory::MemoryRuntime;

fn machine() -> Machine {
    Machine {
        machine_id: "b08dfa6083e7567a1921a715000001fb".into(),
        system_uuid: "10000000a1b2c3d4".into(),
        boot_id: "7a4f9a52-0a7c-4f4e-a5d4-6a7d9d6f1b11".into(),
        kernel: "6.6.31+rpt-rpi-v8".into(),
        os_image: "Debian GNU/Linux 12 (bookworm)".into(),
        processors: 4,
        memory: 3_884_364 * 1024,
        swap: Some(102_396 * 1024),
    }
}

fn image(id: &str, size: u64, names: &[&str]) -> ListedImage {
    ListedImage { id: id.into(), names: names.iter().map(|name| (*name).to_owned()).collect(), size }
}

fn inventory() -> Inventory {
    Inventory {
        files: HostFiles::at("/nowhere"),
        machine: machine(),
        sensors: Sensors::default(),
        data_dir: "/nowhere".into(),
        max_pods: 110,
        conditions: Conditions::default(),
    }
}

#[test]
fn resources_are_written_as_a_kubelet_writes_them() {
    let disk = Disk { size: 30_000_000_000, available: 20_000_000_000, inodes: 0, inodes_free: 0 };
    let (capacity, allocatable) = resources(&machine(), Some(disk), 110);
    let text = |resources: &Resources, name: &str| resources[name].0.clone();
    assert_eq!(text(&capacity, "cpu"), "4");
    assert_eq!(text(&capacity, "memory"), "3884364Ki");
    assert_eq!(text(&allocatable, "memory"), "3781964Ki");
    assert_eq!(text(&capacity, "pods"), "110");
    assert_eq!(text(&capacity, "ephemeral-storage"), "29296875Ki");
    assert_eq!(text(&allocatable, "ephemeral-storage"), "27000000000");
}

#[test]
fn the_version_is_one_that_clients_can_compare() {
    let rest = KUBELET_VERSION.strip_prefix("v1.36.0-harmony.").unwrap();
    // Numeric identifiers of a semantic version have no leading zeros.
    assert!(rest.split('.').all(|part| part.parse::<u32>().unwrap().to_string() == part), "{rest}");
}

#[test]
fn images_are_sorted_and_capped() {
    let mut all: Vec<ListedImage> = (0..60).map(|n| image(&format!("{n:02}"), n, &["a", "b"])).collect();
    all.push(image("none", 1_000, &[]));
    all.push(image("many", 2_000, &["1", "2", "3", "4", "5", "6"]));
    let listed = images(&all);
    assert_eq!(listed.len(), MAX_IMAGES);
    assert_eq!(listed[0].names.as_ref().unwrap().len(), MAX_IMAGE_NAMES);
    assert_eq!(listed[1].size_bytes, Some(59));
}

#[test]
fn only_what_matters_makes_a_new_status() {
    let mut inventory = inventory();
    let at = |second| Timestamp::from_second(second).unwrap();
    let facts = RuntimeFacts { version: "podman://4.3.1".into(), ..RuntimeFacts::default() };
    let seen = Observation::default();
    let first = inventory.status(&seen, &facts, None, at(1));
    let later = inventory.status(&seen, &facts, None, at(100));
    assert!(same(&first, &later), "only the time has passed");
    let down = RuntimeFacts { problem: Some("gone".into()), ..facts.clone() };
    let seen = Observation { runtime_problem: down.problem.clone(), ..seen };
    assert!(!same(&first, &inventory.status(&seen, &down, None, at(200))));
    let info = first.node_info.unwrap();
    assert_eq!(info.container_runtime_version, "podman://4.3.1");
    assert_eq!(info.operating_system, "linux");
    assert_eq!(info.swap.unwrap().capacity, Some(104_853_504));
}

#[test]
fn an_image_that_cannot_be_read_does_not_make_the_runtime_useless() {
    let version = || Ok("podman://4.3.1".to_owned());
    let operation = || "list images".to_owned();
    let mut facts = RuntimeFacts::default();
    facts.answered(version(), Ok(vec![image("a", 1, &["a"])]));
    let before = facts.clone();
    assert_eq!((before.problem.as_ref(), before.images.len()), (None, 1));

    let message = "layer not known".to_owned();
    facts.answered(version(), Err(RuntimeError::Refused { operation: operation(), message }));
    assert_eq!(facts, before);
    let message = "no connection".to_owned();
    facts.answered(version(), Err(RuntimeError::Unavailable { operation: operation(), message }));
    assert!(facts.problem.as_ref().unwrap().contains("does not answer"), "{:?}", facts.problem);
    assert_eq!(facts.images, before.images);
    facts.answered(version(), Ok(Vec::new()));
    assert_eq!((facts.problem, facts.images), (None, Vec::new()));
}

fn names(status: &NodeStatus) -> Vec<&str> {
    let names = status.images.iter().flatten().flat_map(|image| image.names.iter().flatten());
    names.map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn images_are_listed_when_something_hints_at_them_and_seldom_otherwise() {
    let runtime = MemoryRuntime::default();
    let hints = Hints::default();
    let (sender, mut status) = watch::channel(None);
    tokio::spawn(watch(inventory(), Arc::new(runtime.clone()), hints.clone(), sender));
    status.changed().await.unwrap();
    let began = Instant::now();

    // By hand, behind the agent's back.
    runtime.pull_image("localhost/one:1", None).await.unwrap();
    status.changed().await.unwrap();
    assert_eq!(names(status.borrow_and_update().as_ref().unwrap()), ["localhost/one:1"]);
    assert!(began.elapsed() >= LIST_IMAGES_EVERY, "{:?}", began.elapsed());

    let since = Instant::now();
    runtime.pull_image("localhost/two:1", None).await.unwrap();
    hints.images.notify_one();
    status.changed().await.unwrap();
    assert_eq!(names(status.borrow().as_ref().unwrap()).len(), 2);
    assert!(since.elapsed() <= LOOK_AT_LATEST, "{:?}", since.elapsed());
}

/// A device on which as many processes run as may, or hardly any.
fn processes(root: &Path, running: u32) {
    std::fs::create_dir_all(root.join("proc/sys/kernel")).unwrap();
    std::fs::write(root.join("proc/sys/kernel/pid_max"), "100").unwrap();
    std::fs::write(root.join("proc/loadavg"), format!("0.00 0.00 0.00 1/{running} 7\n")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_device_is_looked_at_with_heartbeats_and_without_them_a_little_later() {
    let root = tempfile::tempdir().unwrap();
    processes(root.path(), 10);
    let inventory = Inventory { files: HostFiles::at(root.path()), ..inventory() };
    let hints = Hints::default();
    let (sender, mut status) = watch::channel(None);
    tokio::spawn(watch(inventory, Arc::new(MemoryRuntime::default()), hints.clone(), sender));
    status.changed().await.unwrap();
    let began = Instant::now();

    // A heartbeat right after a look is no reason for another.
    processes(root.path(), 99);
    hints.heartbeat.notify_one();
    tokio::time::sleep(LOOK_AT_MOST).await;
    assert!(!status.has_changed().unwrap());
    // The next one is.
    hints.heartbeat.notify_one();
    status.changed().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), LOOK_AT_MOST.as_secs());
    // And then none comes: the device is away from the cluster.
    processes(root.path(), 10);
    let since = Instant::now();
    status.changed().await.unwrap();
    assert_eq!(since.elapsed().as_secs(), LOOK_AT_LATEST.as_secs());
}
