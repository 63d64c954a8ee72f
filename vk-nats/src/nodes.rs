//! Nodes of devices: what the API server says about them, and what is written for them.
//!
//! | file | answers |
//! |---|---|
//! | `device_node` | does this Node make a device exist, and what does it say? |
//! | `port` | which port serves it? |
//! | `store` | which Nodes are there? |
//! | `watch` | fills the store, starts and ends the devices' actors |
//! | `status` | what has to be written into `Node.status`? |
//! | `transitions` | which Events does a change of it make? |
//! | `lease` | when is the Node's Lease renewed, and with what? |
//!
//! Nodes are made by enrollment. Nothing here creates or deletes one.

mod device_node;
pub mod lease;
mod port;
pub mod status;
mod store;
pub mod transitions;
mod watch;

pub use device_node::{DeviceNode, NotADevice, Observed};
pub use port::{NodePorts, PortRange, PortRangeError, PortTable};
pub use store::Nodes;
pub use watch::{NodeChange, watch};
