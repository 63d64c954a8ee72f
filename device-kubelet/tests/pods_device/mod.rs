//! A device with the runtime in memory, and pods for it.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use device_kubelet::{
    pods::{DesiredChange, Pods, PodsError, PodsSettings, admission::capacity::Allocatable},
    runtime::{
        Container, ContainerState, Runtime,
        memory::{MemoryOptions, MemoryRuntime},
    },
};
use fleet_wire::{
    digest::Digest,
    message::{DesiredVersion, EventRecord, NodeSettings, Outcome, PodOutcome, PodReport},
    name::{OwnerEpoch, PodUid},
};
use k8s_openapi::api::core::v1::{ContainerState as ApiState, ContainerStatus, PodStatus};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What runs until it is told to end.
pub const FOREVER: &[&str] = &["serve"];
/// Longer than any back-off, on a clock that is paused.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

pub struct Device<R = MemoryRuntime> {
    pub dir: tempfile::TempDir,
    pub allocatable: Allocatable,
    pub runtime: R,
    pub pods: Pods,
    stop: CancellationToken,
    bundles: BTreeMap<PodUid, Value>,
    sequence: u64,
    pub latest: Mutex<BTreeMap<PodUid, PodReport>>,
    pub history: Mutex<Vec<PodReport>>,
}

impl Device {
    pub async fn new(options: MemoryOptions) -> Self {
        Self::on(MemoryRuntime::new(options)).await
    }

    pub async fn with_image(image: &str) -> Self {
        Self::new(MemoryOptions { present: [image.to_owned()].into(), ..MemoryOptions::default() }).await
    }
}

impl<R: Runtime + Clone> Device<R> {
    pub async fn on(runtime: R) -> Self {
        Self::on_small(runtime, Allocatable::UNLIMITED).await
    }

