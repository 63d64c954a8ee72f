//! The desired set of each device, handed from the assembly to the device's actor.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use fleet_wire::{
    digest::Digest,
    name::{DeviceName, PodUid},
};
use tokio::sync::watch;

use super::build::Built;

/// The bundles of one device. `None` in its channel means: not all of them are known yet.
#[derive(Debug, Clone, Default)]
pub struct DesiredSet {
    /// By pod.
    pub bundles: BTreeMap<PodUid, Built>,
}

impl DesiredSet {
    /// [`Digest::of_set`].
    pub fn digest(&self) -> Digest {
        Digest::of_set(self.bundles.iter().map(|(uid, built)| (uid, &built.digest)))
    }
}

/// Follows a device's set.
pub type SetReceiver = watch::Receiver<Option<Arc<DesiredSet>>>;
type SetSender = watch::Sender<Option<Arc<DesiredSet>>>;

/// The channels of all devices. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DesiredSets(Arc<Mutex<HashMap<DeviceName, SetSender>>>);

impl DesiredSets {
    /// The device's channel, made when it is not there yet.
    pub fn receiver(&self, device: &DeviceName) -> SetReceiver {
        self.lock().entry(device.clone()).or_insert_with(|| watch::channel(None).0).subscribe()
    }

    /// Publishes a device's set.
    pub fn publish(&self, device: &DeviceName, set: Arc<DesiredSet>) {
        self.lock().entry(device.clone()).or_insert_with(|| watch::channel(None).0).send_replace(Some(set));
    }

    /// The device is gone.
    pub fn remove(&self, device: &DeviceName) {
        self.lock().remove(device);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DeviceName, SetSender>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
