//! Logs of containers in memory, their files on disk.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, io::Write as _};

use fleet_wire::name::PodKey;
use futures::TryStreamExt as _;
use tempfile::TempDir;

use super::*;
use crate::{
    logs::{LogOptions, stream},
    runtime::{
        ContainerSpec, ResourceSpec, SandboxSpec, SecuritySpec,
        memory::{MemoryOptions, MemoryRuntime},
    },
};

const LIMITS: LogLimits = LogLimits { max_bytes: 1000, max_files: 4 };

struct Device {
    folder: TempDir,
    runtime: MemoryRuntime,
    id: ContainerId,
    ended: watch::Sender<bool>,
    written: u32,
}

impl Device {
    /// With a container that runs until it is stopped.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = MemoryRuntime::new(MemoryOptions {
            present: ["busybox:1".to_owned()].into(),
            write_logs: true,
            ..MemoryOptions::default()
        });
        let pod = PodKey {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: "u1".parse().unwrap(),
        };
        let sandbox = SandboxSpec {
            pod: pod.clone(),
            hostname: "web".to_owned(),
            host_network: false,
            host_pid: false,
            host_ipc: false,
            share_process_namespace: false,
            ports: Vec::new(),
            dns: None,
            sysctls: BTreeMap::new(),
        };
        let sandbox = runtime.run_sandbox(sandbox).await.unwrap();
        let container = ContainerSpec {
            pod,
            name: "main".parse().unwrap(),
            attempt: 0,
            image: "busybox:1".to_owned(),
            command: vec!["serve".to_owned()],
            args: Vec::new(),
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            resources: ResourceSpec::default(),
            security: SecuritySpec::default(),
            stdin: false,
            tty: false,
            stop_signal: None,
            log_path: folder.path().join("0.log"),
            log_max_bytes: LIMITS.max_bytes,
            labels: BTreeMap::new(),
        };
        let id = runtime.create_container(&sandbox.id, container).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        Self { folder, runtime, id, ended: watch::Sender::new(false), written: 0 }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("0.log")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A line of 50 bytes, as the runtime would write it.
    fn write(&mut self) {
        let line = format!("2026-11-21T10:00:00.000000001Z stdout F line {:04}\n", self.written);
        let mut file = fs::OpenOptions::new().append(true).open(self.path()).unwrap();
        file.write_all(line.as_bytes()).unwrap();
        self.written += 1;
    }

    fn agent(&self) -> tokio::task::JoinHandle<()> {
        let rotator = Rotator::new(LIMITS);
        rotator.watch(&self.id, &self.path(), self.ended.subscribe());
        let runtime = self.runtime.clone();
        tokio::spawn(async move { rotator.run(&runtime).await })
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let waiting = async {
            while !wanted(&self.names()) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(3600), waiting).await;
        assert!(waited.is_ok(), "never {what}: {:?}", self.names());
    }

    async fn shown(&self) -> String {
        let read = stream(self.path(), LogOptions::default(), self.ended.subscribe());
        String::from_utf8(read.try_collect::<Vec<_>>().await.unwrap().concat()).unwrap()
    }
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|line| format!("line {line:04}\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_log_stays_within_its_limits_and_its_follower_misses_nothing() {
    let mut device = Device::new().await;
    let agent = device.agent();
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let followed = stream(device.path(), follow, device.ended.subscribe());
    let followed = tokio::spawn(followed.try_collect::<Vec<_>>());
    for _ in 0..400 {
        device.write();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    device
        .until("rotated", |names| names.last().is_some_and(|last| last.as_str() >= "0.log.0000000006"))
        .await;
    device.ended.send_replace(true);
    let followed = String::from_utf8(followed.await.unwrap().unwrap().concat()).unwrap();
    assert_eq!(followed, lines(0..400));
    let names = device.names();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(names[0], "0.log");
    // What is left is the newest, without a gap.
    let shown = device.shown().await;
    assert!(lines(0..400).ends_with(&shown) && shown.lines().count() >= 60, "{}", shown.lines().count());
    agent.abort();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_killed_between_two_steps_is_followed_by_one_that_finishes() {
    let mut device = Device::new().await;
    for _ in 0..20 {
        device.write();
    }
    let begun = prepare(&device.path(), false, LIMITS).unwrap();
    assert!(matches!(begun.0, Step::Begin { number: 1, .. }), "{begun:?}");
    assert_eq!(device.names(), ["0.log", "0.log.0000000001"]);
    let agent = device.agent();
    let path = device.path();
    device.until("finished", |_| fs::metadata(&path).unwrap().len() == 0).await;
    device.write();
    assert_eq!(device.names(), ["0.log", "0.log.0000000001"]);
    assert_eq!(device.shown().await, lines(0..21));
    agent.abort();
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_during_a_rotation_keeps_its_log() {
    let mut device = Device::new().await;
    for _ in 0..20 {
        device.write();
    }
    // Ended, and nobody was told yet.
    device.runtime.end_container(&device.id, 1, false);
    let agent = device.agent();
    device.until("begun", |names| names.len() == 2).await;
    assert_eq!(device.shown().await, lines(0..20));
    device.ended.send_replace(true);
    device.until("undone", |names| names == ["0.log"]).await;
    assert_eq!(device.shown().await, lines(0..20));
    agent.abort();
}

#[test]
fn the_quicker_a_log_grows_the_sooner_it_is_looked_at() {
    let seconds = Duration::from_secs;
    let limits = LogLimits { max_bytes: 1000, max_files: 2 };
    assert_eq!(rest(None, 10, limits), seconds(1));
    assert_eq!(rest(Some((seconds(60), 10)), 10, limits), seconds(10));
    assert_eq!(rest(Some((seconds(10), 0)), 100, limits), seconds(10));
    assert_eq!(rest(Some((seconds(10), 0)), 800, limits), Duration::from_millis(2500));
    assert_eq!(rest(Some((seconds(1), 0)), 999, limits), seconds(1));
    assert_eq!(rest(Some((seconds(10), 900)), 2000, limits), seconds(1));
}
