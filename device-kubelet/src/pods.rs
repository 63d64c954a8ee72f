//! The pods of this device: what they shall be, what they are, and what is to be told of them.
//!
//! [`Pods`] is a handle that can be cloned; behind it runs one task per pod. It owns the durable desired state,
//! and never speaks to the network: whoever holds the link hands changes in with [`Pods::apply`] and takes
//! statuses and events out with [`Pods::next_reports`] and [`Pods::next_events`].
//!
//! | part | what it is |
//! |---|---|
//! | [`machine`], [`states`] | the typed state machine of one pod, with its diagram |
//! | [`plan`], [`status`], [`phase`], [`conditions`], [`admission`], [`backoff`], [`mod@env`], [`qos`] | decisions: pure |
//! | [`context`], [`launch`] | effects of one pod's task |
//! | [`admitted`] | which pods were let in, and what they take of the device |
//! | [`supervisor`] | one task per pod; news of the runtime; strays |
//! | [`outbox`], [`events`] | what goes up |
//! | `erasure` | new keys for what is stored; the end of all pods |

pub mod admission;
pub mod admitted;
pub mod backoff;
pub mod clock;
pub mod conditions;
pub mod container_spec;
pub mod context;
pub mod desired;
pub mod env;
mod erasure;
pub mod events;
pub mod given;
pub mod hosts;
mod last_words;
mod launch;
pub mod machine;
pub mod observed;
pub mod outbox;
pub mod phase;
pub mod plan;
pub mod qos;
pub mod quantity;
pub mod record;
pub mod sandbox_spec;
pub mod shared;
pub mod states;
pub mod status;
mod summary;
pub mod supervisor;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_wire::{
    digest::Digest,
    message::{
        DesiredVersion, EventsReport, LogsRequest, NodeSettings, PodOutcome, PodReport, Refusal, RefusalCode,
    },
    name::{ContainerName, DeviceName, PodKey, PodUid},
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    admission::capacity::Allocatable,
    admitted::Admitted,
    clock::Clock,
    context::Order,
    desired::Desired,
    events::EventQueue,
    outbox::Outbox,
    record::PodRecord,
    shared::{Saver, Shared},
    supervisor::{Supervisor, inventory},
};
use crate::{
    images::Puller,
    logs::rotator::{LogLimits, Rotator},
    runtime::Runtime,
    sealing::{KeyFileSealer, SealingError},
    store::{Index, Loaded, Store, StoreError, Writes},
    volumes::PodDirs,
};

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
    /// How long logs of containers may become.
    pub log_limits: LogLimits,
    /// What pods may ask for together.
    pub allocatable: Allocatable,
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
            log_limits: LogLimits::DEFAULT,
            allocatable: Allocatable::UNLIMITED,
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
    /// A bundle is not what its digest says.
    #[error("bundle of pod {uid} does not match its digest {digest}")]
    Digest {
        /// The pod.
        uid: PodUid,
        /// What it should be.
        digest: Digest,
    },
    /// It cannot be kept; the device still holds what it held.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread of the agent ended.
    #[error("the agent is shutting down")]
    Stopped,
}

/// Handle to the pods of this device.
#[derive(Clone)]
pub struct Pods {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    supervisor: Arc<Supervisor>,
    store: Arc<Store>,
    index: Mutex<Index>,
    // Changes are applied one after the other.
    turn: tokio::sync::Mutex<()>,
    erasure: tokio::sync::Mutex<erasure::Owed>,
}

