//! The labels by which everything is found again after the agent restarted, and by which what others run on
//! the device is told apart from what is ours.
//!
//! The names with `io.kubernetes.` are those that every kubelet's runtime uses, so that log shippers and
//! metric collectors on the device find pods as they do elsewhere.

use std::collections::BTreeMap;

use fleet_wire::name::{ContainerName, PodKey};

use crate::runtime::{ContainerSpec, SandboxSpec};

pub(super) const MANAGED_BY: &str = "fleet.harmony.io/managed-by";
pub(super) const MANAGER: &str = "device-kubelet";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_NAME: &str = "io.kubernetes.pod.name";
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const ATTEMPT: &str = "io.kubernetes.container.restartCount";
const LOG_PATH: &str = "io.kubernetes.container.logpath";
const IMAGE: &str = "fleet.harmony.io/image";
/// The caller's labels as one JSON object: Podman mixes an image's labels into a container's.
const FREE: &str = "fleet.harmony.io/labels";
/// Which namespaces of the device the pod's containers join, e.g. `pid,ipc`.
const HOST_NAMESPACES: &str = "fleet.harmony.io/host-namespaces";

/// Namespaces of the device that a container joins by itself, because Podman's pods cannot hand them on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct HostNamespaces {
    pub(super) pid: bool,
    pub(super) ipc: bool,
}

fn pod_labels(pod: &PodKey) -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        (POD_NAMESPACE.to_owned(), pod.namespace.to_string()),
        (POD_NAME.to_owned(), pod.name.to_string()),
        (POD_UID.to_owned(), pod.uid.to_string()),
    ])
}

pub(super) fn of_sandbox(spec: &SandboxSpec) -> BTreeMap<String, String> {
    let mut labels = pod_labels(&spec.pod);
    let joined: Vec<&str> = [(spec.host_pid, "pid"), (spec.host_ipc, "ipc")]
        .into_iter()
        .filter_map(|(wanted, name)| wanted.then_some(name))
        .collect();
    if !joined.is_empty() {
        labels.insert(HOST_NAMESPACES.to_owned(), joined.join(","));
    }
    labels
}

pub(super) fn of_container(spec: &ContainerSpec) -> BTreeMap<String, String> {
    let mut labels = pod_labels(&spec.pod);
    labels.insert(CONTAINER_NAME.to_owned(), spec.name.to_string());
    labels.insert(ATTEMPT.to_owned(), spec.attempt.to_string());
    labels.insert(LOG_PATH.to_owned(), spec.log_path.display().to_string());
    labels.insert(IMAGE.to_owned(), spec.image.clone());
    let free = serde_json::Value::from_iter(spec.labels.clone());
    labels.insert(FREE.to_owned(), free.to_string());
    labels
}

/// What the labels of a container say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerLabels {
    pub(super) pod: PodKey,
    pub(super) name: ContainerName,
    pub(super) attempt: u32,
    pub(super) log_path: String,
    pub(super) image: String,
    pub(super) free: BTreeMap<String, String>,
}

/// The pod that labels name, if they are ours.
pub(super) fn pod(labels: &BTreeMap<String, String>) -> Option<PodKey> {
    if labels.get(MANAGED_BY)? != MANAGER {
        return None;
    }
    Some(PodKey {
        namespace: labels.get(POD_NAMESPACE)?.parse().ok()?,
        name: labels.get(POD_NAME)?.parse().ok()?,
        uid: labels.get(POD_UID)?.parse().ok()?,
    })
}

/// The container that labels name, if they are ours.
pub(super) fn container(labels: &BTreeMap<String, String>) -> Option<ContainerLabels> {
    Some(ContainerLabels {
        pod: pod(labels)?,
        name: labels.get(CONTAINER_NAME)?.parse().ok()?,
        attempt: labels.get(ATTEMPT)?.parse().ok()?,
        log_path: labels.get(LOG_PATH)?.clone(),
        image: labels.get(IMAGE)?.clone(),
        free: serde_json::from_str(labels.get(FREE)?).ok()?,
    })
}

pub(super) fn host_namespaces(labels: &BTreeMap<String, String>) -> HostNamespaces {
    let joined = labels.get(HOST_NAMESPACES).map_or("", String::as_str);
    HostNamespaces { pid: joined.split(',').any(|n| n == "pid"), ipc: joined.split(',').any(|n| n == "ipc") }
}

/// Query that selects what is ours, of one pod if given.
pub(super) fn filter(pod: Option<&str>) -> String {
    let mut wanted = vec![format!("{MANAGED_BY}={MANAGER}")];
    wanted.extend(pod.map(|uid| format!("{POD_UID}={uid}")));
    super::libpod::query(&serde_json::json!({ "label": wanted }).to_string())
}
