//! Joins pods, references and Services into each device's desired set.
//!
//! A set is published only when everything it depends on was seen: pods, Nodes and Services are synced,
//! and every reference of the pods that existed then is resolved. So a restart of this process cannot
//! look like the deletion of a pod. Afterwards a new pod enters the set once its references are resolved,
//! and stays as it was while a changed one is not.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use fleet_wire::{
    digest::Digest,
    name::{DeviceName, PodUid},
};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::{
    build::{BuildError, Built, build, digest_of},
    service_env::service_env,
    set::{DesiredSet, DesiredSets},
};
use crate::{
    pods::{PodChange, Pods},
    references::{self, Arrival, Follower, RefKey, References},
    services::{ServiceChange, Services},
};

/// What the assembly listens to.
#[derive(Debug)]
pub struct Inputs {
    /// From the pod watch, with the devices whose pods are known.
    pub pods: mpsc::UnboundedReceiver<PodChange>,
    /// From the Service watch.
    pub services: mpsc::UnboundedReceiver<ServiceChange>,
    /// From the readers of references.
    pub arrivals: mpsc::UnboundedReceiver<Arrival>,
}

/// The task's state.
#[derive(Debug)]
pub struct Assembly {
    references: References,
    follower: Follower,
    services: Option<Services>,
    pods_synced: bool,
    /// What the pods say.
    contents: Pods,
    pods: HashMap<PodUid, Held>,
    devices: HashMap<DeviceName, Device>,
    dirty: BTreeSet<DeviceName>,
    sets: DesiredSets,
}

#[derive(Debug)]
struct Held {
    device: DeviceName,
    /// Of what its device has to know: statuses come back from the API with every report.
    digest: Digest,
    complained: bool,
}

#[derive(Debug, Default)]
struct Device {
    exists: bool,
    /// Shared with the device's actor until it changes.
    set: Arc<DesiredSet>,
    /// Pods that existed when everything was synced, and are not built yet.
    awaited: HashSet<PodUid>,
    published: bool,
}

impl Assembly {
    /// Sets are published to `sets`, readers run in `follower`; `pods` has the pods whose changes come.
    pub fn new(follower: Follower, pods: Pods, sets: DesiredSets) -> Self {
        Self {
            references: References::default(),
            follower,
            services: None,
            pods_synced: false,
            contents: pods,
            pods: HashMap::new(),
            devices: HashMap::new(),
            dirty: BTreeSet::new(),
            sets,
        }
    }

    /// Runs until the inputs end. Whatever is there is taken at once, then changed sets are published.
    pub async fn run(mut self, mut inputs: Inputs) {
        loop {
            tokio::select! {
                change = inputs.pods.recv() => match change {
                    Some(change) => self.pod(change),
                    None => return,
                },
                Some(change) = inputs.services.recv() => self.service(change),
                Some(arrival) = inputs.arrivals.recv() => self.arrival(arrival),
            }
            while let Ok(change) = inputs.pods.try_recv() {
                self.pod(change);
            }
            while let Ok(arrival) = inputs.arrivals.try_recv() {
                self.arrival(arrival);
            }
            self.publish();
        }
    }

    fn device(&mut self, device: DeviceName, exists: bool) {
        if exists {
            self.devices.entry(device.clone()).or_default().exists = true;
            self.dirty.insert(device);
        } else {
            self.sets.remove(&device);
            if let Some(state) = self.devices.get_mut(&device) {
                state.exists = false;
                state.published = false;
            }
        }
    }

