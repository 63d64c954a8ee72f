//! Pods on Podman 4.3 to 5.x, over libpod's REST service on a unix socket.
//!
//! A pod is a Podman pod: its infra container holds the network namespace and the published ports, the
//! others join it. Names are deterministic (`<uid>`, `<uid>_infra`, `<uid>_<container>_<attempt>`), so
//! that a repeated create is a conflict and never a double. Labels carry all that is needed to find everything again
//! ([`labels`]); nothing is written by this module. What does not carry our label is never touched.
//!
//! Starting a pod with one container takes five requests, of which Podman itself spends about 0.2 s:
//! create and start the pod, look at its infra container (addresses, and where exits are
//! noted), create and start the container.
//!
//! ```text
//! podman.rs      the runtime trait: which requests in which order
//!  ├ images      the same, for images
//!  ├ listing     the same, for lists of containers
//!  ├ spec        specification → body of a create              (pure)
//!  ├ answer      answer → what the trait returns               (pure)
//!  ├ known       what was learned of sandboxes and containers, until they are gone
//!  ├ labels      what is ours, and whose it is                 (pure)
//!  ├ libpod      one request on the socket                     (hyper)
//!  ├ verbs       the requests that podman-api does for us      (podman-api)
//!  ├ exits       sees containers end                           (inotify)
//!  ├ reopen      has a container's log go on in a new file  (conmon)
//!  ├ oom         asks the kernel whether it killed for memory
//!  └ watch       turns exits and lost connections into events  (one task)
//! ```

mod answer;
mod exits;
mod images;
mod known;
mod labels;
mod libpod;
mod listing;
mod oom;
mod reopen;
mod spec;
mod verbs;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fleet_wire::name::PodUid;
use futures::{
    FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use jiff::Timestamp;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    answer::{Created, FailedStart, InspectedContainer, ListedContainer, ListedPod},
    known::Known,
    labels::HostNamespaces,
    libpod::{Fault, Libpod, query},
    oom::PodCgroups,
    spec::{ContainerBody, Device, PodBody},
    verbs::Verbs,
    watch::Watch,
};
use super::{
    Container, ContainerId, ContainerSpec, Image, ListedImage, RegistryAuth, Result, Runtime, RuntimeError,
    RuntimeEvent, Sandbox, SandboxId, SandboxSpec,
};

/// For answers that Podman gives from its database.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// For what starts processes or waits for locks; a busy Pi takes its time.
const WORK_LIMIT: Duration = Duration::from_secs(180);
/// Exit code of a container that could not be started, whatever the reason: containerd's, so that status is
/// the same as on any other node.
const EXIT_START_FAILED: i32 = 128;
/// Limit of a log that nobody reaches: the agent rotates logs, and conmon must not cut them itself. Said, because without
/// it the device's `containers.conf` could set one.
const UNBOUNDED_LOG: u64 = 1 << 60;
/// Inspects at once.
const INSPECTS: usize = 4;

/// The runtime on a Podman service.
#[derive(Debug)]
pub struct PodmanRuntime {
    inner: Arc<Inner>,
    // Ends the watching task.
    _stop: DropGuard,
}

#[derive(Debug)]
struct Inner {
    libpod: Libpod,
    verbs: Verbs,
    watch: Watch,
    known: Mutex<Known>,
    no_swap: bool,
    sees_device: bool,
    pull_limit: Duration,
}

impl PodmanRuntime {
    /// The runtime on the service behind a socket, given as path or `unix://` address. Does not connect yet: a service
    /// that is down shows at the first call. Needs a running tokio runtime.
    pub fn new(socket: &str) -> Self {
        Self::with(socket, true, images::PULL_LIMIT)
    }

    /// The same, where a pull may go on for this time without progress, instead of a quarter of an hour.
    pub fn with_pull_limit(socket: &str, limit: Duration) -> Self {
        Self::with(socket, true, limit)
    }

    /// The same for an agent that does not see the device's processes and files (in a container of its own, say):
    /// exits are learned from Podman's event stream.
    pub fn remote(socket: &str) -> Self {
        Self::with(socket, false, images::PULL_LIMIT)
    }

    fn with(socket: &str, sees_device: bool, pull_limit: Duration) -> Self {
        let socket = PathBuf::from(socket.strip_prefix("unix://").unwrap_or(socket));
        let stop = CancellationToken::new();
        let libpod = Libpod::new(socket.clone());
        let inner = Arc::new_cyclic(|inner| Inner {
            verbs: Verbs::new(&socket),
            watch: Watch::start(inner.clone(), stop.clone(), sees_device),
            libpod,
            known: Mutex::default(),
            no_swap: bounds_swap(Path::new("/sys/fs/cgroup")),
            sees_device,
            pull_limit,
        });
        Self { inner, _stop: stop.drop_guard() }
    }
}

