//! What runs containers, behind one trait.
//!
//! The verbs and words are those of the Kubernetes Container Runtime Interface, because that is the
//! vocabulary in which a kubelet's decisions are written. Two implementations exist: [`podman`], and
//! [`memory`] for tests and simulated fleets; one behaviour test-suite runs against both.
//!
//! A runtime makes what it is told, and tells what it sees. It decides nothing: restarts, back-off,
//! phases are the pod machine's.

pub(crate) mod inotify;
pub mod memory;
pub mod podman;
mod reference;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use fleet_wire::name::{ContainerName, PodKey, PodUid};
use futures::{future::BoxFuture, stream::BoxStream};
use jiff::Timestamp;

/// Id of a sandbox (a Podman pod) as the runtime gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct SandboxId(pub String);

/// Id of a container as the runtime gave it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ContainerId(pub String);

/// A port that a sandbox publishes on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the device.
    pub host_port: u16,
    /// Address on the device; empty is all.
    pub host_ip: String,
}

/// A pod's shared surroundings: network namespace, host name, published ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The pod.
    pub pod: PodKey,
    /// Host name inside.
    pub hostname: String,
    /// Uses the device's network namespace.
    pub host_network: bool,
    /// Uses the device's pid namespace.
    pub host_pid: bool,
    /// Uses the device's IPC namespace.
    pub host_ipc: bool,
    /// All containers see each other's processes.
    pub share_process_namespace: bool,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// `/etc/resolv.conf` search list, servers and options; `None` keeps the runtime's default (the device's).
    pub dns: Option<DnsConfig>,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
}

/// DNS of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options, e.g. `ndots:5`.
    pub options: Vec<String>,
}

/// What is seen of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// The pod it was made for.
    pub pod: PodKey,
    /// Whether its network is up.
    pub ready: bool,
    /// Addresses, primary first; empty for host network.
    pub ips: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A bind mount or memory file system of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    /// Path on the device.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: String,
    /// Not writable.
    pub read_only: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// Limits and requests of a container, already in the runtime's units. `None` = unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceSpec {
    /// Relative weight; from `requests.cpu`, 1024 per core, at least 2.
    pub cpu_shares: Option<u64>,
    /// Microseconds per `cpu_period`; from `limits.cpu`.
    pub cpu_quota: Option<i64>,
    /// Microseconds; 100,000.
    pub cpu_period: Option<u64>,
    /// Bytes; from `limits.memory`.
    pub memory_limit: Option<i64>,
    /// Most processes.
    pub pids_limit: Option<i64>,
    /// −1000 … 1000; from the pod's QoS class.
    pub oom_score_adj: Option<i32>,
}

/// What of `securityContext` the runtime must enforce. Unset fields keep the image's or runtime's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecuritySpec {
    /// All privileges.
    pub privileged: bool,
    /// Numeric user, or name, or `user:group`; `None` = the image's.
    pub user: Option<String>,
    /// Additional groups.
    pub supplemental_groups: Vec<String>,
    /// Capabilities to add, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities to drop, without `CAP_`; `ALL` drops all.
    pub cap_drop: Vec<String>,
    /// Root file system is read-only.
    pub read_only_root: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// `unconfined`, or the path of a profile; `None` = the runtime's default.
    pub seccomp: Option<String>,
}

/// One container to be made. Everything is resolved: no references, no defaults left to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The pod.
    pub pod: PodKey,
    /// Its name in the pod.
    pub name: ContainerName,
    /// How often it was started before: 0 for the first.
    pub attempt: u32,
    /// Image id or name as [`Runtime::image_status`] knows it.
    pub image: String,
    /// Entrypoint; empty = the image's.
    pub command: Vec<String>,
    /// Arguments; empty = the image's, unless `command` is set.
    pub args: Vec<String>,
    /// Working directory; `None` = the image's.
    pub working_dir: Option<String>,
    /// Variables in order.
    pub env: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<MountSpec>,
    /// Limits.
    pub resources: ResourceSpec,
    /// Privileges.
    pub security: SecuritySpec,
    /// Standard input stays open.
    pub stdin: bool,
    /// Has a terminal.
    pub tty: bool,
    /// Signal to stop with, e.g. `SIGTERM`; `None` = the image's.
    pub stop_signal: Option<String>,
    /// Where the runtime writes the log, in the CRI format (`time stream F|P line`).
    pub log_path: PathBuf,
    /// The log's limit in bytes, for a runtime that cannot reopen it ([`Runtime::reopen_log`]): it cuts the log itself,
    /// and what was in it is gone. Others let it grow.
    pub log_max_bytes: u64,
    /// Free labels, kept and returned.
    pub labels: BTreeMap<String, String>,
}

