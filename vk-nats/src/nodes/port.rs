//! One TCP port for each Node: who asks `address:port` reaches that Node's device.

use std::collections::BTreeMap;

use fleet_wire::name::DeviceName;

/// Which port serves which Node.
pub type NodePorts = BTreeMap<DeviceName, u16>;