/// cgroup v2 bounds swap on its own; v1 does only when the kernel accounts for it.
fn bounds_swap(cgroup: &Path) -> bool {
    cgroup.join("cgroup.controllers").exists() || cgroup.join("memory/memory.memsw.limit_in_bytes").exists()
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one insertion or removal: a panic in between leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, operation: impl Into<String>, fault: Fault) -> RuntimeError {
        let operation = operation.into();
        match fault {
            Fault::Unreachable(message) => {
                self.watch.lost();
                RuntimeError::Unavailable { operation, message }
            }
            fault => RuntimeError::Refused { operation, message: fault.to_string() },
        }
    }

    async fn version(&self) -> Result<String> {
        // `/version` starts conmon and the OCI runtime to ask for theirs: 0.4 s. The ping tells Podman's own.
        let operation = "ask for the version";
        let answer =
            self.libpod.get("/_ping", READ_LIMIT).await.map_err(|fault| self.error(operation, fault))?;
        let version =
            answer.headers.get("libpod-api-version").and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        Ok(format!("podman://{version}"))
    }

    async fn run_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox> {
        let create = || format!("create sandbox of {}", spec.pod);
        let start = || format!("start sandbox of {}", spec.pod);
        let created = self
            .libpod
            .post_json("/pods/create", &PodBody::new(&spec), WORK_LIMIT)
            .await
            .and_then(|answer| answer.json::<Created>());
        let id = match created {
            Ok(created) => created.id,
            Err(Fault::Status { status, .. }) if status == http::StatusCode::CONFLICT => {
                return Err(RuntimeError::Conflict { what: "sandbox", id: spec::pod_name(&spec) });
            }
            Err(fault) => return Err(self.error(create(), fault)),
        };
        let infra = spec::infra_name(&spec::pod_name(&spec));
        let started = async {
            self.libpod.post(&format!("/pods/{id}/start"), WORK_LIMIT).await?;
            self.inspect(&infra).await
        };
        let infra = match started.await {
            Ok(infra) => infra,
            Err(fault) => {
                // Half a sandbox would only be in the way of the next attempt.
                if let Err(left) = self.verbs.delete_pod(&id, WORK_LIMIT).await {
                    tracing::warn!(pod = %spec.pod, error = %left, "a sandbox that did not start was not removed");
                }
                return Err(self.error(start(), fault));
            }
        };
        self.watch.see_exits_of(infra.state.conmon_pid);
        let ips = if spec.host_network { Vec::new() } else { infra.ips() };
        let id = SandboxId(id);
        let created_at = infra.created_at().unwrap_or_else(Timestamp::now);
        let mut known = self.known();
        if let Some(cgroups) = PodCgroups::new(&infra.id, &infra.state.cgroup_path) {
            known.cgroups.insert(spec.pod.uid.clone(), cgroups);
        }
        known.owners.insert(infra.id.clone(), spec.pod.uid.clone());
        known.addresses.insert(infra.id, ips.clone());
        known.host_namespaces.insert(id.clone(), HostNamespaces { pid: spec.host_pid, ipc: spec.host_ipc });
        drop(known);
        Ok(Sandbox { id, pod: spec.pod, ready: true, ips, created_at })
    }

    /// Podman's own stop of a pod does nothing when one of its containers has ended already (4.3), and its removal gives
    /// each container its grace: so the containers are killed one by one, then the infra container is stopped,
    /// which takes the network down before it answers.
    ///
    /// Gives the ids of the containers in it.
    async fn stop_sandbox(&self, id: &SandboxId) -> Result<Vec<String>> {
        let operation = || format!("stop sandbox {}", id.0);
        let filters = query(&serde_json::json!({ "pod": [id.0] }).to_string());
        let path = format!("/containers/json?all=true&filters={filters}");
        let listed: Vec<ListedContainer> = match self.libpod.get(&path, READ_LIMIT).await {
            Ok(answer) => answer.json().map_err(|fault| self.error(operation(), fault))?,
            Err(fault) if fault.is_not_found() => return Ok(Vec::new()),
            Err(fault) => return Err(self.error(operation(), fault)),
        };
        let ids = listed.iter().map(|container| container.id.clone()).collect();
        let (infra, containers): (Vec<_>, Vec<_>) = listed.into_iter().partition(|c| c.is_infra);
        stream::iter(containers.into_iter().filter(ListedContainer::is_running))
            .map(async |container| match self.verbs.kill_container(&container.id, WORK_LIMIT).await {
                Err(fault) if !has_ended(&fault) => Err(fault),
                _ => Ok(()),
            })
            .buffer_unordered(INSPECTS)
            .try_collect::<()>()
            .await
            .map_err(|fault| self.error(operation(), fault))?;
        for infra in infra {
            self.stop(&infra.id, 0).await.map_err(|fault| self.error(operation(), fault))?;
            self.known().addresses.remove(&infra.id);
        }
        Ok(ids)
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let containers = self.stop_sandbox(id).await?;
        match self.verbs.delete_pod(&id.0, WORK_LIMIT).await {
            Err(fault) if !fault.is_not_found() => Err(self.error(format!("remove sandbox {}", id.0), fault)),
            _ => {
                self.known().forget(id, &containers);
                Ok(())
            }
        }
    }

    async fn list_pods(&self) -> Result<Vec<ListedPod>, Fault> {
        let path = format!("/pods/json?filters={}", labels::filter(None));
        self.libpod.get(&path, READ_LIMIT).await?.json()
    }

    async fn list_sandboxes(&self) -> Result<Vec<Sandbox>> {
        let operation = "list sandboxes";
        let pods = self.list_pods().await.map_err(|fault| self.error(operation, fault))?;
        let sandboxes = stream::iter(pods)
            .map(async |pod| {
                let ips = self.addresses_of(&pod).await?;
                self.known().host_namespaces.insert(SandboxId(pod.id.clone()), pod.host_namespaces());
                Ok(pod.into_sandbox(ips))
            })
            .buffered(INSPECTS)
            .try_filter_map(async |sandbox| Ok(sandbox))
            .try_collect()
            .await;
        sandboxes.map_err(|fault| self.error(operation, fault))
    }

    async fn addresses_of(&self, pod: &ListedPod) -> Result<Vec<String>, Fault> {
        if !pod.is_ready() {
            self.known().addresses.remove(&pod.infra_id);
            return Ok(Vec::new());
        }
        if self.watch.is_watching()
            && let Some(ips) = self.known().addresses.get(&pod.infra_id)
        {
            return Ok(ips.clone());
        }
        let infra = match self.inspect(&pod.infra_id).await {
            Ok(infra) => infra,
            // Removed since it was listed.
            Err(fault) if fault.is_not_found() => return Ok(Vec::new()),
            Err(fault) => return Err(fault),
        };
        self.watch.see_exits_of(infra.state.conmon_pid);
        let ips = infra.ips();
        let mut known = self.known();
        if let Some((pod, cgroups)) = pod.owner().zip(PodCgroups::new(&infra.id, &infra.state.cgroup_path)) {
            known.cgroups.insert(pod, cgroups);
        }
        known.addresses.insert(infra.id, ips.clone());
        Ok(ips)
    }

    async fn inspect(&self, container: &str) -> Result<InspectedContainer, Fault> {
        let path = format!("/containers/{container}/json");
        self.libpod.get(&path, READ_LIMIT).await?.json()
    }

    async fn create_container(&self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<ContainerId> {
        let operation = || format!("create container {}", spec.name);
        let refused = |message: String| RuntimeError::Refused { operation: operation(), message };
        let host = self.host_namespaces_of(sandbox).await?;
        if let Some(folder) = spec.log_path.parent() {
            tokio::fs::create_dir_all(folder)
                .await
                .map_err(|error| refused(format!("log folder {}: {error}", folder.display())))?;
        }
        let body = {
            let log_size = if self.sees_device { UNBOUNDED_LOG } else { spec.log_max_bytes };
            ContainerBody::new(&sandbox.0, &spec, host, Device { no_swap: self.no_swap, log_size })
                .map_err(refused)?
        };
        let created = self
            .libpod
            .post_json("/containers/create", &body, WORK_LIMIT)
            .await
            .and_then(|answer| answer.json::<Created>());
        match created {
            Ok(created) => {
                self.known().owners.insert(created.id.clone(), spec.pod.uid.clone());
                Ok(ContainerId(created.id))
            }
            // All of these come with status 500.
            Err(fault) if fault.says("already in use") => {
                Err(RuntimeError::Conflict { what: "container", id: spec::container_name(&spec) })
            }
            Err(fault) if fault.says("image not known") => {
                Err(RuntimeError::NotFound { what: "image", id: spec.image.clone() })
            }
            Err(fault) if fault.says("no such pod") => {
                Err(RuntimeError::NotFound { what: "sandbox", id: sandbox.0.clone() })
            }
            Err(fault) => Err(self.error(operation(), fault)),
        }
    }

    async fn host_namespaces_of(&self, sandbox: &SandboxId) -> Result<HostNamespaces> {
        if let Some(host) = self.known().host_namespaces.get(sandbox) {
            return Ok(*host);
        }
        let pods = self
            .list_pods()
            .await
            .map_err(|fault| self.error(format!("look at sandbox {}", sandbox.0), fault))?;
        let found = pods.iter().find(|pod| pod.id == sandbox.0);
        let host = found
            .map(ListedPod::host_namespaces)
            .ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: sandbox.0.clone() })?;
        self.known().host_namespaces.insert(sandbox.clone(), host);
        Ok(host)
    }

    async fn start_container(&self, id: &ContainerId) -> Result<()> {
        match self.verbs.start_container(&id.0, WORK_LIMIT).await {
            Err(fault) if fault.is_not_modified() => Ok(()),
            Err(fault) if fault.is_not_found() => Err(not_found("container", &id.0)),
            Err(fault) => {
                if let Fault::Status { message, .. } = &fault {
                    let failed = FailedStart {
                        at: Timestamp::now(),
                        exit_code: EXIT_START_FAILED,
                        message: message.clone(),
                    };
                    self.known().failed.insert(id.0.clone(), failed);
                }
                Err(self.error("start container", fault))
            }
            Ok(()) => {
                self.known().failed.remove(&id.0);
                Ok(())
            }
        }
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        self.stop(&id.0, seconds).await.map_err(|fault| self.error(format!("stop container {}", id.0), fault))
    }

    async fn stop(&self, id: &str, grace_seconds: u64) -> Result<(), Fault> {
        let limit = WORK_LIMIT + Duration::from_secs(grace_seconds);
        let path = format!("/containers/{id}/stop?timeout={grace_seconds}");
        match self.libpod.post(&path, limit).await {
            Err(fault) if !has_ended(&fault) => Err(fault),
            _ => Ok(()),
        }
    }

    async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        let operation = || format!("reopen the log of container {}", id.0);
        let refused = |message: String| RuntimeError::Refused { operation: operation(), message };
        if !self.sees_device {
            return Err(refused("the agent does not see the device's files".to_owned()));
        }
        let inspected = match self.inspect(&id.0).await {
            Ok(inspected) => inspected,
            Err(fault) if fault.is_not_found() => return Err(not_found("container", &id.0)),
            Err(fault) => return Err(self.error(operation(), fault)),
        };
        let log = inspected.log_path().ok_or_else(|| refused("Podman does not tell its path".to_owned()))?;
        let ctl = inspected.static_dir.join("ctl");
        reopen::reopen(&ctl, &log).await.map_err(|error| refused(error.to_string()))
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        match self.verbs.delete_container(&id.0, WORK_LIMIT).await {
            Err(fault) if !fault.is_not_found() => {
                Err(self.error(format!("remove container {}", id.0), fault))
            }
            _ => {
                self.known().forget_container(&id.0);
                Ok(())
            }
        }
    }
}