/// What is seen of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// The pod it was made for.
    pub pod: PodKey,
    /// Its name in the pod.
    pub name: ContainerName,
    /// How often it was started before.
    pub attempt: u32,
    /// Image as it was asked for.
    pub image: String,
    /// Image id, e.g. `sha256:…`.
    pub image_id: String,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its log file.
    pub log_path: PathBuf,
    /// Labels given at creation.
    pub labels: BTreeMap<String, String>,
}

/// Life of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// When it had begun; `None` if it could not be started.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// Exit code; 128 + signal when killed.
        exit_code: i32,
        /// The kernel killed it for memory.
        oom_killed: bool,
        /// What the runtime said, if it could not be started.
        message: String,
    },
    /// The runtime does not know (e.g. after a crash of its own).
    Unknown,
}

/// What is seen of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Id, e.g. `sha256:…`.
    pub id: String,
    /// Names and digests it is known by.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// `USER` of the image, empty if none.
    pub user: String,
    /// Whether the image has an entrypoint or command of its own.
    pub has_command: bool,
}

/// An image in a list of all: what is told without a look at each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedImage {
    /// Id, e.g. `sha256:…`.
    pub id: String,
    /// Names and digests it is known by.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
}

/// Credentials for a registry; never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryAuth({}, …)", self.username)
    }
}

/// Something changed at the runtime; look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container of this pod changed its state.
    PodChanged(PodUid),
    /// Events may have been lost: look at everything.
    Resync,
}

/// Why the runtime did not do it. `Display` is fit for an Event's message.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// There is no such sandbox, container or image.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// `sandbox`, `container`, `image`.
        what: &'static str,
        /// Its id or name.
        id: String,
    },
    /// It exists already under this name.
    #[error("{what} {id} exists already")]
    Conflict {
        /// `sandbox`, `container`.
        what: &'static str,
        /// Its id or name.
        id: String,
    },
    /// The runtime answered with an error.
    #[error("{operation}: {message}")]
    Refused {
        /// What was tried, e.g. `create container web`.
        operation: String,
        /// What the runtime said.
        message: String,
    },
    /// The runtime did not answer.
    #[error("{operation}: the container runtime does not answer: {message}")]
    Unavailable {
        /// What was tried.
        operation: String,
        /// What went wrong.
        message: String,
    },
}

/// Shorthand.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// A container runtime. All verbs are idempotent where CRI's are: stopping what is stopped and removing
/// what is gone succeed.
pub trait Runtime: Send + Sync + 'static {
    /// Name and version for `nodeInfo.containerRuntimeVersion`, e.g. `podman://4.3.1`.
    fn version(&self) -> BoxFuture<'_, Result<String>>;

    /// Makes and starts a sandbox; [`RuntimeError::Conflict`] if the pod has one.
    fn run_sandbox(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox>>;
    /// Stops all that runs in a sandbox at once (no grace) and takes its network down.
    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>>;
    /// Removes a sandbox with all its containers.
    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>>;
    /// All sandboxes that this agent made.
    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>>;

    /// Makes a container, not started.
    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        spec: ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>>;
    /// Starts a container.
    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;
    /// Sends the stop signal, waits for `grace`, then kills. Returns when it has ended.
    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<()>>;
    /// Has the log of a running container go on in a new file, which is at its path when this returns. The file that was
    /// there is complete then, and lives on under the other name that the caller gave it before. An error leaves
    /// it where it is; only when the runtime was slow, it may still be replaced later.
    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;
    /// Removes a container, killing it if it runs.
    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>>;
    /// All containers of a pod (`None`: of all pods of this agent), without the sandbox's own.
    fn list_containers<'a>(&'a self, pod: Option<&'a PodUid>) -> BoxFuture<'a, Result<Vec<Container>>>;

    /// The image under a name or id, if it is on the device.
    fn image_status<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>>;
    /// Pulls an image; returns its id.
    fn pull_image<'a>(&'a self, image: &'a str, auth: Option<RegistryAuth>) -> BoxFuture<'a, Result<String>>;
    /// All images on the device.
    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>>>;

    /// Changes as they happen. Ends never; a lost connection to the runtime yields
    /// [`RuntimeEvent::Resync`] after it is back.
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}
