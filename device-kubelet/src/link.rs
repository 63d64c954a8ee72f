//! The link to the cluster side: one sealed session over NATS.
//!
//! ```text
//!                    ┌───────────► driver ── hello, sync, fetch ──► Pods::apply
//! down.> ── dispatch ┤                │ session open?
//! session.*.down     └► streams       ▼
//!                                  heartbeat · statuses · events ──► up.*
//! ```
//!
//! | module | what it decides or does |
//! |---|---|
//! | [`opening`] | when to say hello (pure) |
//! | [`driver`] | says it, compares the desired set, applies changes |
//! | [`bundles`] | completes and verifies what a change carries |
//! | [`heartbeat`], [`upload`] | what goes up, and again until it was taken |
//! | [`batch`], [`window`], [`backoff`] | how much, how far, how long (pure) |
//! | [`dispatch`], [`stream`] | what comes down; logs |
//! | [`channel`] | sealing, asking, answering |
//! | [`standing`] | whom the device trusts, whether it is a member |
//! | [`rotation`], [`revocation`] | new keys; the end of a membership |
//!
//! The link knows nothing of containers, and the pods know nothing of the link: without it the device
//! runs what it was told last.

pub mod backoff;
pub mod batch;
pub mod bundles;
pub mod channel;
pub mod dispatch;
pub mod driver;
pub mod heartbeat;
pub mod incarnation;
pub mod metrics;
pub mod opening;
pub mod revocation;
pub mod rotation;
pub mod standing;
pub mod stream;
pub mod upload;
pub mod window;

use std::{sync::Arc, time::Duration};

use fleet_daemon::{
    credential::DeviceCredential,
    nats::{self, Connection, NatsError, NatsSettings},
    shutdown::{Shutdown, Tasks},
};
use fleet_wire::{keys::FleetKeys, name::DeviceName, session::DeviceSession, subject};
use k8s_openapi::api::core::v1::NodeStatus;
use tokio::sync::{Notify, mpsc, watch};

use self::{
    channel::Channel,
    dispatch::Dispatch,
    driver::{Driver, SessionView},
    incarnation::Incarnation,
    metrics::LinkMetrics,
    rotation::Rotation,
    standing::Standing,
    stream::Streams,
    upload::{ReportedNode, Uploads},
};
use crate::{keys::DeviceKeys, node::Hints, pods::Pods};

/// Messages that may wait in one subscription: 256 of at most 256 KiB, of which a device sees few.
const SUBSCRIPTION_CAPACITY: usize = 256;
/// Commands that may wait for the driver.
const COMMANDS: usize = 64;

/// Why the link cannot be set up at all.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection's settings cannot work.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// A subscription was refused by the client.
    #[error("cannot subscribe to {subject}")]
    Subscribe {
        /// What.
        subject: String,
        /// Why.
        #[source]
        source: async_nats::SubscribeError,
    },
}

/// What the link has to know.
pub struct LinkSettings<'a> {
    /// The device.
    pub device: DeviceName,
    /// Where NATS is, and who connects.
    pub credential: DeviceCredential,
    /// Membership and trust; its data folder keeps the incarnation token.
    pub standing: Standing,
    /// Whether pods go on although the device was revoked.
    pub keep_on_revoke: bool,
    /// Time between heartbeats until the cluster side says otherwise.
    pub heartbeat: Duration,
    /// The device's keys.
    pub keys: &'a DeviceKeys,
    /// The fleet's public keys.
    pub fleet: FleetKeys,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
}

/// What the link shows.
#[derive(Debug, Clone)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// The session.
    pub session: watch::Receiver<SessionView>,
    /// Membership and trust.
    pub standing: Standing,
    /// Takes requests for new keys.
    pub rotations: mpsc::Sender<Option<String>>,
}

/// Connects, and starts the link's tasks. Returns at once, also when no server can be reached.
pub async fn start(
    settings: LinkSettings<'_>,
    pods: Pods,
    node: watch::Receiver<Option<NodeStatus>>,
    hints: Hints,
    metrics: LinkMetrics,
    tasks: &Tasks,
) -> Result<Link, LinkError> {
    let device = settings.device;
    let connection = nats::connect(&NatsSettings {
        url: settings.credential.nats_url.clone(),
        ca: settings.credential.nats_ca.clone(),
        login: settings.credential.login(),
        name: format!("device-kubelet {device}"),
        inbox_prefix: Some(subject::inbox_prefix(&device)),
        subscription_capacity: SUBSCRIPTION_CAPACITY,
    })
    .await?;
    let subscribe = async |subject: String| {
        connection
            .client
            .subscribe(subject.clone())
            .await
            .map_err(|source| LinkError::Subscribe { subject, source })
    };
    let down = subscribe(subject::down_wildcard(&device)).await?;
    let frames = subscribe(subject::stream_down_wildcard(&device)).await?;

    let session = DeviceSession::new(
        device.clone(),
        settings.keys.curve().clone(),
        settings.fleet,
        pods.held().version.epoch,
    );
    let channel = Channel::new(device.clone(), connection.clone(), session, metrics);
    let (view, session_view) = watch::channel(SessionView::closed(settings.heartbeat));
    let (driver, commands) = mpsc::channel(COMMANDS);
    let (rotations, requests) = mpsc::channel(1);
    let overflow = Arc::new(Notify::new());
    let reported_node = ReportedNode::default();
    let shutdown = tasks.shutdown();

    let task = Driver {
        channel: channel.clone(),
        pods: pods.clone(),
        incarnation: Incarnation::new(settings.standing.data_dir()),
        standing: settings.standing.clone(),
        keep_on_revoke: settings.keep_on_revoke,
        rotations: rotations.clone(),
        node: node.clone(),
        reported_node: reported_node.clone(),
        boot_id: settings.boot_id,
        commands,
        overflow: Arc::clone(&overflow),
        view,
    };
    tasks.spawn("link", until(shutdown, task.run()));
    let task = Rotation {
        device,
        channel: channel.clone(),
        standing: settings.standing.clone(),
        token: settings.credential.token,
        pods: pods.clone(),
        driver: driver.clone(),
        requests,
    };
    tasks.spawn("rotation", until(shutdown, task.run()));
    let task = heartbeat::run(channel.clone(), pods.clone(), session_view.clone(), hints.heartbeat);
    tasks.spawn("heartbeat", until(shutdown, task));
    let uploads = Uploads {
        channel: channel.clone(),
        pods: pods.clone(),
        view: session_view.clone(),
        driver: driver.clone(),
    };
    tasks.spawn("statuses", until(shutdown, uploads.clone().statuses(node, reported_node, hints.images)));
    tasks.spawn("events", until(shutdown, uploads.events()));
    let streams = Streams::new(channel.clone(), pods, tasks.clone());
    let task = Dispatch { channel, driver, overflow, streams };
    tasks.spawn("commands", until(shutdown, task.run(down, frames)));
    Ok(Link { connection, session: session_view, standing: settings.standing, rotations })
}

/// Runs a task until the shutdown begins.
pub(crate) fn until<T: Future<Output = ()>>(
    shutdown: &Shutdown,
    task: T,
) -> impl Future<Output = ()> + use<T> {
    let cancelled = shutdown.cancelled();
    async move {
        tokio::select! {
            () = task => {}
            () = cancelled => {}
        }
    }
}
