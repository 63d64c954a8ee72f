//! Wires the parts together and runs them until the shutdown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_daemon::{
    health::{Health, HealthServer},
    nats::NatsSettings,
    shutdown::{Tasks, until},
};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bundle::{Assembly, DesiredSets, Inputs},
    devices::{self, Context, Courier, Devices, Fleet},
    identity::{Gate, NodeClient},
    kubelet_api::{self, Certificate, KubeletApi, Tls},
    metrics::Metrics,
    nodes::{self, NodeChange, Nodes, PortTable},
    ownership::Ownership,
    pods::{self, Pods},
    references::Follower,
    services,
    serving_certificate::{self, Wanted},
    settings::{ServingCertificate, Settings},
};

/// Requests a second that this process makes for pods and events in the long run. The API server's own
/// flow control is the real limit; this keeps a storm from reaching it.
const API_RATE: u32 = 1000;
const API_BURST: u32 = 2000;
/// How often it is looked whether messages were dropped.
const LOOK_FOR_DROPS: Duration = Duration::from_secs(5);

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] fleet_kube::ClientError),
    /// NATS cannot be set up.
    #[error(transparent)]
    Nats(#[from] fleet_daemon::nats::NatsError),
    /// The health address cannot be bound.
    #[error(transparent)]
    Health(#[from] fleet_daemon::health::HealthError),
}

/// Starts everything. Returns once all tasks run; they end with `tasks`' shutdown.
///
/// # Errors
/// See [`RunError`].
pub async fn start(settings: Settings, tasks: &Tasks) -> Result<(), RunError> {
    let shutdown = tasks.shutdown().clone();
    let started = Instant::now();
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let api_metrics = kubelet_api::Metrics::register(&mut registry);
    let health = Health::new();
    let owner_check = health.check("ownership");
    let nats_check = health.check("nats");
    if let Some(addr) = settings.health_listen {
        let server = HealthServer::bind(addr, health.clone(), Arc::new(registry)).await?;
        tasks.spawn("health", server.run(shutdown.clone()));
    }

    let client = fleet_kube::client(settings.kubeconfig.as_deref()).await?;
    let nats = fleet_daemon::nats::connect(&NatsSettings {
        url: settings.nats.nats_url.clone(),
        ca: settings.nats.nats_ca.clone(),
        login: settings.nats.login(),
        name: format!("vk-nats {}", settings.identity),
        inbox_prefix: None,
        subscription_capacity: devices::QUEUE,
    })
    .await?;
    let follow = fleet_daemon::nats::report(nats.state.clone(), nats_check);
    tasks.spawn("nats-check", until(shutdown.clone(), follow));
    tasks.spawn(
        "nats-drops",
        until(shutdown.clone(), count_drops(Arc::clone(&nats.dropped), Arc::clone(&metrics))),
    );

    // Before anything is owned: who waits for its turn has its certificate when it comes.
    let certificate = match settings.serving_certificate.clone() {
        ServingCertificate::Files { certificate, key } => Certificate::Files { certificate, key },
        ServingCertificate::Cluster { lifetime } => {
            let (served, signed) = watch::channel(None);
            let wanted =
                Wanted { identity: settings.identity.clone(), address: settings.node_address, lifetime };
            let check = health.check("serving-certificate");
            let keep = serving_certificate::keep(client.clone(), wanted, served, check, api_metrics.clone());
            tasks.spawn("serving-certificate", until(shutdown.clone(), Box::pin(keep)));
            Certificate::Cluster(signed)
        }
    };
    let ownership = tokio::select! {
        ownership = Ownership::acquire(client.clone(), &settings.namespace, &settings.identity) => ownership,
        () = shutdown.cancelled() => return Ok(()),
    };
    let epoch = ownership.epoch;
    let tenure = ownership.tenure();
    tasks.spawn("ownership", ownership.keep(shutdown.clone(), owner_check));

    let gate = Gate::new(API_RATE, API_BURST);
    let node_client = NodeClient::new(client.clone(), gate, tenure.clone(), Arc::clone(&metrics));
    let (node_store, pod_store) = (Nodes::default(), Pods::default());
    let (sets, devices) = (DesiredSets::default(), Devices::default());
    let channels = Channels::new(settings.fleet.clone());

    tasks.spawn(
        "nodes",
        until(
            shutdown.clone(),
            nodes::watch(
                client.clone(),
                node_store.clone(),
                PortTable::new(settings.node_port_range),
                channels.node_changes,
                Arc::clone(&metrics),
                health.check("nodes"),
            ),
        ),
    );
    tasks.spawn(
        "nodes-fanout",
        until(shutdown.clone(), fan_out(channels.nodes, channels.to_directory, channels.to_pods)),
    );
    tasks.spawn(
        "pods",
        until(
            shutdown.clone(),
            Box::pin(pods::watch(
                client.clone(),
                node_store.clone(),
                pod_store.clone(),
                channels.pods_from_nodes,
                channels.pod_changes,
                health.check("pods"),
            )),
        ),
    );
    tasks.spawn(
        "services",
        until(
            shutdown.clone(),
            services::watch(client.clone(), channels.service_changes, health.check("services")),
        ),
    );
    let (arrivals, arrived) = mpsc::unbounded_channel();
    let follower = Follower::new(node_client.clone(), arrivals, Arc::clone(&metrics));
    let inputs = Inputs { pods: channels.pods, services: channels.services, arrivals: arrived };
    tasks.spawn(
        "bundles",
        until(shutdown.clone(), Assembly::new(follower, pod_store.clone(), sets.clone()).run(inputs)),
    );

    tasks.spawn(
        "fleet-keys",
        until(shutdown.clone(), devices::follow_fleet(settings.fleet_files.clone(), channels.fleet_changes)),
    );
    let context = Context {
        settings: devices::Settings {
            node_address: settings.node_address,
            node_lease_duration: settings.node_lease_duration,
            heartbeat_interval: settings.heartbeat_interval,
        },
        fleet: channels.fleet,
        epoch,
        courier: Courier::new(Arc::new(nats.client.clone()), tenure),
        ear: Arc::new(nats.client),
        client: node_client,
        pods: pod_store.clone(),
        sets,
        metrics,
        started,
    };
    tasks.spawn(
        "devices",
        devices::run(Arc::new(context), devices.clone(), channels.directory_from_nodes, shutdown.clone()),
    );
    let api = KubeletApi::new(
        devices,
        pod_store,
        client,
        node_store.node_ports(),
        settings.listen_address,
        Tls { certificate, client_ca: settings.client_ca_file },
        api_metrics,
    );
    tasks.spawn("kubelet-api", Box::pin(kubelet_api::serve(api, shutdown)));
    Ok(())
}

/// All queues between the tasks.
struct Channels {
    node_changes: mpsc::UnboundedSender<NodeChange>,
    nodes: mpsc::UnboundedReceiver<NodeChange>,
    to_directory: mpsc::UnboundedSender<NodeChange>,
    directory_from_nodes: mpsc::UnboundedReceiver<NodeChange>,
    to_pods: mpsc::UnboundedSender<(fleet_wire::name::DeviceName, bool)>,
    pods_from_nodes: mpsc::UnboundedReceiver<(fleet_wire::name::DeviceName, bool)>,
    pod_changes: mpsc::UnboundedSender<pods::PodChange>,
    pods: mpsc::UnboundedReceiver<pods::PodChange>,
    service_changes: mpsc::UnboundedSender<services::ServiceChange>,
    services: mpsc::UnboundedReceiver<services::ServiceChange>,
    fleet_changes: watch::Sender<Fleet>,
    fleet: watch::Receiver<Fleet>,
}

impl Channels {
    fn new(fleet: Fleet) -> Self {
        let (fleet_changes, fleet) = watch::channel(fleet);
        let (node_changes, nodes) = mpsc::unbounded_channel();
        let (to_directory, directory_from_nodes) = mpsc::unbounded_channel();
        let (to_pods, pods_from_nodes) = mpsc::unbounded_channel();
        let (pod_changes, pods) = mpsc::unbounded_channel();
        let (service_changes, services) = mpsc::unbounded_channel();
        Self {
            node_changes,
            nodes,
            to_directory,
            directory_from_nodes,
            to_pods,
            pods_from_nodes,
            pod_changes,
            pods,
            service_changes,
            services,
            fleet_changes,
            fleet,
        }
    }
}

/// Tells everyone about Nodes: the directory keeps actors, the pod watch looks for pods that came before their
/// Node, and tells the assembly of a device once it knows all of them.
async fn fan_out(
    mut nodes: mpsc::UnboundedReceiver<NodeChange>,
    directory: mpsc::UnboundedSender<NodeChange>,
    pods: mpsc::UnboundedSender<(fleet_wire::name::DeviceName, bool)>,
) {
    while let Some(change) = nodes.recv().await {
        // The receivers end with the process.
        let _ = pods.send(match &change {
            NodeChange::Applied(node, _) => (node.device.clone(), true),
            NodeChange::Gone(device) => (device.clone(), false),
        });
        let _ = directory.send(change);
    }
}

/// Takes over what the client counts.
async fn count_drops(dropped: Arc<AtomicU64>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(LOOK_FOR_DROPS);
    loop {
        ticks.tick().await;
        metrics.queue_drops.inc_by(dropped.swap(0, Ordering::Relaxed));
    }
}
