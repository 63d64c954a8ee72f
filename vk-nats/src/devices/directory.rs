//! Which device has which actor.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use fleet_daemon::shutdown::Shutdown;
use fleet_wire::name::{DeviceName, OwnerEpoch};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::Instrument as _;

use super::{
    actor::{Actor, Deaf, Input},
    courier::Courier,
    down::{Devices, Handle},
    ear::Subscriber,
    fleet::Fleet,
    stream::Streams,
};
use crate::{
    bundle::DesiredSets,
    identity::NodeClient,
    metrics::Metrics,
    nodes::{DeviceNode, NodeChange},
    pods::Pods,
};

/// Requests of the kubelet API that may wait for one device's actor.
const QUEUE: usize = 128;

/// What all actors share.
#[derive(Debug)]
pub struct Context {
    /// Settings.
    pub settings: Settings,
    /// The fleet's keys.
    pub fleet: watch::Receiver<Fleet>,
    /// This incarnation.
    pub epoch: OwnerEpoch,
    /// Publishes to devices.
    pub courier: Courier,
    /// Subscribes to devices.
    pub ear: Arc<dyn Subscriber>,
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

/// Keeps one actor for each Node until the shutdown.
///
/// # Errors
/// When the subscription of an actor cannot be made, or ends: then the connection was closed.
pub async fn run(
    context: Arc<Context>,
    devices: Devices,
    mut nodes: mpsc::UnboundedReceiver<NodeChange>,
    shutdown: Shutdown,
) -> Result<(), Deaf> {
    let mut directory = Directory {
        context,
        devices,
        actors: JoinSet::new(),
        last_words: HashMap::new(),
        shutdown: shutdown.clone(),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(change) = nodes.recv() => directory.node(change),
            Some(ended) = directory.actors.join_next() => match ended {
                Ok(Err(deaf)) => return Err(deaf),
                Ok(Ok(())) => {}
                // What one device sent must not end the others' actors. This one begins anew with the next
                // change of its Node, which the lifecycle controller makes when no Lease is renewed.
                Err(error) => tracing::error!(%error, "the actor of a device failed"),
            },
            else => break,
        }
    }
    while directory.actors.join_next().await.is_some() {}
    Ok(())
}

struct Directory {
    context: Arc<Context>,
    devices: Devices,
    actors: JoinSet<Result<(), Deaf>>,
    /// A place in each actor's queue, kept free: why it ends must reach it however busy it is, since a device whose
    /// Node was deleted is told so.
    last_words: HashMap<DeviceName, mpsc::OwnedPermit<Box<Input>>>,
    shutdown: Shutdown,
}

impl Directory {
    fn node(&mut self, change: NodeChange) {
        match change {
            NodeChange::Gone(device) => self.end(&device, Input::Gone),
            NodeChange::Applied(node, port) => {
                // One whose actor failed counts as unknown.
                if let Some(handle) =
                    self.devices.get(&node.device).filter(|handle| !handle.inbox.is_closed())
                {
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
                    self.end(&node.device, Input::End);
                }
                self.begin(node, port);
            }
        }
    }

    fn begin(&mut self, node: Arc<DeviceNode>, port: u16) {
        let device = node.device.clone();
        let (inbox, inputs) = mpsc::channel(QUEUE + 1);
        if let Ok(place) = inbox.clone().try_reserve_owned() {
            self.last_words.insert(device.clone(), place);
        }
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

    fn end(&mut self, device: &DeviceName, why: Input) {
        if let Some(handle) = self.devices.remove(device) {
            handle.streams.end_all();
        }
        if let Some(place) = self.last_words.remove(device) {
            place.send(Box::new(why));
        }
    }
}

#[cfg(test)]
#[path = "tests/directory.rs"]
mod tests;
