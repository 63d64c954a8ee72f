//! What the pod watch has seen of the pods on devices.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, PoisonError, RwLock},
};

use fleet_wire::name::{DeviceName, PodUid};
use k8s_openapi::api::core::v1::Pod;

use crate::packed::Packed;

/// Pods that are bound to devices. Cheap to clone; written by the pod watch alone.
///
/// They are kept packed: each is read a few times in its life, and a fleet has thousands.
#[derive(Debug, Clone, Default)]
pub struct Pods(Arc<RwLock<Index>>);

#[derive(Debug, Default)]
struct Index {
    by_uid: HashMap<PodUid, Kept>,
    by_name: HashMap<(String, String), PodUid>,
    by_device: HashMap<DeviceName, BTreeSet<PodUid>>,
    /// Hashes of the uids of pods on nodes that are no devices (yet).
    elsewhere: HashMap<String, HashSet<u64>>,
}

#[derive(Debug)]
struct Kept {
    device: DeviceName,
    version: Version,
    namespace: String,
    name: String,
    pod: Packed<Pod>,
}

/// Tells two states of a pod in the API apart, the newer one is greater. `None`: they cannot be told apart.
///
/// Since Kubernetes 1.35 resource versions of one type may be compared as numbers, and etcd's always could be; one
/// that is no number counts as oldest, so that the watch's order decides.
pub type Version = Option<u64>;

impl Pods {
    /// The pod of that name, if it is bound to a device. `metadata.managedFields` is stripped.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Pod> {
        let index = self.read();
        let uid = index.by_name.get(&(namespace.to_owned(), name.to_owned()))?;
        index.by_uid.get(uid)?.pod.get()
    }

    /// The pod of that uid, if it is bound to that device.
    pub fn of_device(&self, device: &DeviceName, uid: &PodUid) -> Option<Pod> {
        self.read().of_device(device, uid)?.pod.get()
    }

    /// The version of [`Pods::of_device`]'s answer, without reading the pod.
    pub fn version(&self, device: &DeviceName, uid: &PodUid) -> Option<Version> {
        self.read().of_device(device, uid).map(|kept| kept.version)
    }

    /// All pods bound to a device.
    pub fn on(&self, device: &DeviceName) -> Vec<Pod> {
        let index = self.read();
        index
            .by_device
            .get(device)
            .into_iter()
            .flatten()
            .filter_map(|uid| index.by_uid.get(uid)?.pod.get())
            .collect()
    }

    /// Takes a newer state of a pod; `false` if what is here is newer.
    pub(super) fn insert(&self, device: &DeviceName, uid: &PodUid, pod: &Pod) -> bool {
        let (version, packed) = (version(pod), Packed::new(pod));
        let mut index = self.write();
        if index.by_uid.get(uid).is_some_and(|known| known.version > version) {
            return false;
        }
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        index.by_name.insert((namespace.clone(), name.clone()), uid.clone());
        index.by_device.entry(device.clone()).or_default().insert(uid.clone());
        let kept = Kept { device: device.clone(), version, namespace, name, pod: packed };
        index.by_uid.insert(uid.clone(), kept);
        true
    }

    /// A pod as the watch would bring it, for tests of others.
    #[cfg(test)]
    pub fn put(&self, device: &DeviceName, uid: &PodUid, pod: &Pod) {
        self.insert(device, uid, pod);
    }

    /// A pod goes as the watch would take it away, for tests of others.
    #[cfg(test)]
    pub fn take_away(&self, uid: &PodUid) {
        self.remove(uid);
    }

    /// The pod is gone; says where it was.
    pub(super) fn remove(&self, uid: &PodUid) -> Option<DeviceName> {
        let mut index = self.write();
        let Kept { device, namespace, name, .. } = index.by_uid.remove(uid)?;
        let key = (namespace, name);
        // A successor of the same name may be there already.
        if index.by_name.get(&key) == Some(uid) {
            index.by_name.remove(&key);
        }
        if let Some(uids) = index.by_device.get_mut(&device) {
            uids.remove(uid);
            if uids.is_empty() {
                index.by_device.remove(&device);
            }
        }
        Some(device)
    }

    /// Uids of all pods on devices.
    pub(super) fn uids(&self) -> Vec<PodUid> {
        self.read().by_uid.keys().cloned().collect()
    }

    pub(super) fn note_elsewhere(&self, node: &str, uid: &str) {
        let mut index = self.write();
        if !index.elsewhere.get(node).is_some_and(|hashes| hashes.contains(&hash(uid))) {
            index.elsewhere.entry(node.to_owned()).or_default().insert(hash(uid));
        }
    }

    pub(super) fn forget_elsewhere(&self, node: &str, uid: &str) {
        let mut index = self.write();
        if let Some(hashes) = index.elsewhere.get_mut(node) {
            hashes.remove(&hash(uid));
            if hashes.is_empty() {
                index.elsewhere.remove(node);
            }
        }
    }

    /// Whether pods were seen on a node while it was no device; they are to be listed then.
    pub(super) fn take_elsewhere(&self, node: &str) -> bool {
        self.write().elsewhere.remove(node).is_some()
    }

    pub(super) fn clear_elsewhere(&self) {
        self.write().elsewhere.clear();
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn of_device(&self, device: &DeviceName, uid: &PodUid) -> Option<&Kept> {
        self.by_uid.get(uid).filter(|kept| kept.device == *device)
    }
}

fn version(pod: &Pod) -> Version {
    pod.metadata.resource_version.as_deref()?.parse().ok()
}

fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "tests/store.rs"]
mod tests;
