//! Follows all pods that are bound to some node, and keeps those of devices.

use std::collections::HashSet;

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

/// What became of a pod on a device.
#[derive(Debug, Clone)]
pub enum PodChange {
    /// It is there, with this content.
    Applied(DeviceName, PodUid, Box<Pod>),
    /// It is no longer in the API.
    Gone(DeviceName, PodUid),
    /// All pods were seen once.
    Synced,
}

/// Follows the pods for ever. `appeared` names devices whose Node has just come.
pub async fn watch(
    client: kube::Client,
    nodes: Nodes,
    pods: Pods,
    mut appeared: mpsc::UnboundedReceiver<DeviceName>,
    changes: mpsc::UnboundedSender<PodChange>,
    check: CheckHandle,
) {
    // Nodes come first: a pod cannot be told from those of servers before its Node is known.
    nodes.synced().await;
    let api: Api<Pod> = Api::all(client);
    let config = Config::default().fields("spec.nodeName!=");
    let mut watch = Watch::new(api.clone(), config, "pods", Readiness::Current(check));
    let mut follower = Follower { nodes, pods, changes, listed: HashSet::new() };
    loop {
        tokio::select! {
            event = watch.event() => match event {
                Some(event) => follower.take(event.modify(slim)),
                None => return,
            },
            Some(device) = appeared.recv() => {
                if follower.pods.take_elsewhere(device.as_str()) {
                    follower.list(&api, &device).await;
                }
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
    /// Pods of a list that is not complete yet.
    listed: HashSet<PodUid>,
}

impl Follower {
    fn take(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => {
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

    /// Pods were bound to this device before its Node was seen here.
    async fn list(&mut self, api: &Api<Pod>, device: &DeviceName) {
        let parameters = ListParams::default().fields(&format!("spec.nodeName={device}"));
        match api.list(&parameters).await {
            Ok(list) => {
                for mut pod in list.items {
                    slim(&mut pod);
                    if let Some(uid) = self.apply(pod) {
                        // A list may be under way: these pods exist.
                        self.listed.insert(uid);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%device, %error, "pods of a new device cannot be listed; they come with their next change");
                self.pods.note_elsewhere(device.as_str(), "");
            }
        }
    }

    fn send(&self, change: PodChange) {
        // The receiver ends with the process.
        let _ = self.changes.send(change);
    }
}
