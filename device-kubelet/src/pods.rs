//! The pods of this device: what they shall be, what they are, and what is to be told of them.
//!
//! [`Pods`] is a handle that can be cloned; behind it runs one task per pod. It owns the durable desired state,
//! and never speaks to the network: whoever holds the link hands changes in with [`Pods::apply`] and takes
//! statuses and events out with [`Pods::next_reports`] and [`Pods::next_events`].

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_wire::{
    digest::Digest,
    message::{
        DesiredVersion, EventRecord, EventType, EventsReport, LogsRequest, NodeSettings, PodOutcome, PodReport,
        Refusal, RefusalCode,
    },
    name::{ContainerName, DeviceName, PodKey, PodUid},
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::runtime::Runtime;

/// What [`Pods`] has to know of its surroundings.
#[derive(Debug, Clone)]
pub struct PodsSettings {
    /// Where everything durable lies.
    pub data_dir: PathBuf,
    /// Name of the device, for `spec.nodeName` in the downward API.
    pub device: DeviceName,
    /// How long [`Pods::drain`] waits for the workers.
    pub shutdown_grace: Duration,
    /// Address of the device for `status.hostIP` in the downward API; `None` = the source address of the
    /// default route when a container is made.
    pub host_ip: Option<IpAddr>,
    /// Logs are rotated at so many bytes.
    pub log_max_bytes: u64,
    /// Whether desired state and pod states survive on disk.
    pub durability: Durability,
}

impl PodsSettings {
    /// Settings with the defaults of a device.
    pub fn new(data_dir: impl AsRef<Path>, device: DeviceName) -> Self {
        Self {
            data_dir: data_dir.as_ref().to_owned(),
            device,
            shutdown_grace: Duration::from_secs(5),
            host_ip: None,
            log_max_bytes: 10 * 1024 * 1024,
            durability: Durability::Disk,
        }
    }
}

/// Whether anything is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Desired state and pod states survive a crash and a reboot.
    Disk,
    /// Nothing survives: simulated fleets.
    Memory,
}

/// A change of the desired set.
#[derive(Debug, Clone)]
pub struct DesiredChange {
    /// Version of the set that results.
    pub version: DesiredVersion,
    /// New and changed bundles: uid, digest, exact JSON (of [`fleet_wire::message::Bundle`]).
    pub upsert: Vec<(PodUid, Digest, Box<str>)>,
    /// Pods that are no longer in the API.
    pub remove: Vec<PodUid>,
    /// [`fleet_wire::message::Delta::set_digest`]. When the set that results has it, containers of pods that
    /// are not in the set are known to be left over, and are stopped.
    pub set_digest: Digest,
    /// What the Node's owner set.
    pub node_settings: NodeSettings,
}

/// What the device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Digest of each bundle.
    pub bundles: BTreeMap<PodUid, Digest>,
    /// Newest version that is persisted; its epoch is the highest owner epoch that was obeyed.
    pub version: DesiredVersion,
    /// [`Digest::of_set`] of `bundles`.
    pub set_digest: Digest,
    /// What the Node's owner set.
    pub node_settings: NodeSettings,
}

/// One line of `device-kubelet pods`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSummary {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: PodUid,
    /// Ready containers.
    pub ready: u32,
    /// Containers.
    pub containers: u32,
    /// As kubectl's STATUS column: a phase, or the reason why it waits.
    pub status: String,
    /// Restarts of all containers.
    pub restarts: u32,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// Address in the device's pod network.
    pub ip: Option<String>,
    /// State of the pod's machine on this device, e.g. `running`.
    pub phase: String,
}

/// Where a container's log lies.
#[derive(Debug, Clone)]
pub struct LogSource {
    /// File in the CRI format (`time stream F|P line`).
    pub path: PathBuf,
    /// Turns true when nothing more will be written: the container ended.
    pub ended: watch::Receiver<bool>,
}

/// An event to be recorded; id, count and times are added by the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NewEvent {
    /// The pod concerned; `None` means the Node.
    pub pod: Option<PodKey>,
    /// The container concerned.
    pub container: Option<ContainerName>,
    /// Whether someone should look.
    pub warning: bool,
    /// CamelCase reason.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What went wrong with the desired set.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// The change is older than what the device holds.
    #[error("desired state {offered:?} is older than the device's {held:?}")]
    Stale {
        /// Version of the change.
        offered: DesiredVersion,
        /// Version that is held.
        held: DesiredVersion,
    },
    /// A bundle is not what its digest says, or not a bundle.
    #[error("bundle of pod {uid}: {problem}")]
    Bundle {
        /// The pod.
        uid: PodUid,
        /// What is wrong with it.
        problem: String,
    },
}

/// Handle to the pods of this device.
#[derive(Clone)]
pub struct Pods {
    inner: Arc<Inner>,
}

struct Inner {}

impl Pods {
    /// Loads the store, adopts running containers, starts workers for stored pods. Works without network.
    ///
    /// `stop` ends the workers; containers keep running.
    pub async fn start(
        runtime: Arc<dyn Runtime>,
        settings: PodsSettings,
        stop: CancellationToken,
    ) -> Result<Self, PodsError> {
        let _ = (runtime, settings, stop);
        Ok(Self { inner: Arc::new(Inner {}) })
    }

    /// Persists the change and hands it to the workers; refuses a version that goes back.
    ///
    /// A version equal to the held one is taken: it repairs.
    pub async fn apply(&self, change: DesiredChange) -> Result<(), PodsError> {
        let _ = (change, &self.inner);
        Ok(())
    }

    /// What the device holds.
    pub fn held(&self) -> Held {
        let bundles = BTreeMap::new();
        Held {
            set_digest: Digest::of_set(&bundles),
            bundles,
            version: DesiredVersion::default(),
            node_settings: NodeSettings::default(),
        }
    }

    /// Changes what the Node's owner set without a change of the set (it comes with each hello, too).
    pub async fn apply_node_settings(&self, settings: NodeSettings) -> Result<(), PodsError> {
        let _ = settings;
        Ok(())
    }

    /// Statuses that are not acknowledged yet; waits until there is at least one. What was handed out is
    /// offered again by the next call until it is acknowledged.
    pub async fn next_reports(&self, max: usize) -> Vec<PodReport> {
        let _ = max;
        std::future::pending().await
    }

    /// What became of a report. `Later` is offered again after a few seconds; everything else drops it.
    pub fn acknowledge(&self, outcome: &PodOutcome) {
        let _ = outcome;
    }

    /// Events that are not acknowledged yet; waits until there is at least one.
    pub async fn next_events(&self, max: usize) -> EventsReport {
        let _ = max;
        std::future::pending().await
    }

    /// These events need not be sent again.
    pub fn acknowledge_events(&self, report: &EventsReport) {
        let _ = report;
    }

    /// Queues an event, e.g. of the Node.
    pub fn record_event(&self, event: NewEvent) {
        let _ = (event, EventType::Normal, None::<EventRecord>);
    }

    /// All pods, for people.
    pub fn summaries(&self) -> Vec<PodSummary> {
        Vec::new()
    }

    /// Where the log of a container lies, or why there is none, in a kubelet's words.
    pub fn log_files(&self, request: &LogsRequest) -> Result<LogSource, Refusal> {
        Err(Refusal::new(RefusalCode::NotFound, format!("pod {:?} not found", request.pod.as_str())))
    }

    /// Waits for the workers to end after the stop token was cancelled, and writes down what they know.
    pub async fn drain(&self) {}
}
