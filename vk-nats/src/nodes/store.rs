//! What the Node watch has seen.

use tokio::sync::watch;

use super::port::NodePorts;

/// Nodes of devices. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Nodes {
    ports: watch::Receiver<NodePorts>,
}

impl Nodes {
    /// Which port serves which Node, as it changes.
    pub fn node_ports(&self) -> watch::Receiver<NodePorts> {
        self.ports.clone()
    }
}
