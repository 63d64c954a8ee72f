//! What is on the simulated device. Synchronous; the clock is tokio's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
};

use fleet_wire::name::PodUid;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, time::Instant};

use super::program::{OnTerm, Program, Step};
use crate::runtime::{
    Container, ContainerId, ContainerSpec, ContainerState, Image, ListedImage, PortMapping, Result,
    RuntimeError, Sandbox, SandboxId, SandboxSpec, reference,
};

/// As Podman reports it.
const EXIT_START_FAILED: i32 = 128;
const EXIT_UNSEEN: i32 = 255;
/// 128 + SIGTERM.
const EXIT_TERMINATED: i32 = 143;

#[derive(Debug)]
pub(super) struct State {
    pub(super) unavailable: bool,
    /// How many lists of containers are still to be refused.
    pub(super) lists_refused: u32,
    sandboxes: BTreeMap<SandboxId, SandboxEntry>,
    containers: BTreeMap<ContainerId, Entry>,
    images: BTreeSet<String>,
    counter: u64,
    /// Wall clock at the beginning, from which tokio's clock counts on.
    epoch: (Timestamp, Instant),
}

#[derive(Debug)]
struct SandboxEntry {
    seen: Sandbox,
    ports: Vec<PortMapping>,
}

#[derive(Debug)]
struct Entry {
    sandbox: SandboxId,
    seen: Container,
    argv: Vec<String>,
    program: Option<Program>,
    position: usize,
    asked_to_exit: Option<i32>,
    paused: bool,
    ended: watch::Sender<bool>,
}

/// Full name of an image, with its tag.
pub(super) fn image_name(image: &str) -> String {
    let full = reference::normalized(image);
    let last = full.rsplit('/').next().unwrap_or(&full);
    if last.contains([':', '@']) { full } else { format!("{full}:latest") }
}