impl Pods {
    /// Loads the store, adopts running containers, starts workers for stored pods. Works without network.
    ///
    /// `stop` ends the workers; containers keep running.
    pub async fn start(
        runtime: Arc<dyn Runtime>,
        settings: PodsSettings,
        stop: CancellationToken,
    ) -> Result<Self, PodsError> {
        let (store, loaded) = open_store(&settings).await?;
        let store = Arc::new(store);
        let shared = Arc::new(Shared {
            runtime: runtime.clone(),
            puller: Puller::new(runtime),
            clock: Clock::default(),
            outbox: Outbox::default(),
            events: EventQueue::default(),
            saver: Saver::new(store.clone(), settings.durability),
            rotator: Rotator::new(settings.log_limits),
            admitted: Admitted::new(settings.allocatable),
            settings,
        });
        let supervisor = Supervisor::new(shared.clone(), stop);
        // At boot the runtime may come up after the agent.
        let mut seen = inventory(&shared).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the container runtime does not answer yet; pods wait for it");
            supervisor.runtime_is_unseen();
            Default::default()
        });
        if loaded.whole {
            supervisor.desired_set_is_whole();
        }
        let Loaded { index, bundles, mut records, .. } = loaded;
        let mut found = Vec::new();
        for (uid, json) in &bundles {
            let Some(desired) = supervisor.read(uid, json) else { continue };
            let record = records.remove(uid).unwrap_or_else(|| PodRecord::new(desired.key.clone()));
            let observed = seen.remove(uid).map(|(_, observed)| observed).unwrap_or_default();
            // Before any other may ask for its room.
            if record.holds_room(&observed) {
                shared.admitted.readmit(uid, &desired.spec);
            }
            found.push((desired, record, observed));
        }
        // The oldest first, as a kubelet does it.
        found.sort_by_key(|(desired, ..)| desired.meta.creation_timestamp.clone());
        for (desired, record, observed) in found {
            let order =
                Order { desired: Arc::new(desired), removed: false, node: index.node_settings.clone() };
            supervisor.order(order, Some((record, observed)));
        }
        supervisor.keep_records(records);
        let saver = shared.clone();
        supervisor.spawn("records", async move { saver.saver.run().await });
        let rotator = shared.clone();
        supervisor.spawn("logs", async move { rotator.rotator.run(&*rotator.runtime).await });
        supervisor.spawn("runtime", supervisor.clone().watch_runtime());
        let (turn, erasure) = Default::default();
        let inner = Inner { shared, supervisor, store, index: Mutex::new(index), turn, erasure };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.inner.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Persists the change and hands it to the workers; refuses a version that goes back.
    ///
    /// A version equal to the held one is taken: it repairs. If the change cannot be persisted (a full disk), the
    /// device still holds what it held, and the pods that it did not take get an Event; but pods that are to end
    /// are stopped all the same, so that a full disk can be emptied.
    pub async fn apply(&self, change: DesiredChange) -> Result<(), PodsError> {
        let _turn = self.inner.turn.lock().await;
        let mut index = self.index().clone();
        if change.version < index.version {
            return Err(PodsError::Stale { offered: change.version, held: index.version });
        }
        for (uid, digest, json) in &change.upsert {
            if Digest::of(json.as_bytes()) != *digest {
                return Err(PodsError::Digest { uid: uid.clone(), digest: *digest });
            }
        }
        index.version = change.version;
        index.node_settings = change.node_settings.clone();
        for uid in &change.remove {
            index.pods.remove(uid);
        }
        for (uid, digest, _) in &change.upsert {
            index.pods.insert(uid.clone(), *digest);
        }
        let (store, next, bundles) = (self.inner.store.clone(), index.clone(), change.upsert.clone());
        let committed = tokio::task::spawn_blocking(move || store.commit(&next, &bundles)).await;
        let committed = committed.map_err(|_| PodsError::Stopped)?;
        let whole = committed.is_ok() && Digest::of_set(&index.pods) == change.set_digest;
        let node = change.node_settings;
        for uid in &change.remove {
            self.inner.supervisor.remove(uid);
        }
        for (uid, _, json) in &change.upsert {
            let Some(desired) = self.inner.supervisor.read(uid, json) else { continue };
            match &committed {
                Err(error) if !desired.deleting() => self.record_event(not_kept(&desired, error)),
                _ => {
                    let order = Order { desired: Arc::new(desired), removed: false, node: node.clone() };
                    self.inner.supervisor.order(order, None);
                }
            }
        }
        committed?;
        *self.index() = index;
        self.inner.supervisor.modify_orders(|order| {
            let changed = order.node != node;
            order.node = node.clone();
            changed
        });
        if whole {
            self.inner.supervisor.desired_set_is_whole();
        }
        Ok(())
    }

    /// What the device holds.
    pub fn held(&self) -> Held {
        let Index { version, node_settings, pods } = self.index().clone();
        Held { set_digest: Digest::of_set(&pods), bundles: pods, version, node_settings }
    }

    /// Changes what the Node's owner set without a change of the set (it comes with each hello, too).
    pub async fn apply_node_settings(&self, settings: NodeSettings) -> Result<(), PodsError> {
        let held = self.held();
        if held.node_settings == settings {
            return Ok(());
        }
        self.apply(DesiredChange {
            version: held.version,
            upsert: Vec::new(),
            remove: Vec::new(),
            // Says nothing about whether the set is whole.
            set_digest: Digest::of(b""),
            node_settings: settings,
        })
        .await
    }

    /// Statuses that are not acknowledged yet; waits until there is at least one. What was handed out is
    /// offered again by the next call until it is acknowledged.
    pub async fn next_reports(&self, max: usize) -> Vec<PodReport> {
        self.inner.shared.outbox.next(max).await
    }

    /// All statuses are to be told again: a new session, whose other end may know none of them.
    pub fn offer_reports_again(&self) {
        self.inner.shared.outbox.offer_again();
    }

    /// What became of a report. `Later` is offered again after a few seconds; what has an answer, in a new session only,
    /// but the end of a pod every minute until the pod is gone; `Gone` drops it.
    pub fn acknowledge(&self, outcome: &PodOutcome) {
        self.inner.shared.outbox.acknowledge(outcome);
    }

    /// Events that are not acknowledged yet; waits until there is at least one.
    pub async fn next_events(&self, max: usize) -> EventsReport {
        self.inner.shared.events.next(max).await
    }

    /// These events need not be sent again.
    pub fn acknowledge_events(&self, report: &EventsReport) {
        self.inner.shared.events.acknowledge(report);
    }

    /// Queues an event, e.g. of the Node.
    pub fn record_event(&self, event: NewEvent) {
        self.inner.shared.events.record(event);
    }

    /// All pods, for people.
    pub fn summaries(&self) -> Vec<PodSummary> {
        let views = self.inner.supervisor.views();
        let mut all: Vec<PodSummary> = views.iter().map(|(key, view)| summary::summary(key, view)).collect();
        all.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
        all
    }

    /// Where the log of a container lies, or why there is none, in a kubelet's words.
    pub fn log_files(&self, request: &LogsRequest) -> Result<LogSource, Refusal> {
        let meant = |key: &PodKey| {
            key.namespace == request.namespace
                && key.name == request.pod
                && request.uid.as_ref().is_none_or(|uid| *uid == key.uid)
        };
        let mut views: Vec<_> =
            self.inner.supervisor.views().into_iter().filter(|(key, _)| meant(key)).collect();
        // Of two pods of this name, the one that is not over is meant.
        views.sort_by_key(|(_, view)| view.cleaned);
        let mut orders = self.inner.supervisor.orders();
        let found = views.into_iter().next();
        let Some((key, view, order)) =
            found.and_then(|(key, view)| orders.remove(&key.uid).map(|order| (key, view, order)))
        else {
            let message = format!("pod \"{}\" not found on this device", request.pod);
            return Err(Refusal::new(RefusalCode::NotFound, message));
        };
        let dirs = PodDirs::new(&self.inner.shared.settings.data_dir, &key);
        summary::log_source(&order.desired, &view, &dirs, request)
    }

    /// How much the store wrote since the start.
    pub fn writes(&self) -> Writes {
        self.inner.store.writes()
    }

    /// Waits for the workers to end after the stop token was cancelled, and writes down what they know.
    pub async fn drain(&self) {
        self.inner.supervisor.drain(self.inner.shared.settings.shutdown_grace).await;
    }
}

/// What people see of a pod that the device could not write down, and so does not run as it is now wanted.
fn not_kept(desired: &Desired, error: &StoreError) -> NewEvent {
    NewEvent {
        pod: Some(desired.key.clone()),
        container: None,
        warning: true,
        reason: "DeviceStorageFailed".to_owned(),
        message: format!(
            "the device does not take the pod as it is now, because it cannot write it down: {error}. It tries \
             again by itself; free space in its data folder if that is full"
        ),
    }
}

async fn open_store(settings: &PodsSettings) -> Result<(Store, Loaded<PodRecord>), PodsError> {
    if settings.durability == Durability::Memory {
        let (index, bundles, records) = Default::default();
        return Ok((Store::in_memory(), Loaded { index, bundles, records, whole: false }));
    }
    let data_dir = settings.data_dir.clone();
    let opened = tokio::task::spawn_blocking(move || {
        crate::volumes::make_private_root(&data_dir)?;
        let keys = crate::keys::directory(&data_dir).map_err(SealingError::from)?;
        let sealer = KeyFileSealer::open(&keys)?;
        Store::open(&data_dir, Box::new(sealer))
    });
    Ok(opened.await.map_err(|_| PodsError::Stopped)??)
}
