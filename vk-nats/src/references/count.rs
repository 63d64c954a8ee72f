//! Who uses which object, and what has to be opened or closed for it. No I/O here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use fleet_wire::{
    message::{BundleConfigMap, BundleSecret},
    name::{DeviceName, PodUid},
};

use super::which::Kind;

/// An object that pods refer to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefKey {
    /// ConfigMap or Secret.
    pub kind: Kind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// Content of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// A ConfigMap.
    ConfigMap(BundleConfigMap),
    /// A Secret.
    Secret(BundleSecret),
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefState {
    /// Nothing yet.
    Pending,
    /// It is there.
    Present(Arc<Resolved>),
    /// It is not there, or may not be read; with what the API server said.
    Missing(String),
}

/// What the edge has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Follow the object as this device's node. What it reports carries the generation.
    Open {
        /// The object.
        key: RefKey,
        /// Whose node reads it.
        device: DeviceName,
        /// Tells this opening from earlier ones of the same object.
        generation: u64,
    },
    /// Stop following it.
    Close {
        /// The object.
        key: RefKey,
    },
}

#[derive(Debug)]
struct Entry {
    users: BTreeMap<PodUid, DeviceName>,
    device: DeviceName,
    generation: u64,
    state: RefState,
}

/// All objects in use.
#[derive(Debug, Default)]
pub struct References {
    entries: HashMap<RefKey, Entry>,
    by_pod: HashMap<PodUid, BTreeSet<RefKey>>,
    generations: u64,
}

impl References {
    /// From now on a pod uses exactly these objects.
    pub fn want(&mut self, pod: &PodUid, device: &DeviceName, keys: BTreeSet<RefKey>) -> Vec<Action> {
        let before = self.by_pod.remove(pod).unwrap_or_default();
        let mut actions = Vec::new();
        for key in before.difference(&keys) {
            actions.extend(self.release_one(pod, key));
        }
        for key in &keys {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.users.insert(pod.clone(), device.clone());
                continue;
            }
            self.generations += 1;
            let entry = Entry {
                users: BTreeMap::from([(pod.clone(), device.clone())]),
                device: device.clone(),
                generation: self.generations,
                state: RefState::Pending,
            };
            actions.push(Action::Open {
                key: key.clone(),
                device: device.clone(),
                generation: self.generations,
            });
            self.entries.insert(key.clone(), entry);
        }
        if !keys.is_empty() {
            self.by_pod.insert(pod.clone(), keys);
        }
        actions
    }

    /// A pod is gone.
    pub fn release(&mut self, pod: &PodUid) -> Vec<Action> {
        let keys = self.by_pod.remove(pod).unwrap_or_default();
        keys.iter().flat_map(|key| self.release_one(pod, key)).collect()
    }

    fn release_one(&mut self, pod: &PodUid, key: &RefKey) -> Option<Action> {
        let entry = self.entries.get_mut(key)?;
        entry.users.remove(pod)?;
        if entry.users.values().any(|device| *device == entry.device) {
            return None;
        }
        // Nobody on the node as which it is read refers to it any more.
        let Some(next) = entry.users.values().next().cloned() else {
            self.entries.remove(key);
            return Some(Action::Close { key: key.clone() });
        };
        self.generations += 1;
        entry.generation = self.generations;
        entry.device = next.clone();
        // The state stays until the new reader says something else.
        Some(Action::Open { key: key.clone(), device: next, generation: self.generations })
    }

    /// Takes what a reader found; `true` if it is news. Readers of earlier generations are not heard.
    pub fn arrived(&mut self, key: &RefKey, generation: u64, state: RefState) -> bool {
        match self.entries.get_mut(key) {
            Some(entry) if entry.generation == generation && entry.state != state => {
                entry.state = state;
                true
            }
            _ => false,
        }
    }

    /// What is known of an object.
    pub fn state(&self, key: &RefKey) -> RefState {
        self.entries.get(key).map_or(RefState::Pending, |entry| entry.state.clone())
    }

    /// Pods that use an object.
    pub fn users(&self, key: &RefKey) -> Vec<PodUid> {
        self.entries.get(key).map(|entry| entry.users.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many objects are in use.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
#[path = "tests/count.rs"]
mod tests;