    fn pod(&mut self, change: PodChange) {
        match change {
            PodChange::Synced => {
                if !self.pods_synced {
                    self.pods_synced = true;
                    for (uid, held) in &self.pods {
                        let state = self.devices.entry(held.device.clone()).or_default();
                        if !state.set.bundles.contains_key(uid) {
                            state.awaited.insert(uid.clone());
                        }
                    }
                    self.dirty.extend(self.devices.keys().cloned());
                    self.build_all();
                }
            }
            PodChange::Appeared(device) => self.device(device, true),
            PodChange::Left(device) => self.device(device, false),
            PodChange::Gone(device, uid) => {
                self.pods.remove(&uid);
                for action in self.references.release(&uid) {
                    self.follower.act(action);
                }
                if let Some(state) = self.devices.get_mut(&device) {
                    Arc::make_mut(&mut state.set).bundles.remove(&uid);
                    state.awaited.remove(&uid);
                    self.dirty.insert(device);
                }
            }
            PodChange::Applied(device, uid, pod) => {
                let digest = digest_of(&pod);
                let known = self.pods.get(&uid);
                let unchanged = known.is_some_and(|held| held.digest == digest);
                let complained = known.is_some_and(|held| held.complained);
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                let keys: BTreeSet<RefKey> = references::of(&pod)
                    .into_keys()
                    .map(|(kind, name)| RefKey { kind, namespace: namespace.clone(), name })
                    .collect();
                self.pods.insert(uid.clone(), Held { device: device.clone(), digest, complained });
                if unchanged {
                    return;
                }
                for action in self.references.want(&uid, &device, keys) {
                    self.follower.act(action);
                }
                self.build(&uid, &pod);
            }
        }
    }

    fn service(&mut self, change: ServiceChange) {
        match (change, &mut self.services) {
            (ServiceChange::Synced(services), None) => {
                self.services = Some(services);
                self.build_all();
            }
            (ServiceChange::Synced(services), Some(known)) => *known = services,
            (ServiceChange::Applied(service), Some(known)) => {
                known.insert((service.namespace.clone(), service.name.clone()), service);
            }
            (ServiceChange::Gone(key), Some(known)) => {
                known.remove(&key);
            }
            // Changes come after the first list.
            (ServiceChange::Applied(_) | ServiceChange::Gone(_), None) => {}
        }
    }

    fn arrival(&mut self, arrival: Arrival) {
        if self.references.arrived(&arrival.key, arrival.generation, arrival.state) {
            for uid in self.references.users(&arrival.key) {
                self.rebuild(&uid);
            }
        }
    }

    fn build_all(&mut self) {
        let uids: Vec<PodUid> = self.pods.keys().cloned().collect();
        for uid in uids {
            self.rebuild(&uid);
        }
    }

    /// Builds a pod anew although it has not changed itself.
    fn rebuild(&mut self, uid: &PodUid) {
        // One that is not there any more is about to be told gone. One that is newer than what was told is, too.
        let pod = self.pods.get(uid).and_then(|held| self.contents.of_device(&held.device, uid));
        if let Some(pod) = pod {
            self.build(uid, &pod);
        }
    }

    fn build(&mut self, uid: &PodUid, pod: &Pod) {
        let (Some(services), Some(held)) = (&self.services, self.pods.get_mut(uid)) else { return };
        let env = service_env(pod, services);
        let built = match build(pod, |key| self.references.state(key), &env) {
            Ok(built) => built,
            Err(BuildError::Unresolved) => return,
            Err(error) => {
                if !held.complained {
                    tracing::error!(device = %held.device, pod = %uid, %error, "a pod cannot be given to its device");
                    held.complained = true;
                }
                return;
            }
        };
        let device = held.device.clone();
        let state = self.devices.entry(device.clone()).or_default();
        state.awaited.remove(uid);
        let changed = state.set.bundles.get(uid).is_none_or(|before: &Built| before.digest != built.digest);
        if changed {
            Arc::make_mut(&mut state.set).bundles.insert(uid.clone(), built);
        }
        if changed || !state.published {
            self.dirty.insert(device);
        }
    }

    fn publish(&mut self) {
        if !self.pods_synced || self.services.is_none() {
            return;
        }
        for device in std::mem::take(&mut self.dirty) {
            let Some(state) = self.devices.get_mut(&device) else { continue };
            if state.exists && (state.published || state.awaited.is_empty()) {
                state.published = true;
                self.sets.publish(&device, Arc::clone(&state.set));
            }
        }
    }
}
