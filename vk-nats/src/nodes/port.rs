//! One TCP port for each Node: who asks `address:port` reaches that Node's device.
//!
//! A port stands in the Node's status and nowhere else; after a restart it is read back from there.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
};

use fleet_wire::name::DeviceName;
use sha2::{Digest as _, Sha256};

/// Which port serves which Node.
pub type NodePorts = BTreeMap<DeviceName, u16>;

/// Ports that may be given out, first and last included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected two ports joined by '-', the lower one first, e.g. 10300-20299")]
pub struct PortRangeError;

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').ok_or(PortRangeError)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| PortRangeError);
        let (first, last) = (port(first)?, port(last)?);
        if first == 0 || first > last {
            return Err(PortRangeError);
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 10_300, last: 20_299 }
    }
}

fleet_daemon::text_setting!(
    PortRange,
    "FIRST-LAST",
    "two ports joined by '-', the lower one first, e.g. 10300-20299"
);

impl PortRange {
    /// How many ports there are.
    pub fn size(&self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// All ports, beginning where the device's name points, so that a Node that comes back without a
    /// status usually gets the port that it had.
    fn from(&self, device: &DeviceName) -> impl Iterator<Item = u16> + use<> {
        let digest = Sha256::digest(device.as_str().as_bytes());
        let size = self.size();
        let start = usize::from(u16::from_be_bytes([digest[1], digest[2]])) % size;
        let first = self.first;
        (0..size).map(move |step| first + ((start + step) % size) as u16)
    }
}

/// Who has which port.
#[derive(Debug)]
pub struct PortTable {
    range: PortRange,
    by_port: HashMap<u16, DeviceName>,
    by_device: HashMap<DeviceName, u16>,
}

impl PortTable {
    /// An empty table.
    pub fn new(range: PortRange) -> Self {
        Self { range, by_port: HashMap::new(), by_device: HashMap::new() }
    }

    /// Keeps the port that a Node publishes, if it is in the range and nobody else has it. To be called
    /// for all Nodes that exist before the first [`PortTable::claim`].
    pub fn keep(&mut self, device: &DeviceName, published: u16) {
        if self.by_device.contains_key(device)
            || !self.range.contains(published)
            || self.by_port.contains_key(&published)
        {
            return;
        }
        self.give(device, published);
    }

    /// The device's port, a free one if it has none yet; `None` when the range is used up.
    pub fn claim(&mut self, device: &DeviceName) -> Option<u16> {
        if let Some(port) = self.by_device.get(device) {
            return Some(*port);
        }
        let free = self.range.from(device).find(|port| !self.by_port.contains_key(port))?;
        self.give(device, free);
        Some(free)
    }

    /// The Node is gone.
    pub fn free(&mut self, device: &DeviceName) {
        if let Some(port) = self.by_device.remove(device) {
            self.by_port.remove(&port);
        }
    }

    fn give(&mut self, device: &DeviceName, port: u16) {
        self.by_port.insert(port, device.clone());
        self.by_device.insert(device.clone(), port);
    }
}

#[cfg(test)]
#[path = "tests/port.rs"]
mod tests;
