//! The device as a Node: what it has, how it is.
//!
//! [`Inventory`] turns what the system's files say into a `NodeStatus` as a kubelet would write it;
//! [`watch()`] keeps one up to date and tells only of changes. Neither speaks to the network.

pub mod conditions;
pub mod host;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerImage, NodeAddress, NodeCondition, NodeStatus, NodeSwapStatus, NodeSystemInfo},
    apimachinery::pkg::api::resource::Quantity,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use self::{
    conditions::{Conditions, Disk, MEMORY_RESERVE, Observation},
    host::{HostFiles, Machine, Sensors, go_architecture},
};
use crate::{
    pods::{admission::capacity::Allocatable, quantity},
    runtime::{ListedImage, Result, Runtime, RuntimeError},
};

/// `nodeInfo.kubeletVersion`. Clients read the minor to know what a kubelet can do: it is the one of the
/// Kubernetes API that this agent is built with. What follows is the agent's own version.
pub const KUBELET_VERSION: &str = concat!("v1.36.0-harmony.", env!("CARGO_PKG_VERSION"));
/// When the device is looked at although no heartbeat is sent.
const LOOK_AT_LATEST: Duration = Duration::from_secs(15);
/// When it is not looked at again although one is.
const LOOK_AT_MOST: Duration = Duration::from_secs(5);
/// How often the runtime is asked whether it lives.
const ASK_RUNTIME_EVERY: Duration = Duration::from_secs(60);
/// How often it is asked for its images when nothing seems to have changed: somebody may pull one by hand. Podman
/// reads each from its disk for that.
const LIST_IMAGES_EVERY: Duration = Duration::from_secs(600);
/// How long the runtime may take to answer.
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(30);
/// A kubelet's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;
/// A kubelet's limit of names for one image.
const MAX_IMAGE_NAMES: usize = 5;
/// Share of the disk, in percent, that pods may fill: the rest is the limit of `DiskPressure`.
const DISK_ALLOCATABLE: u64 = 90;

/// What is known of the container runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// E.g. `podman://4.3.1`; as it was last known.
    pub version: String,
    /// Why it cannot be used right now.
    pub problem: Option<String>,
    /// Its images.
    pub images: Vec<ListedImage>,
}

impl RuntimeFacts {
    /// Takes answers in. A runtime that refuses to list its images (one of them is damaged, after a power cut in
    /// the middle of a pull, say) runs containers all the same.
    fn answered(&mut self, version: Result<String>, images: Result<Vec<ListedImage>>) {
        match (version, images) {
            (Ok(version), Ok(images)) => {
                *self = Self { version, problem: None, images };
            }
            (Ok(version), Err(error @ RuntimeError::Refused { .. })) => {
                tracing::warn!(%error, "the Node shows the images that were there before");
                (self.version, self.problem) = (version, None);
            }
            (Err(error), _) | (_, Err(error)) => self.problem = Some(error.to_string()),
        }
    }
}

/// Makes `NodeStatus` from what it sees.
#[derive(Debug)]
pub struct Inventory {
    files: HostFiles,
    machine: Machine,
    sensors: Sensors,
    data_dir: PathBuf,
    max_pods: u32,
    conditions: Conditions,
}

impl Inventory {
    /// Reads what stays the same until the next boot.
    pub fn new(files: HostFiles, data_dir: &Path, max_pods: u32) -> Self {
        Self {
            machine: files.machine(),
            sensors: files.sensors(),
            files,
            data_dir: data_dir.to_owned(),
            max_pods,
            conditions: Conditions::default(),
        }
    }

    /// Looks at the device again.
    pub fn observe(&mut self, runtime: &RuntimeFacts, now: Timestamp) -> NodeStatus {
        let seen = Observation {
            load: self.files.load(&self.sensors),
            disk: disk(&self.data_dir),
            runtime_problem: runtime.problem.clone(),
        };
        self.status(&seen, runtime, local_address(), now)
    }

    /// What pods may ask for together.
    pub fn allocatable(&self) -> Allocatable {
        let (_, allocatable) = resources(&self.machine, disk(&self.data_dir), self.max_pods);
        let text = |resource: &str| allocatable.get(resource).map(|Quantity(text)| text.as_str());
        let whole = |resource: &str| text(resource).and_then(quantity::ceil);
        Allocatable {
            milli_cpu: text("cpu").and_then(quantity::millis).unwrap_or(i64::MAX),
            memory: whole("memory").unwrap_or(i64::MAX),
            ephemeral_storage: whole("ephemeral-storage"),
            pods: i64::from(self.max_pods),
        }
    }

    /// The device's id of this boot.
    pub fn boot_id(&self) -> &str {
        &self.machine.boot_id
    }