fn image_id(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl State {
    pub(super) fn new(present: &BTreeSet<String>) -> Self {
        Self {
            unavailable: false,
            lists_refused: 0,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: present.iter().map(|image| image_name(image)).collect(),
            counter: 0,
            epoch: (Timestamp::now(), Instant::now()),
        }
    }

    fn now(&self) -> Timestamp {
        let (wall, start) = self.epoch;
        wall.checked_add(start.elapsed()).unwrap_or(wall)
    }

    /// 64 hexadecimal digits, in order of creation.
    fn next_id(&mut self) -> String {
        self.counter += 1;
        format!("{:064x}", self.counter)
    }

    pub(super) fn run_sandbox(&mut self, spec: SandboxSpec) -> Result<Sandbox> {
        if self.sandboxes.values().any(|s| s.seen.pod.uid == spec.pod.uid) {
            return Err(RuntimeError::Conflict { what: "sandbox", id: spec.pod.uid.to_string() });
        }
        let ports = if spec.host_network { Vec::new() } else { spec.ports };
        let taken = ports.iter().find(|port| {
            let mut published = self.sandboxes.values().filter(|s| s.seen.ready).flat_map(|s| &s.ports);
            published.any(|other| other.host_port == port.host_port && other.protocol == port.protocol)
        });
        if let Some(port) = taken {
            let protocol = port.protocol.to_ascii_uppercase();
            return Err(RuntimeError::Refused {
                operation: format!("start sandbox of {}", spec.pod),
                message: format!(
                    "cannot listen on the {protocol} port: listen :{}: bind: address already in use",
                    port.host_port
                ),
            });
        }
        let id = SandboxId(self.next_id());
        let ips = if spec.host_network {
            Vec::new()
        } else {
            let [.., high, low] = self.counter.to_be_bytes();
            vec![format!("10.88.{high}.{low}")]
        };
        let seen = Sandbox { id: id.clone(), pod: spec.pod, ready: true, ips, created_at: self.now() };
        self.sandboxes.insert(id, SandboxEntry { seen: seen.clone(), ports });
        Ok(seen)
    }

    /// Takes the network down; returns the containers that may still run.
    pub(super) fn stop_sandbox(&mut self, id: &SandboxId) -> Vec<(ContainerId, PodUid)> {
        self.end_network(id);
        let inside = self.containers.values().filter(|c| c.sandbox == *id);
        inside.map(|c| (c.seen.id.clone(), c.seen.pod.uid.clone())).collect()
    }

    /// Takes the network down, and nothing else; returns the pod.
    pub(super) fn end_network(&mut self, id: &SandboxId) -> Option<PodUid> {
        let sandbox = &mut self.sandboxes.get_mut(id)?.seen;
        sandbox.ready = false;
        sandbox.ips.clear();
        Some(sandbox.pod.uid.clone())
    }

    pub(super) fn remove_sandbox(&mut self, id: &SandboxId) {
        self.sandboxes.remove(id);
        self.containers.retain(|_, c| c.sandbox != *id);
    }

    pub(super) fn sandboxes(&self) -> Vec<Sandbox> {
        self.sandboxes.values().map(|s| s.seen.clone()).collect()
    }

    pub(super) fn create(&mut self, sandbox: &SandboxId, spec: ContainerSpec) -> Result<ContainerId> {
        if !self.sandboxes.contains_key(sandbox) {
            return Err(not_found("sandbox", &sandbox.0));
        }
        let Some(image) = self.image(&spec.image) else {
            return Err(not_found("image", &spec.image));
        };
        let same = |c: &Entry| {
            c.seen.pod.uid == spec.pod.uid && c.seen.name == spec.name && c.seen.attempt == spec.attempt
        };
        if self.containers.values().any(same) {
            return Err(RuntimeError::Conflict {
                what: "container",
                id: format!("{}_{}_{}", spec.pod.uid, spec.name, spec.attempt),
            });
        }
        let id = ContainerId(self.next_id());
        let mut argv = spec.command;
        argv.extend(spec.args);
        let entry = Entry {
            sandbox: sandbox.clone(),
            argv,
            program: None,
            position: 0,
            asked_to_exit: None,
            paused: false,
            ended: watch::Sender::new(false),
            seen: Container {
                id: id.clone(),
                pod: spec.pod,
                name: spec.name,
                attempt: spec.attempt,
                image: spec.image,
                image_id: image.id,
                state: ContainerState::Created,
                created_at: self.now(),
                log_path: spec.log_path,
                labels: spec.labels,
            },
        };
        self.containers.insert(id.clone(), entry);
        Ok(id)
    }

    /// The steps to run; `None` if it runs already.
    pub(super) fn start(&mut self, id: &ContainerId) -> Result<Option<(Vec<Step>, watch::Receiver<bool>)>> {
        let now = self.now();
        let entry = self.containers.get_mut(id).ok_or_else(|| not_found("container", &id.0))?;
        if matches!(entry.seen.state, ContainerState::Running { .. }) {
            return Ok(None);
        }
        match Program::parse(&entry.argv) {
            Ok(program) => {
                let steps = program.steps.clone();
                entry.program = Some(program);
                entry.position = 0;
                entry.ended.send_replace(false);
                entry.seen.state = ContainerState::Running { started_at: now };
                Ok(Some((steps, entry.ended.subscribe())))
            }
            Err(message) => {
                entry.seen.state = ContainerState::Exited {
                    started_at: None,
                    finished_at: now,
                    exit_code: EXIT_START_FAILED,
                    oom_killed: false,
                    message: message.clone(),
                };
                Err(RuntimeError::Refused { operation: "start container".to_owned(), message })
            }
        }
    }

    pub(super) fn at_step(&mut self, id: &ContainerId, position: usize) {
        if let Some(entry) = self.containers.get_mut(id) {
            entry.position = position;
        }
    }

    pub(super) fn asked_to_exit(&self, id: &ContainerId) -> Option<i32> {
        self.containers.get(id)?.asked_to_exit
    }

    /// Tells when it ends, if it runs.
    pub(super) fn running(&self, id: &ContainerId) -> Option<watch::Receiver<bool>> {
        let entry = self.containers.get(id)?;
        matches!(entry.seen.state, ContainerState::Running { .. }).then(|| entry.ended.subscribe())
    }

    /// Whether somebody paused it.
    pub(super) fn is_paused(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|entry| entry.paused)
    }

    pub(super) fn pause(&mut self, id: &ContainerId, paused: bool) {
        if let Some(entry) = self.containers.get_mut(id) {
            entry.paused = paused;
        }
    }

    /// Sends SIGTERM: the exit code, if it ends at once.
    pub(super) fn term(&mut self, id: &ContainerId) -> Option<i32> {
        let entry = self.containers.get_mut(id)?;
        let program = entry.program.as_ref()?;
        match program.on_term {
            OnTerm::Ignore => None,
            OnTerm::Die => Some(EXIT_TERMINATED),
            OnTerm::Exit(code) if program.steps.get(entry.position) == Some(&Step::Wait) => Some(code),
            OnTerm::Exit(code) => {
                entry.asked_to_exit = Some(code);
                None
            }
        }
    }

    /// Ends a container; returns its pod if it ran.
    pub(super) fn end(&mut self, id: &ContainerId, exit_code: i32, oom_killed: bool) -> Option<PodUid> {
        let finished_at = self.now();
        let entry = self.containers.get_mut(id)?;
        let ContainerState::Running { started_at } = entry.seen.state else {
            return None;
        };
        entry.seen.state = ContainerState::Exited {
            started_at: Some(started_at),
            finished_at,
            exit_code,
            oom_killed,
            message: String::new(),
        };
        entry.ended.send_replace(true);
        Some(entry.seen.pod.uid.clone())
    }

    pub(super) fn power_cycle(&mut self) {
        for sandbox in self.sandboxes.values_mut() {
            sandbox.seen.ready = false;
            sandbox.seen.ips.clear();
        }
        for entry in self.containers.values_mut() {
            if let ContainerState::Running { started_at } = entry.seen.state {
                entry.seen.state = ContainerState::Exited {
                    started_at: Some(started_at),
                    finished_at: started_at,
                    exit_code: EXIT_UNSEEN,
                    oom_killed: false,
                    message: "the container ended while the device was down".to_owned(),
                };
                entry.ended.send_replace(true);
            }
        }
    }

    pub(super) fn remove(&mut self, id: &ContainerId) {
        self.containers.remove(id);
    }

    pub(super) fn list(&mut self, pod: Option<&PodUid>) -> Result<Vec<Container>> {
        if self.lists_refused > 0 {
            self.lists_refused -= 1;
            let message = "database is locked".to_owned();
            return Err(RuntimeError::Refused { operation: "list containers".to_owned(), message });
        }
        let wanted = |c: &&Entry| pod.is_none_or(|uid| c.seen.pod.uid == *uid);
        Ok(self.containers.values().filter(wanted).map(|c| c.seen.clone()).collect())
    }

    /// Makes the container's log, as a runtime does before the program says anything.
    pub(super) fn open_log(&self, id: &ContainerId) {
        self.append(id, "");
    }

    /// Appends a line to the container's log; a simulated device without a disk has none.
    pub(super) fn log(&self, id: &ContainerId, stderr: bool, text: &str) {
        let stream = if stderr { "stderr" } else { "stdout" };
        self.append(id, &format!("{:.9} {stream} F {text}\n", self.now()));
    }

    fn append(&self, id: &ContainerId, line: &str) {
        let Some(entry) = self.containers.get(id) else { return };
        let path = &entry.seen.log_path;
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(path))
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "a simulated log line is lost");
        }
    }

    /// Goes on with the log in a new file, if there is one.
    pub(super) fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        let entry = self.containers.get(id).ok_or_else(|| not_found("container", &id.0))?;
        let refused = |message: String| RuntimeError::Refused {
            operation: format!("reopen the log of container {}", id.0),
            message,
        };
        if !matches!(entry.seen.state, ContainerState::Running { .. }) {
            return Err(refused("the container does not run".to_owned()));
        }
        let path = &entry.seen.log_path;
        if !path.exists() {
            return Ok(());
        }
        let fresh = path.with_extension("log.tmp");
        std::fs::write(&fresh, "")
            .and_then(|()| std::fs::rename(&fresh, path))
            .map_err(|error| refused(error.to_string()))
    }

    pub(super) fn pulled(&mut self, image: &str) -> String {
        let name = image_name(image);
        let id = image_id(&name);
        self.images.insert(name);
        id
    }

    pub(super) fn image(&self, image: &str) -> Option<Image> {
        let wanted = image_name(image);
        let name = self.images.iter().find(|name| **name == wanted || image_id(name) == image)?;
        Some(seen_image(name))
    }

    pub(super) fn images(&self) -> Vec<ListedImage> {
        let listed = |name: &String| {
            let Image { id, names, size, .. } = seen_image(name);
            ListedImage { id, names, size }
        };
        self.images.iter().map(listed).collect()
    }
}

fn seen_image(name: &str) -> Image {
    Image {
        id: image_id(name),
        names: vec![name.to_owned()],
        size: 0,
        user: String::new(),
        has_command: true,
    }
}

fn not_found(what: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { what, id: id.to_owned() }
}
