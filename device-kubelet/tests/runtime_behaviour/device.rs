//! A device under test, and the words in which cases are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use device_kubelet::runtime::{
    Container, ContainerId, ContainerSpec, ContainerState, ResourceSpec, Runtime, RuntimeEvent, Sandbox,
    SandboxSpec, SecuritySpec,
    memory::{MemoryOptions, MemoryRuntime, Registry},
};
use fleet_wire::name::PodKey;
use futures::{StreamExt as _, stream::BoxStream};

use crate::podman_service::PodmanService;

/// On every device under test.
pub const IMAGE: &str = "localhost/hello:v1";
/// Nothing here takes that long, but for a machine that hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A device with an image, nothing of this case running.
pub struct Device {
    pub runtime: Arc<dyn Runtime>,
    /// A new agent on the same device.
    pub restarted: Box<dyn Fn() -> Arc<dyn Runtime> + Send + Sync>,
    /// The Podman behind it, if it is a real one.
    pub podman: Option<Arc<PodmanService>>,
    /// For logs and volumes of this case.
    pub folder: tempfile::TempDir,
    /// A port that no other case publishes.
    pub port: u16,
}

/// A pod with a fresh identity; `name` tells cases apart in listings.
pub fn pod(name: &str) -> PodKey {
    let unique: String = format!("{:032x}", rand::random::<u128>());
    PodKey {
        namespace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
        uid: unique.parse().unwrap(),
    }
}

pub fn sandbox(pod: &PodKey) -> SandboxSpec {
    SandboxSpec {
        pod: pod.clone(),
        hostname: pod.name.to_string(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        ports: Vec::new(),
        dns: None,
        sysctls: BTreeMap::new(),
    }
}

pub fn words(line: &[&str]) -> Vec<String> {
    line.iter().map(|word| (*word).to_owned()).collect()
}

impl Device {
    pub fn in_memory() -> Self {
        let runtime = MemoryRuntime::new(MemoryOptions {
            registry: Registry::Only(BTreeSet::new()),
            present: BTreeSet::from([IMAGE.to_owned()]),
            write_logs: true,
            ..MemoryOptions::default()
        });
        Self {
            runtime: Arc::new(runtime.clone()),
            restarted: Box::new(move || Arc::new(runtime.clone())),
            podman: None,
            folder: tempfile::tempdir().unwrap(),
            port: 18_080,
        }
    }

    pub fn podman(&self) -> &PodmanService {
        self.podman.as_ref().expect("a case for Podman")
    }

    pub fn log_path(&self, pod: &PodKey, attempt: u32) -> PathBuf {
        self.folder.path().join(pod.uid.as_str()).join(format!("main/{attempt}.log"))
    }

    pub fn container(&self, pod: &PodKey, command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            pod: pod.clone(),
            name: "main".parse().unwrap(),
            attempt: 0,
            image: IMAGE.to_owned(),
            command: words(command),
            args: Vec::new(),
            working_dir: None,
            env: Vec::new(),
            mounts: Vec::new(),
            resources: ResourceSpec::default(),
            security: SecuritySpec::default(),
            stdin: false,
            tty: false,
            stop_signal: None,
            log_path: self.log_path(pod, 0),
            log_max_bytes: 10 * 1024 * 1024,
            labels: BTreeMap::from([("a".to_owned(), "1".to_owned())]),
        }
    }

    /// A sandbox with one container, started.
    pub async fn run(&self, pod: &PodKey, command: &[&str]) -> (Sandbox, ContainerId) {
        let sandbox = self.runtime.run_sandbox(sandbox(pod)).await.unwrap();
        let spec = self.container(pod, command);
        let id = self.runtime.create_container(&sandbox.id, spec).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        (sandbox, id)
    }

    pub async fn see(&self, id: &ContainerId) -> Option<Container> {
        let all = self.runtime.list_containers(None).await.unwrap();
        all.into_iter().find(|container| container.id == *id)
    }

    /// Waits for the end of a container, woken by events.
    pub async fn ended(&self, id: &ContainerId) -> Ended {
        let mut events = self.runtime.events();
        within("the end of a container", async {
            loop {
                if let Some(ended) = self.see(id).await.and_then(|c| Ended::of(&c.state)) {
                    return ended;
                }
                events.next().await;
            }
        })
        .await
    }

    /// Waits until the container has said this.
    pub async fn said(&self, pod: &PodKey, text: &str) {
        let path = self.log_path(pod, 0);
        within(text, async {
            while !std::fs::read_to_string(&path).is_ok_and(|log| log.contains(text)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// What the log says, without times.
    pub fn log(&self, pod: &PodKey) -> Vec<String> {
        let log = std::fs::read_to_string(self.log_path(pod, 0)).unwrap_or_default();
        let lines = log.lines().map(|line| line.split_once(' ').map_or("", |(_, rest)| rest).to_owned());
        lines.collect()
    }

    pub async fn remove(&self, sandbox: &Sandbox) {
        self.runtime.remove_sandbox(&sandbox.id).await.unwrap();
    }
}

/// How a container ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub started: bool,
    pub exit_code: i32,
    pub oom_killed: bool,
    pub message: String,
}

impl Ended {
    pub fn of(state: &ContainerState) -> Option<Self> {
        let ContainerState::Exited { started_at, finished_at, exit_code, oom_killed, message } = state else {
            return None;
        };
        assert!(started_at.is_none_or(|started| started <= *finished_at), "{state:?}");
        Some(Self {
            started: started_at.is_some(),
            exit_code: *exit_code,
            oom_killed: *oom_killed,
            message: message.clone(),
        })
    }

    pub fn with(exit_code: i32) -> Self {
        Self { started: true, exit_code, oom_killed: false, message: String::new() }
    }
}

pub async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", DEADLINE.as_secs()),
    }
}

/// Waits until events tell of this pod.
pub async fn told(events: &mut BoxStream<'static, RuntimeEvent>, pod: &PodKey) {
    within("an event of the pod", async {
        while events.next().await != Some(RuntimeEvent::PodChanged(pod.uid.clone())) {}
    })
    .await;
}
