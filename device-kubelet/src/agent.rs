//! The agent: everything together, in the order in which it has to come.
//!
//! ```text
//! data folder ─► local socket ─► keys ─► pods (run without any network) ─► inventory ─► link
//! ```
//!
//! It has no globals: a simulated fleet runs a thousand of them in one process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use fleet_daemon::{
    health::{CheckHandle, Health, HealthError, HealthServer},
    nats::LinkState,
    shutdown::{DrainError, Shutdown, Tasks},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeStatus;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tokio::sync::{Notify, watch};

use crate::{
    keys::{self, DeviceKeys, KeysError},
    link::{self, Link, LinkError, LinkSettings, metrics::LinkMetrics, until},
    local::{AgentStatus, Answers, ConditionStatus, LocalError, LocalServer, NatsStatus, SessionStatus},
    node::{self, Inventory, host::HostFiles},
    pods::{Durability, PodSummary, Pods, PodsError, PodsSettings, admission::capacity::Allocatable},
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
            Ok(pods) => pods,
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

async fn start(settings: Settings, runtime: Arc<dyn Runtime>, tasks: &Tasks) -> Result<Pods, AgentError> {
    let shutdown = tasks.shutdown();
    std::fs::create_dir_all(&settings.data_dir)
        .map_err(|source| AgentError::DataDir { path: settings.data_dir.clone(), source })?;
    // The socket also keeps a second agent off the same data.
    let local = LocalServer::bind(&settings.data_dir).await?;
    let device_keys = DeviceKeys::load_or_create(&settings.data_dir)?;
    let fleet = keys::fleet_keys(&settings.data_dir, &settings.fleet_keys_file, &settings.fleet_root_key)?;
    tracing::info!(
        device = %settings.name,
        version = env!("CARGO_PKG_VERSION"),
        identity = device_keys.public().identity,
        curve = device_keys.public().curve,
        "starting"
    );

    let inventory = Inventory::new(HostFiles::system(), &settings.data_dir, settings.max_pods);
    let pods_settings = pods_settings(&settings, inventory.allocatable());
    let pods = Pods::start(Arc::clone(&runtime), pods_settings, shutdown.token()).await?;

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
    let images_hint = Arc::new(Notify::new());
    let task = node::watch(inventory, runtime, Arc::clone(&images_hint), node_sender);
    tasks.spawn("inventory", until(shutdown, task));

    let link_settings = LinkSettings {
        device: settings.name.clone(),
        nats_url: settings.nats_url.clone(),
        nats_ca_file: settings.nats_ca_file.clone(),
        data_dir: &settings.data_dir,
        heartbeat: settings.heartbeat_interval,
        keys: &device_keys,
        fleet,
        boot_id,
    };
    let link =
        link::start(link_settings, pods.clone(), node_status.clone(), images_hint, metrics, tasks).await?;

    let task = readiness(health.check("runtime"), health.check("session"), node_status.clone(), link.clone());
    tasks.spawn("readiness", until(shutdown, task));
    let answers = Arc::new(LocalAnswers {
        name: settings.name.to_string(),
        nats_url: settings.nats_url,
        started: Timestamp::now(),
        pods: pods.clone(),
        node: node_status,
        link,
    });
    tasks.spawn("local socket", until(shutdown, local.run(answers)));
    Ok(pods)
}

fn pods_settings(settings: &Settings, allocatable: Allocatable) -> PodsSettings {
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
        ..PodsSettings::new(data_dir, settings.name.clone())
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
    loop {
        match node.borrow_and_update().as_ref().and_then(not_ready) {
            Some(reason) => runtime.not_ready(reason),
            None => runtime.ready(),
        }
        let connected = *connection.borrow_and_update() == LinkState::Connected;
        {
            let view = view.borrow_and_update();
            match (connected, view.open) {
                (true, true) => session.ready(),
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
        };
        if changed.is_err() {
            return;
        }
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
}
