//! What `fleet-sim` and whoever starts it agree on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How simulated devices reach their fleet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// How many devices.
    pub devices: usize,
    /// What their names begin with.
    pub prefix: String,
    /// Folder of the devices' folders; best in memory, since each real device would have a disk of its own.
    pub folder: PathBuf,
    /// Where NATS is.
    pub nats_url: String,
    /// Its certificate authority.
    pub nats_ca_file: PathBuf,
    /// The fleet's public root key.
    pub fleet_root_key: String,
    /// The signed statement of the fleet's keys.
    pub fleet_keys_file: PathBuf,
    /// Images that are on every device from the beginning.
    pub images: Vec<String>,
}

/// The public keys of one simulated device, as `fleet-sim keys` prints them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DevicePublicKeys {
    /// The device's name.
    pub name: String,
    /// `U…`
    pub identity: String,
    /// `X…`
    pub curve: String,
}

impl Plan {
    /// The name of a device.
    #[must_use]
    pub fn name(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The data folder of a device.
    #[must_use]
    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.folder.join(self.name(number))
    }

    /// The plan in its own folder.
    #[must_use]
    pub fn file(folder: &Path) -> PathBuf {
        folder.join("plan.json")
    }
}