fn not_found(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.to_owned() }
}

/// Whether a stop or kill failed only because nothing runs any more.
fn has_ended(fault: &Fault) -> bool {
    fault.is_not_modified() || fault.is_not_found() || fault.says("container state improper")
}

impl Runtime for PodmanRuntime {
    fn version(&self) -> BoxFuture<'_, Result<String>> {
        self.inner.version().boxed()
    }

    fn run_sandbox(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox>> {
        self.inner.run_sandbox(spec).boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        self.inner.stop_sandbox(id).map_ok(drop).boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        self.inner.remove_sandbox(id).boxed()
    }

    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>> {
        self.inner.list_sandboxes().boxed()
    }

    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        spec: ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        self.inner.create_container(sandbox, spec).boxed()
    }

    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.inner.start_container(id).boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a ContainerId, grace: Duration) -> BoxFuture<'a, Result<()>> {
        self.inner.stop_container(id, grace).boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.inner.reopen_log(id).boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.inner.remove_container(id).boxed()
    }

    fn list_containers<'a>(&'a self, pod: Option<&'a PodUid>) -> BoxFuture<'a, Result<Vec<Container>>> {
        self.inner.list_containers(pod).boxed()
    }

    fn image_status<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        self.inner.image_status(image).boxed()
    }

    fn pull_image<'a>(&'a self, image: &'a str, auth: Option<RegistryAuth>) -> BoxFuture<'a, Result<String>> {
        self.inner.pull_image(image, auth).boxed()
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>>> {
        self.inner.list_images().boxed()
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.inner.watch.events(self.inner.clone())
    }
}
