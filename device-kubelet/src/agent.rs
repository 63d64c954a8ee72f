//! The agent: everything together, in the order in which it has to come.
//!
//! ```text
//! data folder ─► local socket ─► membership ─► pods (run without any network) ─► inventory ─► link
//!                                    └─ may take days: somebody has to approve the device
//! ```
//!
//! It has no globals: a simulated fleet runs a thousand of them in one process.

mod enrollment;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_daemon::{
    health::{CheckHandle, Health, HealthError, HealthServer},
    nats::LinkState,
    shutdown::{DrainError, Shutdown, Tasks},
};
use fleet_wire::name::DeviceName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeStatus;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::enrollment::Identity;
pub use self::enrollment::request;
use crate::{
    enroll::EnrollError,
    keys::KeysError,
    link::{self, Link, LinkError, LinkSettings, metrics::LinkMetrics, until},
    local::{AgentStatus, Answers, ConditionStatus, LocalError, LocalServer, NatsStatus, SessionStatus},
    node::{self, Inventory, host::HostFiles},
    pods::{
        Durability, NewEvent, PodSummary, Pods, PodsError, PodsSettings, admission::capacity::Allocatable,
    },
    runtime::Runtime,
    settings::{RuntimeKind, Settings},
};

/// Why the agent did not start, or not end well.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data folder cannot be used.
    #[error("cannot use the data folder {path}: make it writable for this user, or set another data-dir")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The device's or the fleet's keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The local socket cannot be used.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The device is no member of a fleet, and cannot become one.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The pods cannot be loaded.
    #[error("cannot load the pods of this device")]
    Pods(#[from] PodsError),
    /// The link cannot be set up.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Health cannot be served.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// A part failed, or did not end in time.
    #[error(transparent)]
    Drain(#[from] DrainError),
}

/// The agent of one device.
pub struct Agent;

impl Agent {
    /// Runs until the shutdown, then ends in order; containers keep running.
    pub async fn run(
        settings: Settings,
        runtime: Arc<dyn Runtime>,
        shutdown: Shutdown,
    ) -> Result<(), AgentError> {
        // A part that fails ends this agent, not others of the same process.
        let shutdown = shutdown.child();
        let grace = settings.shutdown_grace;
        let tasks = Tasks::new(shutdown.clone());
        let started = start(settings, runtime, &tasks).await;
        let pods = match started {
            Ok(Some(pods)) => pods,
            // The shutdown came first.
            Ok(None) => return Ok(tasks.drain(grace).await?),
            Err(error) => {
                shutdown.trigger();
                // What was started before ends; why it could not go on matters more than how that went.
                let _ = tasks.drain(grace).await;
                return Err(error);
            }
        };
        shutdown.cancelled().await;
        let (drained, _) = tokio::join!(tasks.drain(grace), tokio::time::timeout(grace, pods.drain()));
        drained?;
        tracing::info!("ended; containers keep running");
        Ok(())
    }
}

async fn start(
    settings: Settings,
    runtime: Arc<dyn Runtime>,
    tasks: &Tasks,
) -> Result<Option<Pods>, AgentError> {
    let shutdown = tasks.shutdown();
    std::fs::create_dir_all(&settings.data_dir)
        .map_err(|source| AgentError::DataDir { path: settings.data_dir.clone(), source })?;
    // The socket also keeps a second agent off the same data.
    let local = LocalServer::bind(&settings.data_dir).await?;
    let identity = tokio::select! {
        identity = enrollment::identity(&settings, &local) => identity?,
        () = shutdown.cancelled() => return Ok(None),
    };
    let Identity { device, keys: device_keys, credential, standing } = identity;
    let fleet = standing.fleet_keys()?;
    tracing::info!(
        %device,
        version = env!("CARGO_PKG_VERSION"),
        identity = %device_keys.identity(),
        curve = %device_keys.curve_public(),
        "starting"
    );

    let inventory = Inventory::new(HostFiles::system(), &settings.data_dir, settings.max_pods);
    let pods_settings = pods_settings(&settings, &device, inventory.allocatable());
    let pods = Pods::start(Arc::clone(&runtime), pods_settings, shutdown.token()).await?;
    pods.record_event(NewEvent {
        pod: None,
        container: None,
        warning: false,
        reason: "Starting".to_owned(),
        message: "Starting kubelet.".to_owned(),
    });

    let mut registry = Registry::default();
    let metrics = LinkMetrics::register(&mut registry);
    registry.register_collector(Box::new(StoreWrites(pods.clone())));
    let health = Health::new();
    if let Some(addr) = settings.health_listen {
        let server = HealthServer::bind(addr, health.clone(), Arc::new(registry)).await?;
        tasks.spawn("health", server.run(shutdown.clone()));
    }

    let boot_id = inventory.boot_id().to_owned();
    let (node_sender, node_status) = watch::channel(None);
    let hints = node::Hints::default();
    let task = node::watch(inventory, runtime, hints.clone(), node_sender);
    tasks.spawn("inventory", until(shutdown, task));

    let link_settings = LinkSettings {
        device: device.clone(),
        credential: credential.clone(),
        standing,
        keep_on_revoke: settings.keep_on_revoke,
        heartbeat: settings.heartbeat_interval,
        keys: &device_keys,
        fleet,
        boot_id,
    };
    let link = link::start(link_settings, pods.clone(), node_status.clone(), hints, metrics, tasks).await?;

    let task = readiness(health.check("runtime"), health.check("session"), node_status.clone(), link.clone());
    tasks.spawn("readiness", until(shutdown, task));
    let answers = Arc::new(LocalAnswers {
        name: device.to_string(),
        nats_url: credential.nats_url,
        started: Timestamp::now(),
        pods: pods.clone(),
        node: node_status,
        link,
    });
    tasks.spawn("local socket", until(shutdown, async move { local.run(answers).await }));
    Ok(Some(pods))
}

fn pods_settings(settings: &Settings, device: &DeviceName, allocatable: Allocatable) -> PodsSettings {
    let data_dir: &Path = &settings.data_dir;
    PodsSettings {
        shutdown_grace: settings.shutdown_grace,
        log_limits: settings.log_limits,
        allocatable,
        // Containers that exist in memory only are gone after a restart: so are their pods.
        durability: match settings.runtime {
            RuntimeKind::Podman => Durability::Disk,
            RuntimeKind::Memory => Durability::Memory,
        },
        ..PodsSettings::new(data_dir, device.clone())
    }
}

/// Keeps the checks up to date.
async fn readiness(
    runtime: CheckHandle,
    session: CheckHandle,
    mut node: watch::Receiver<Option<NodeStatus>>,
    link: Link,
) {
    let (mut connection, mut view) = (link.connection.state, link.session);
    let mut membership = link.standing.follow();
    let mut away: Option<Instant> = None;
    let mut was_ready = false;
    loop {
        match node.borrow_and_update().as_ref().and_then(not_ready) {
            Some(reason) => runtime.not_ready(reason),
            None => runtime.ready(),
        }
        let connected = *connection.borrow_and_update() == LinkState::Connected;
        let now = Instant::now();
        away = if connected { None } else { away.or(Some(now)) };
        // A login that expired, or a server that restarts, is no reason to call the device not ready.
        let recheck = away.map(|since| since + AWAY).filter(|due| *due > now);
        {
            let view = view.borrow_and_update();
            let revoked = membership.borrow_and_update().revoked.is_some();
            match (connected, view.open) {
                _ if revoked => session.not_ready("this device was removed from the fleet"),
                (true, true) => {
                    was_ready = true;
                    session.ready();
                }
                (false, _) if recheck.is_some() && was_ready => {}
                (false, _) => session.not_ready("NATS cannot be reached"),
                (true, false) => session.not_ready(
                    view.problem
                        .clone()
                        .unwrap_or_else(|| "the cluster side has not answered yet".to_owned()),
                ),
            }
        }
        let changed = tokio::select! {
            changed = node.changed() => changed,
            changed = connection.changed() => changed,
            changed = view.changed() => changed,
            changed = membership.changed() => changed,
            () = at(recheck) => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// How long the connection may be away before that is a reason not to be ready.
const AWAY: Duration = Duration::from_secs(5);

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Why the node is not ready; `None` when it is.
fn not_ready(status: &NodeStatus) -> Option<String> {
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    (ready.status != "True").then(|| ready.message.clone().unwrap_or_default())
}

/// What the store wrote: flash wears.
struct StoreWrites(Pods);

impl std::fmt::Debug for StoreWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreWrites")
    }
}

impl Collector for StoreWrites {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let writes = self.0.writes();
        let counters = [
            ("device_kubelet_store_writes", "Files that the store wrote", writes.files),
            ("device_kubelet_store_written_bytes", "Bytes that the store wrote", writes.bytes),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

struct LocalAnswers {
    name: String,
    nats_url: String,
    started: Timestamp,
    pods: Pods,
    node: watch::Receiver<Option<NodeStatus>>,
    link: Link,
}

impl Answers for LocalAnswers {
    fn status(&self) -> AgentStatus {
        let held = self.pods.held();
        let node = self.node.borrow();
        let view = self.link.session.borrow();
        let info = node.as_ref().and_then(|node| node.node_info.as_ref());
        AgentStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revoked: self.link.standing.membership().revoked,
            started: self.started,
            pid: std::process::id(),
            nats: NatsStatus {
                url: self.nats_url.clone(),
                connected: *self.link.connection.state.borrow() == LinkState::Connected,
            },
            session: SessionStatus {
                open: view.open,
                since: view.since,
                cluster_version: view.cluster_version.clone(),
                problem: view.problem.clone(),
            },
            desired: held.version,
            pods: held.bundles.len(),
            runtime: info.map(|info| info.container_runtime_version.clone()),
            conditions: node
                .as_ref()
                .and_then(|node| node.conditions.as_ref())
                .into_iter()
                .flatten()
                .map(|condition| ConditionStatus {
                    type_: condition.type_.clone(),
                    status: condition.status.clone(),
                    message: condition.message.clone().unwrap_or_default(),
                })
                .collect(),
        }
    }

    fn pods(&self) -> Vec<PodSummary> {
        self.pods.summaries()
    }

    fn rotate_keys(&self) -> Result<String, String> {
        if *self.link.connection.state.borrow() != LinkState::Connected {
            return Err(
                "NATS cannot be reached, and new keys have to be enrolled: try again later".to_owned()
            );
        }
        // One that waits is as good.
        let _ = self.link.rotations.try_send(None);
        Ok("new keys are being made and enrolled; `device-kubelet keys` shows them when they are in use"
            .to_owned())
    }
}
