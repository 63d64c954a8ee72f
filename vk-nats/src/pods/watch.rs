//! Follows all pods that are bound to some node, and keeps those of devices.

use std::{collections::HashSet, time::Duration};

use fleet_daemon::health::CheckHandle;
use fleet_kube::{Readiness, Watch};
use fleet_wire::name::{DeviceName, PodUid};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::ListParams,
    runtime::watcher::{Config, Event},
};
use tokio::sync::mpsc;

use super::store::Pods;
use crate::nodes::Nodes;

/// How long the API server may take to list the pods of one device. Nothing else is heard meanwhile.
const LIST_WITHIN: Duration = Duration::from_secs(10);

/// What became of a pod on a device, or of the device.
#[derive(Debug, Clone)]
pub enum PodChange {
    /// It is there, with this content.
    Applied(DeviceName, PodUid, Box<Pod>),
    /// It is no longer in the API.
    Gone(DeviceName, PodUid),
    /// All pods were seen once.
    Synced,
    /// The Node of this device has come, and all pods that are there for it were told before.
    Appeared(DeviceName),
    /// The Node of this device is gone.
    Left(DeviceName),
}

/// Follows the pods for ever. `devices` names those whose Node is there (`true`), at each change of it, or gone.
pub async fn watch(
    client: kube::Client,
    nodes: Nodes,
    pods: Pods,
    mut devices: mpsc::UnboundedReceiver<(DeviceName, bool)>,
    changes: mpsc::UnboundedSender<PodChange>,
    check: CheckHandle,
) {
    // Nodes come first: a pod cannot be told from those of servers before its Node is known.
    nodes.synced().await;
    let api: Api<Pod> = Api::all(client);
    let config = Config::default().fields("spec.nodeName!=");
    let mut watch = Watch::new(api.clone(), config, "pods", Readiness::Current(check));
    let mut follower = Follower::new(nodes, pods, changes);
    loop {
        tokio::select! {
            event = watch.event() => match event {
                Some(event) => follower.take(event.modify(slim)),
                None => return,
            },
            // In the middle of a list it is not known which pods were seen before their Node.
            Some((device, there)) = devices.recv(), if !follower.listing => {
                follower.device(&api, device, there).await;
            }
        }
    }
}

/// What nobody here reads is not kept: it would be most of the memory.
fn slim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

struct Follower {
    nodes: Nodes,
    pods: Pods,
    changes: mpsc::UnboundedSender<PodChange>,
    /// A list is not complete yet, and these are its pods so far.
    listing: bool,
    listed: HashSet<PodUid>,
    /// Devices that were told to have appeared.
    appeared: HashSet<DeviceName>,
}

impl Follower {
    fn new(nodes: Nodes, pods: Pods, changes: mpsc::UnboundedSender<PodChange>) -> Self {
        Self { nodes, pods, changes, listing: true, listed: HashSet::new(), appeared: HashSet::new() }
    }

    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => {
                self.listing = true;
                self.listed.clear();
                self.pods.clear_elsewhere();
            }
            Event::InitApply(pod) => {
                if let Some(uid) = self.apply(pod) {
                    self.listed.insert(uid);
                }
            }
            Event::InitDone => {
                for uid in self.pods.uids() {
                    if !self.listed.contains(&uid) {
                        self.gone(&uid);
                    }
                }
                self.listing = false;
                self.listed = HashSet::new();
                self.send(PodChange::Synced);
            }
            Event::Apply(pod) => {
                self.apply(pod);
            }
            Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
                self.pods.forget_elsewhere(&node, &uid);
                if let Ok(uid) = uid.parse() {
                    self.gone(&uid);
                }
            }
        }
    }

    fn apply(&mut self, pod: Pod) -> Option<PodUid> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref())?;
        let uid = pod.metadata.uid.as_deref()?;
        let device = node.parse::<DeviceName>().ok().filter(|device| self.nodes.contains(device));
        let Some(device) = device else {
            self.pods.note_elsewhere(node, uid);
            return None;
        };
        let uid: PodUid = uid.parse().ok()?;
        if self.pods.insert(&device, &uid, &pod) {
            self.send(PodChange::Applied(device, uid.clone(), Box::new(pod)));
        }
        Some(uid)
    }

    fn gone(&self, uid: &PodUid) {
        if let Some(device) = self.pods.remove(uid) {
            self.send(PodChange::Gone(device, uid.clone()));
        }
    }

    /// A device appears once all its pods are known: to one that still holds them, a set without them is the order
    /// to stop them.
    async fn device(&mut self, api: &Api<Pod>, device: DeviceName, there: bool) {
        if !there {
            if self.appeared.remove(&device) {
                self.send(PodChange::Left(device));
            }
            return;
        }
        if self.pods.take_elsewhere(device.as_str()) && !self.list(api, &device).await {
            return;
        }
        if !self.appeared.contains(&device) {
            self.appeared.insert(device.clone());
            self.send(PodChange::Appeared(device));
        }
    }

    /// Pods were bound to this device before its Node was seen here. `false`: they are not known yet.
    async fn list(&mut self, api: &Api<Pod>, device: &DeviceName) -> bool {
        let parameters = ListParams::default().fields(&format!("spec.nodeName={device}"));
        let reason = match tokio::time::timeout(LIST_WITHIN, api.list(&parameters)).await {
            Ok(Ok(list)) => {
                for mut pod in list.items {
                    slim(&mut pod);
                    self.apply(pod);
                }
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server did not answer within {LIST_WITHIN:?}"),
        };
        tracing::warn!(
            %device,
            reason,
            "pods of a new device cannot be listed; it keeps what it has until they are, after the next change of its Node"
        );
        self.pods.note_elsewhere(device.as_str(), "");
        false
    }

    fn send(&self, change: PodChange) {
        // The receiver ends with the process.
        let _ = self.changes.send(change);
    }
}

#[cfg(test)]
#[path = "tests/watch.rs"]
mod tests;
