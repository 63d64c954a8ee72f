//! The keys with which the messages of one device are sealed.

use std::sync::OnceLock;

use nkeys::XKey;

use crate::{
    envelope::EnvelopeError,
    keys::{Agreement, FleetKeys},
    name::KeyVersion,
};

/// The keys of one device and of the fleet, and what they agree on, by version of the fleet's key: computed at the
/// first message, kept for all others.
pub(super) struct Keys {
    device: XKey,
    pub(super) fleet: FleetKeys,
    // A fleet has one version of its key, for some time two.
    agreements: Vec<(KeyVersion, OnceLock<Agreement>)>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keys").field(&self.fleet).finish()
    }
}

impl Keys {
    pub(super) fn new(device: XKey, fleet: FleetKeys) -> Self {
        let agreements = fleet.versions().map(|version| (version, OnceLock::new())).collect();
        Self { device, fleet, agreements }
    }

    pub(super) fn set_fleet(&mut self, fleet: FleetKeys) {
        *self = Self::new(self.device.clone(), fleet);
    }

    pub(super) fn set_device(&mut self, device: XKey) {
        *self = Self::new(device, self.fleet.clone());
    }

    pub(super) fn agreement(&self, version: KeyVersion) -> Result<&Agreement, EnvelopeError> {
        let fleet = self.fleet.get(version)?;
        let mut kept = self.agreements.iter();
        let (_, kept) = kept.find(|(kept, _)| *kept == version).ok_or(EnvelopeError::KeyVersion(version))?;
        match kept.get() {
            Some(agreement) => Ok(agreement),
            None => {
                let agreement = Agreement::new(&self.device, fleet)?;
                Ok(kept.get_or_init(|| agreement))
            }
        }
    }
}
