//! Nodes of devices: what the API server says about them, and what is written for them.

mod port;
mod store;

pub use port::NodePorts;
pub use store::Nodes;