    /// A device that has no more than this.
    pub async fn on_small(runtime: R, allocatable: Allocatable) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let pods = start(&runtime, dir.path(), allocatable, &stop).await;
        Self {
            dir,
            allocatable,
            runtime,
            pods,
            stop,
            bundles: BTreeMap::new(),
            sequence: 0,
            latest: Mutex::default(),
            history: Mutex::default(),
        }
    }

    /// As after `kill -9` of the agent: a new one on the same disk and runtime.
    pub async fn restart_agent(&mut self) {
        self.stop.cancel();
        self.pods.drain().await;
        self.stop = CancellationToken::new();
        self.latest.lock().unwrap().clear();
        self.pods = start(&self.runtime, self.dir.path(), self.allocatable, &self.stop).await;
    }

    pub async fn change(&mut self, upsert: Vec<Value>, remove: Vec<&str>) -> Result<(), PodsError> {
        self.sequence += 1;
        let mut changed = Vec::new();
        for bundle in upsert {
            let uid: PodUid = bundle["pod"]["metadata"]["uid"].as_str().unwrap().parse().unwrap();
            let json = bundle.to_string();
            changed.push((uid.clone(), Digest::of(json.as_bytes()), json.into_boxed_str()));
            self.bundles.insert(uid, bundle);
        }
        let remove: Vec<PodUid> = remove.into_iter().map(|uid| uid.parse().unwrap()).collect();
        for uid in &remove {
            self.bundles.remove(uid);
        }
        let digests: BTreeMap<PodUid, Digest> = self
            .bundles
            .iter()
            .map(|(uid, bundle)| (uid.clone(), Digest::of(bundle.to_string().as_bytes())))
            .collect();
        self.pods
            .apply(DesiredChange {
                version: DesiredVersion { epoch: OwnerEpoch(1), sequence: self.sequence },
                upsert: changed,
                remove,
                set_digest: Digest::of_set(&digests),
                node_settings: NodeSettings::default(),
            })
            .await
    }

    pub async fn apply(&mut self, bundle: Value) {
        self.change(vec![bundle], vec![]).await.unwrap();
    }

    pub async fn remove(&mut self, uid: &str) {
        self.change(vec![], vec![uid]).await.unwrap();
    }

    /// Deletes gracefully: what `kubectl delete` does to the object.
    pub async fn delete(&mut self, uid: &str, grace: u64) {
        let mut bundle = self.bundles[&uid.parse::<PodUid>().unwrap()].clone();
        bundle["pod"]["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
        bundle["pod"]["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.apply(bundle).await;
    }

    /// Takes reports until one of this pod satisfies the condition.
    pub async fn until(&self, uid: &str, what: &str, wanted: impl Fn(&PodReport) -> bool) -> PodReport {
        let uid: PodUid = uid.parse().unwrap();
        let waiting = async {
            loop {
                if let Some(report) = self.latest.lock().unwrap().get(&uid).filter(|report| wanted(report)) {
                    return report.clone();
                }
                for report in self.pods.next_reports(100).await {
                    self.pods.acknowledge(&PodOutcome {
                        uid: report.key.uid.clone(),
                        revision: report.revision,
                        outcome: Outcome::Taken,
                    });
                    self.history.lock().unwrap().push(report.clone());
                    self.latest.lock().unwrap().insert(report.key.uid.clone(), report);
                }
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(report) => report,
            Err(_) => {
                let last = self.latest.lock().unwrap().get(&uid).cloned();
                panic!("never {what}; last told: {:#?}", last.map(|report| report.status));
            }
        }
    }

    pub async fn until_phase(&self, uid: &str, phase: &str) -> PodStatus {
        let wanted = |report: &PodReport| report.status.phase.as_deref() == Some(phase);
        self.until(uid, phase, wanted).await.status
    }

    pub async fn until_waiting(&self, uid: &str, reason: &str) -> PodStatus {
        let wanted = |report: &PodReport| waiting(&report.status).as_deref() == Some(reason);
        self.until(uid, reason, wanted).await.status
    }

    pub async fn until_stopped(&self, uid: &str) -> PodStatus {
        self.until(uid, "stopped", |report| report.stopped).await.status
    }

    pub async fn containers(&self) -> Vec<Container> {
        self.runtime.list_containers(None).await.unwrap()
    }

    pub async fn running(&self) -> Vec<Container> {
        let mut all = self.containers().await;
        all.retain(|container| matches!(container.state, ContainerState::Running { .. }));
        all
    }

    /// All events that wait, acknowledged.
    pub async fn events(&self) -> Vec<EventRecord> {
        let mut all = Vec::new();
        while let Ok(report) =
            tokio::time::timeout(Duration::from_millis(1), self.pods.next_events(1000)).await
        {
            self.pods.acknowledge_events(&report);
            all.extend(report.events);
        }
        all
    }

    pub async fn reasons(&self) -> Vec<String> {
        self.events().await.into_iter().map(|event| event.reason).collect()
    }
}

async fn start<R: Runtime + Clone>(
    runtime: &R,
    dir: &std::path::Path,
    allocatable: Allocatable,
    stop: &CancellationToken,
) -> Pods {
    let settings = PodsSettings { allocatable, ..PodsSettings::new(dir, "pi-7".parse().unwrap()) };
    Pods::start(Arc::new(runtime.clone()), settings, stop.clone()).await.unwrap()
}

/// A bundle of a pod with this spec, in namespace `default`.
pub fn bundle(name: &str, uid: &str, spec: Value) -> Value {
    json!({
        "pod": {
            "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": 1},
            "spec": spec,
        }
    })
}

/// A bundle of a pod with one container `main`.
pub fn simple(name: &str, uid: &str, policy: &str, command: &[&str]) -> Value {
    bundle(
        name,
        uid,
        json!({
            "restartPolicy": policy,
            "containers": [{"name": "main", "image": "busybox:1", "command": command}],
        }),
    )
}

pub fn main_status(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().unwrap()[0]
}

pub fn state(status: &PodStatus) -> &ApiState {
    main_status(status).state.as_ref().unwrap()
}

pub fn waiting(status: &PodStatus) -> Option<String> {
    let statuses = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    statuses.into_iter().find_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone())
}

pub fn condition<'a>(status: &'a PodStatus, type_: &str) -> &'a k8s_openapi::api::core::v1::PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_).unwrap()
}

/// Until all that can happen now has.
pub async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

/// Files of the device's store.
pub fn files(device: &Device, folder: &str) -> Vec<PathBuf> {
    let dir = device.dir.path().join("store").join(folder);
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
