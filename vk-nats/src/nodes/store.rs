//! Which Nodes of devices there are.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use fleet_wire::name::DeviceName;
use tokio::sync::watch;

use super::{device_node::DeviceNode, port::NodePorts};

/// Nodes of devices. Cheap to clone; written by the Node watch alone.
#[derive(Debug, Clone)]
pub struct Nodes {
    nodes: Arc<RwLock<HashMap<DeviceName, Arc<DeviceNode>>>>,
    ports: watch::Sender<NodePorts>,
    synced: watch::Sender<bool>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            nodes: Arc::default(),
            ports: watch::channel(NodePorts::new()).0,
            synced: watch::channel(false).0,
        }
    }
}

impl Nodes {
    /// Which port serves which Node, as it changes.
    pub fn node_ports(&self) -> watch::Receiver<NodePorts> {
        self.ports.subscribe()
    }

    /// The Node of a device.
    pub fn get(&self, device: &DeviceName) -> Option<Arc<DeviceNode>> {
        self.read().get(device).cloned()
    }

    /// Whether the device exists.
    pub fn contains(&self, device: &DeviceName) -> bool {
        self.read().contains_key(device)
    }

    /// How many devices exist.
    pub fn count(&self) -> usize {
        self.read().len()
    }

    /// Waits until all Nodes were seen once.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    pub(super) fn insert(&self, node: Arc<DeviceNode>, port: Option<u16>) {
        if let Some(port) = port {
            self.ports.send_if_modified(|ports| ports.insert(node.device.clone(), port) != Some(port));
        }
        self.write().insert(node.device.clone(), node);
    }

    /// A Node as the watch would bring it, for tests of others.
    #[cfg(test)]
    pub fn put(&self, node: Arc<DeviceNode>) {
        self.insert(node, None);
    }

    pub(super) fn remove(&self, device: &DeviceName) -> bool {
        self.ports.send_if_modified(|ports| ports.remove(device).is_some());
        self.write().remove(device).is_some()
    }

    pub(super) fn names(&self) -> Vec<DeviceName> {
        self.read().keys().cloned().collect()
    }

    pub(super) fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<DeviceName, Arc<DeviceNode>>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<DeviceName, Arc<DeviceNode>>> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }
}
