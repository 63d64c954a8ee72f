//! What the pod watch has seen of the pods on devices.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, PoisonError, RwLock},
};

use fleet_wire::name::{DeviceName, PodUid};
use k8s_openapi::api::core::v1::Pod;

/// Pods that are bound to devices. Cheap to clone; written by the pod watch alone.
#[derive(Debug, Clone, Default)]
pub struct Pods(Arc<RwLock<Index>>);

#[derive(Debug, Default)]
struct Index {
    by_uid: HashMap<PodUid, (DeviceName, Arc<Pod>)>,
    by_name: HashMap<(String, String), PodUid>,
    by_device: HashMap<DeviceName, BTreeSet<PodUid>>,
    /// Hashes of the uids of pods on nodes that are no devices (yet).
    elsewhere: HashMap<String, HashSet<u64>>,
}

impl Pods {
    /// The pod of that name, if it is bound to a device. `metadata.managedFields` is stripped.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let index = self.read();
        let uid = index.by_name.get(&(namespace.to_owned(), name.to_owned()))?;
        index.by_uid.get(uid).map(|(_, pod)| Arc::clone(pod))
    }

    /// The pod of that uid, if it is bound to that device.
    pub fn of_device(&self, device: &DeviceName, uid: &PodUid) -> Option<Arc<Pod>> {
        let index = self.read();
        let (owner, pod) = index.by_uid.get(uid)?;
        (owner == device).then(|| Arc::clone(pod))
    }

    /// All pods bound to a device.
    pub fn on(&self, device: &DeviceName) -> Vec<Arc<Pod>> {
        let index = self.read();
        index
            .by_device
            .get(device)
            .into_iter()
            .flatten()
            .filter_map(|uid| index.by_uid.get(uid).map(|(_, pod)| Arc::clone(pod)))
            .collect()
    }

    /// Takes a newer state of a pod; `false` if what is here is newer.
    pub(super) fn insert(&self, device: &DeviceName, uid: &PodUid, pod: Arc<Pod>) -> bool {
        let mut index = self.write();
        if let Some((_, known)) = index.by_uid.get(uid)
            && version(known) > version(&pod)
        {
            return false;
        }
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        index.by_name.insert((namespace, name), uid.clone());
        index.by_device.entry(device.clone()).or_default().insert(uid.clone());
        index.by_uid.insert(uid.clone(), (device.clone(), pod));
        true
    }

    /// A pod as the watch would bring it, for tests of others.
    #[cfg(test)]
    pub fn put(&self, device: &DeviceName, uid: &PodUid, pod: Arc<Pod>) {
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
        let (device, pod) = index.by_uid.remove(uid)?;
        let key = (
            pod.metadata.namespace.clone().unwrap_or_default(),
            pod.metadata.name.clone().unwrap_or_default(),
        );
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

/// Since Kubernetes 1.35 resource versions of one type may be compared as numbers, and etcd's always
/// could be; one that is no number counts as oldest, so that the watch's order decides.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn hash(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "tests/store.rs"]
mod tests;
