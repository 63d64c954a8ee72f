//! Which device has which actor, and which message goes to which.

use std::{net::IpAddr, sync::Arc, time::Duration};

use fleet_daemon::shutdown::Shutdown;
use fleet_wire::{
    keys::FleetKeys,
    name::{DeviceName, OwnerEpoch},
    subject::{self, Subject},
};
use futures::StreamExt as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::Instrument as _;

use super::{
    actor::{Actor, Inbound, Input},
    courier::Courier,
    down::{Devices, Handle},
    stream::Streams,
};
use crate::{
    bundle::DesiredSets,
    identity::NodeClient,
    metrics::Metrics,
    nodes::{DeviceNode, NodeChange},
    pods::Pods,
};

/// Messages that may wait for one device's actor; one more is dropped and counted, and the device sends
/// it again when no answer comes.
const QUEUE: usize = 128;

/// What all actors share.
#[derive(Debug)]
pub struct Context {
    /// Settings.
    pub settings: Settings,
    /// The fleet's secret curve keys.
    pub keys: FleetKeys,
    /// This incarnation.
    pub epoch: OwnerEpoch,
    /// Publishes to devices.
    pub courier: Courier,
    /// Writes for devices.
    pub client: NodeClient,
    /// Pods of devices.
    pub pods: Pods,
    /// Desired sets.
    pub sets: DesiredSets,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// When this process began, for the spread of Leases.
    pub started: Instant,
}

/// Settings that concern devices.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Published as the Nodes' address.
    pub node_address: IpAddr,
    /// `leaseDurationSeconds` of the Nodes' Leases.
    pub node_lease_duration: Duration,
    /// How often devices send heartbeats.
    pub heartbeat_interval: Duration,
}

/// Keeps one actor for each Node, and gives every message to its device's, until the shutdown.
///
/// # Errors
/// When the subscriptions cannot be made.
pub async fn run(
    context: Arc<Context>,
    nats: async_nats::Client,
    devices: Devices,
    mut nodes: mpsc::UnboundedReceiver<NodeChange>,
    shutdown: Shutdown,
) -> Result<(), async_nats::SubscribeError> {
    let mut up = nats.subscribe(subject::all_up_wildcard()).await?;
    let mut streams = nats.subscribe(subject::all_stream_up_wildcard()).await?;
    let mut directory = Directory { context, devices, actors: JoinSet::new(), shutdown: shutdown.clone() };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(change) = nodes.recv() => directory.node(change),
            Some(message) = up.next() => directory.dispatch(message),
            Some(message) = streams.next() => directory.dispatch(message),
            Some(_) = directory.actors.join_next() => {}
            else => break,
        }
    }
    while directory.actors.join_next().await.is_some() {}
    Ok(())
}

struct Directory {
    context: Arc<Context>,
    devices: Devices,
    actors: JoinSet<()>,
    shutdown: Shutdown,
}

impl Directory {
    fn node(&mut self, change: NodeChange) {
        match change {
            NodeChange::Gone(device) => self.end(&device),
            NodeChange::Applied(node, port) => {
                if let Some(handle) = self.devices.get(&node.device) {
                    let same_keys = {
                        let known = handle.node.borrow();
                        known.0.uid == node.uid
                            && known.0.curve_key.public_key() == node.curve_key.public_key()
                    };
                    if same_keys {
                        handle.node.send_replace((node, port));
                        return;
                    }
                    // Enrolled anew: sessions with the old keys end.
                    self.end(&node.device);
                }
                self.begin(node, port);
            }
        }
    }

    fn begin(&mut self, node: Arc<DeviceNode>, port: u16) {
        let device = node.device.clone();
        let (inbox, inputs) = mpsc::channel(QUEUE);
        let handle = Handle {
            inbox,
            node: watch::channel((node, port)).0,
            streams: Streams::default(),
            connected: Arc::default(),
        };
        let actor = Actor::new(Arc::clone(&self.context), &handle, inputs);
        self.devices.insert(device.clone(), handle);
        let span = tracing::info_span!("device", %device);
        self.actors.spawn(Box::pin(actor.run(self.shutdown.clone())).instrument(span));
    }

    /// The actor ends when the last handle to its inbox is gone, or at once if nobody else has one.
    fn end(&self, device: &DeviceName) {
        if let Some(handle) = self.devices.remove(device) {
            handle.streams.end_all();
            if handle.inbox.try_send(Box::new(Input::End)).is_err() {
                tracing::debug!(%device, "the actor's queue is full; it ends with its last handle");
            }
        }
    }

    fn dispatch(&self, message: async_nats::Message) {
        let subject = match Subject::parse(&message.subject) {
            Ok(subject) => subject,
            Err(error) => {
                self.context.metrics.message("unknown", "Subject");
                tracing::debug!(%error, "a message under a subject that is none of ours");
                return;
            }
        };
        let Some(handle) = self.devices.get(subject.device()) else {
            self.context.metrics.strangers.inc();
            return;
        };
        let inbound = Inbound {
            subject,
            reply: message.reply.map(|reply| reply.to_string()),
            payload: message.payload,
        };
        if handle.inbox.try_send(Box::new(Input::Message(inbound))).is_err() {
            self.context.metrics.queue_drops.inc();
        }
    }
}
