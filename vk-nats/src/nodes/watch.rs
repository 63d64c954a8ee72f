//! Follows the Nodes of devices.
//!
//! The first list is collected before any port is given out: ports that Nodes publish already are kept,
//! whatever order the list has.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use fleet_daemon::health::CheckHandle;
use fleet_kube::{News, Readiness, Watch};
use fleet_wire::{enrollment::DEVICE_LABEL, name::DeviceName};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, runtime::watcher::Config};
use tokio::sync::mpsc;

use super::{
    device_node::{DeviceNode, NotADevice},
    port::PortTable,
    store::Nodes,
};
use crate::metrics::Metrics;

/// What became of a Node.
#[derive(Debug, Clone)]
pub enum NodeChange {
    /// It is there, with this content and served at this port.
    Applied(Arc<DeviceNode>, u16),
    /// It is gone, or no longer that of a device.
    Gone(DeviceName),
}

/// Follows the Nodes for ever; changes go to `changes` after the store has them.
pub async fn watch(
    client: kube::Client,
    nodes: Nodes,
    ports: PortTable,
    changes: mpsc::UnboundedSender<NodeChange>,
    metrics: Arc<Metrics>,
    check: CheckHandle,
) {
    let config = Config::default().labels(&format!("{DEVICE_LABEL}=true"));
    let watch = Watch::new(Api::<Node>::all(client), config, "Nodes", Readiness::Current(check));
    let mut lists = watch.whole_lists();
    let mut follower = Follower { nodes, ports, changes, metrics, complaints: HashMap::new() };
    while let Some(news) = lists.news().await {
        follower.take(news);
    }
}

struct Follower {
    nodes: Nodes,
    ports: PortTable,
    changes: mpsc::UnboundedSender<NodeChange>,
    metrics: Arc<Metrics>,
    complaints: HashMap<String, NotADevice>,
}

impl Follower {
    fn take(&mut self, news: News<Node>) {
        match news {
            News::All(nodes) => self.complete(&nodes),
            News::One(node) => self.apply(&node),
            News::Gone(node) => {
                if let Some(name) = node.metadata.name {
                    self.complaints.remove(&name);
                    self.remove(&name);
                }
            }
        }
        self.metrics.devices_enrolled.set(i64::try_from(self.nodes.count()).unwrap_or(i64::MAX));
    }

    fn complete(&mut self, listed: &[Node]) {
        let present: HashSet<&str> = listed.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
        for device in self.nodes.names() {
            if !present.contains(device.as_str()) {
                self.remove(device.as_str());
            }
        }
        for node in listed {
            if let Ok(node) = DeviceNode::parse(node)
                && let Some(port) = node.published_port
            {
                self.ports.keep(&node.device, port);
            }
        }
        for node in listed {
            self.apply(node);
        }
        self.nodes.set_synced();
        tracing::info!(devices = self.nodes.count(), "Nodes are synced");
    }

    fn apply(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match DeviceNode::parse(node) {
            Ok(node) => {
                self.complaints.remove(&name);
                if let Some(port) = node.published_port {
                    self.ports.keep(&node.device, port);
                }
                let Some(port) = self.ports.claim(&node.device) else {
                    tracing::error!(
                        device = %node.device,
                        "no port is left for this Node; widen the setting node-port-range"
                    );
                    return;
                };
                let node = Arc::new(node);
                self.nodes.insert(Arc::clone(&node), Some(port));
                // The receiver ends with the process.
                let _ = self.changes.send(NodeChange::Applied(node, port));
            }
            Err(reason) => {
                if self.complaints.get(&name) != Some(&reason) {
                    tracing::warn!(node = name, %reason, "this Node is labelled as a device's, but is none");
                    self.complaints.insert(name.clone(), reason);
                }
                self.remove(&name);
            }
        }
    }

    fn remove(&mut self, name: &str) {
        let Ok(device) = name.parse::<DeviceName>() else { return };
        if self.nodes.remove(&device) {
            self.ports.free(&device);
            let _ = self.changes.send(NodeChange::Gone(device));
        }
    }
}