    fn status(
        &mut self,
        seen: &Observation,
        runtime: &RuntimeFacts,
        address: Option<IpAddr>,
        now: Timestamp,
    ) -> NodeStatus {
        let (capacity, allocatable) = resources(&self.machine, seen.disk, self.max_pods);
        NodeStatus {
            addresses: address.map(|address| {
                vec![NodeAddress { type_: "InternalIP".to_owned(), address: address.to_string() }]
            }),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(self.conditions.update(seen, now)),
            images: Some(images(&runtime.images)),
            node_info: Some(NodeSystemInfo {
                architecture: go_architecture(std::env::consts::ARCH).to_owned(),
                operating_system: std::env::consts::OS.to_owned(),
                boot_id: self.machine.boot_id.clone(),
                machine_id: self.machine.machine_id.clone(),
                system_uuid: self.machine.system_uuid.clone(),
                kernel_version: self.machine.kernel.clone(),
                os_image: self.machine.os_image.clone(),
                container_runtime_version: runtime.version.clone(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                kube_proxy_version: String::new(),
                swap: self
                    .machine
                    .swap
                    .and_then(|bytes| i64::try_from(bytes).ok())
                    .map(|capacity| NodeSwapStatus { capacity: Some(capacity) }),
            }),
            ..NodeStatus::default()
        }
    }
}

type Resources = BTreeMap<String, Quantity>;

/// Capacity and allocatable. What is kept back is what the conditions call pressure.
fn resources(machine: &Machine, disk: Option<Disk>, max_pods: u32) -> (Resources, Resources) {
    let kibibytes = |bytes: u64| format!("{}Ki", bytes / 1024);
    let mut capacity = vec![
        ("cpu", machine.processors.to_string()),
        ("memory", kibibytes(machine.memory)),
        ("pods", max_pods.to_string()),
    ];
    let mut allocatable = vec![
        ("cpu", machine.processors.to_string()),
        ("memory", kibibytes(machine.memory.saturating_sub(MEMORY_RESERVE))),
        ("pods", max_pods.to_string()),
    ];
    if let Some(disk) = disk {
        capacity.push(("ephemeral-storage", kibibytes(disk.size)));
        allocatable.push(("ephemeral-storage", (disk.size / 100 * DISK_ALLOCATABLE).to_string()));
    }
    let quantities = |list: Vec<(&str, String)>| {
        list.into_iter().map(|(name, value)| (name.to_owned(), Quantity(value))).collect()
    };
    (quantities(capacity), quantities(allocatable))
}

/// The largest images, largest first, as a kubelet lists them.
fn images(images: &[ListedImage]) -> Vec<ContainerImage> {
    let mut listed: Vec<&ListedImage> = images.iter().filter(|image| !image.names.is_empty()).collect();
    listed.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    listed
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| ContainerImage {
            names: Some(image.names.iter().take(MAX_IMAGE_NAMES).cloned().collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// The file system of the device's data.
fn disk(path: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        size: stat.f_blocks.saturating_mul(stat.f_frsize),
        available: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        inodes_free: stat.f_favail,
    })
}

/// The address from which the device would reach the outside; `None` without a route.
fn local_address() -> Option<IpAddr> {
    // Connecting a datagram socket chooses a source address and sends nothing. The target is reserved for
    // documentation, so that it is routed like any far address.
    let socket = UdpSocket::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// Whether two statuses say the same: the times at which they were made do not count.
pub fn same(left: &NodeStatus, right: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| NodeStatus {
        conditions: status.conditions.as_ref().map(|conditions| {
            conditions
                .iter()
                .map(|condition| NodeCondition { last_heartbeat_time: None, ..condition.clone() })
                .collect()
        }),
        ..status.clone()
    };
    timeless(left) == timeless(right)
}

/// What is worth a look.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Images may have changed.
    pub images: Arc<Notify>,
    /// The agent is awake for a heartbeat. A look of its own a moment later would wake the device once more, and twice
    /// before that: a timer of tokio's that is ten seconds away is looked at some seconds and some milliseconds before.
    pub heartbeat: Arc<Notify>,
}

/// Keeps `status` up to date for ever; its receivers see only changes.
pub async fn watch(
    mut inventory: Inventory,
    runtime: Arc<dyn Runtime>,
    hints: Hints,
    status: watch::Sender<Option<NodeStatus>>,
) {
    let mut facts = RuntimeFacts::default();
    let mut asked: Option<Instant> = None;
    let mut listed: Option<Instant> = None;
    let mut looked: Option<Instant> = None;
    let mut hinted = false;
    loop {
        let due = looked.map_or_else(Instant::now, |looked| looked + LOOK_AT_LATEST);
        tokio::select! {
            () = sleep_until(due) => {}
            () = hints.heartbeat.notified() => {
                if looked.is_some_and(|looked| looked.elapsed() < LOOK_AT_MOST) {
                    continue;
                }
            }
            // Looked at with the next look: a rollout changes much at once.
            () = hints.images.notified() => {
                hinted = true;
                continue;
            }
        }
        looked = Some(Instant::now());
        let due = |last: Option<Instant>, every: Duration| last.is_none_or(|last| last.elapsed() >= every);
        let list = hinted || facts.problem.is_some() || due(listed, LIST_IMAGES_EVERY);
        if list || due(asked, ASK_RUNTIME_EVERY) {
            ask(&*runtime, &mut facts, list).await;
            asked = Some(Instant::now());
            listed = if list { asked } else { listed };
            hinted = false;
        }
        let seen = inventory.observe(&facts, Timestamp::now());
        status.send_if_modified(|last| {
            let changed = !last.as_ref().is_some_and(|last| same(last, &seen));
            if changed {
                *last = Some(seen);
            }
            changed
        });
    }
}

/// `list`: for its images, too.
async fn ask(runtime: &dyn Runtime, facts: &mut RuntimeFacts, list: bool) {
    let known = facts.images.clone();
    let images = async { if list { runtime.list_images().await } else { Ok(known) } };
    let answers = async { tokio::join!(runtime.version(), images) };
    match tokio::time::timeout(RUNTIME_TIMEOUT, answers).await {
        Ok((version, images)) => facts.answered(version, images),
        Err(_) => facts.problem = Some(format!("no answer within {} s", RUNTIME_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
#[path = "node/tests/inventory.rs"]
mod tests;
