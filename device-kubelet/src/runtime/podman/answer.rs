//! What libpod answers, reduced to what we read, and turned into the runtime's own words. Pure.
//!
//! The types are lenient on purpose: absent, null and unknown fields are all fine, so that the same code
//! reads Podman 4.3 and 5.x. Asked by version 4 of its API, as we do, Podman 5 inspects containers in the old shape;
//! by version 5, `StopSignal` is a string and `Entrypoint` a list, which we never look at.

use std::{collections::BTreeMap, path::PathBuf};

use fleet_wire::name::PodUid;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use super::labels;
use crate::runtime::{Container, ContainerId, ContainerState, Image, ListedImage, Sandbox, SandboxId};

/// Go writes `null` for an empty slice, map or string pointer.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `{"Id": …}` of a create.
#[derive(Debug, Deserialize)]
pub(super) struct Created {
    #[serde(rename = "Id")]
    pub(super) id: String,
}

/// An entry of `GET /pods/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedPod {
    pub(super) id: String,
    pub(super) infra_id: String,
    created: String,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<ListedPodContainer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ListedPodContainer {
    id: String,
    status: String,
}

impl ListedPod {
    pub(super) fn host_namespaces(&self) -> labels::HostNamespaces {
        labels::host_namespaces(&self.labels)
    }

    /// The pod's network lives as long as its infra container.
    pub(super) fn is_ready(&self) -> bool {
        self.containers.iter().any(|c| c.id == self.infra_id && c.status == "running")
    }

    /// The pod that it is, if it is ours.
    pub(super) fn owner(&self) -> Option<PodUid> {
        labels::pod(&self.labels).map(|pod| pod.uid)
    }

    /// `None` if it is not ours.
    pub(super) fn into_sandbox(self, ips: Vec<String>) -> Option<Sandbox> {
        Some(Sandbox {
            pod: labels::pod(&self.labels)?,
            ready: self.is_ready(),
            ips,
            created_at: timestamp(&self.created).unwrap_or(Timestamp::UNIX_EPOCH),
            id: SandboxId(self.id),
        })
    }
}

/// An entry of `GET /containers/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedContainer {
    pub(super) id: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    pub(super) is_infra: bool,
    #[serde(deserialize_with = "nullable")]
    labels: BTreeMap<String, String>,
    state: String,
    created: String,
    started_at: i64,
    exited_at: i64,
    exit_code: i32,
}

/// How a container left, when libpod alone does not say.
#[derive(Debug, Clone)]
pub(super) struct FailedStart {
    pub(super) at: Timestamp,
    pub(super) exit_code: i32,
    pub(super) message: String,
}

/// Exit code of a container of which nobody saw the end, e.g. because the device lost power; containerd's.
const EXIT_UNSEEN: i32 = 255;

/// A container of which nobody saw the end. What is not known must be the same each time it is listed, too.
fn unseen(started_at: Option<Timestamp>, created_at: Timestamp) -> ContainerState {
    ContainerState::Exited {
        started_at,
        finished_at: started_at.unwrap_or(created_at),
        exit_code: EXIT_UNSEEN,
        oom_killed: false,
        message: "the container ended while the device was down".to_owned(),
    }
}

impl ListedContainer {
    /// Whether only an inspect can tell if the kernel killed it for memory.
    pub(super) fn may_be_oom_killed(&self) -> bool {
        self.phase() == Phase::Ended && self.exit_code == 137
    }

    /// The pod that it belongs to, if it is ours; infra containers carry their pod's labels.
    pub(super) fn owner(&self) -> Option<PodUid> {
        labels::pod(&self.labels).map(|pod| pod.uid)
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase() == Phase::Running
    }

    fn phase(&self) -> Phase {
        match self.state.as_str() {
            "created" | "configured" | "initialized" => Phase::Created,
            // A stopping container has got its signal and still runs.
            "running" | "paused" | "stopping" => Phase::Running,
            "stopped" | "exited" => Phase::Ended,
            _ => Phase::Unknown,
        }
    }

    /// `None` if it is not ours.
    pub(super) fn into_container(self, failed: Option<&FailedStart>, oom_killed: bool) -> Option<Container> {
        let ours = labels::container(&self.labels)?;
        let started_at = seconds(self.started_at);
        let created_at = timestamp(&self.created).unwrap_or(Timestamp::UNIX_EPOCH);
        let state = match (self.phase(), failed) {
            (Phase::Created, Some(failed)) => ContainerState::Exited {
                started_at: None,
                finished_at: failed.at,
                exit_code: failed.exit_code,
                oom_killed: false,
                message: failed.message.clone(),
            },
            // After a reboot Podman calls what ran before merely made, and keeps when it was started.
            (Phase::Created, None) if started_at.is_some() => unseen(started_at, created_at),
            (Phase::Created, None) => ContainerState::Created,
            (Phase::Running, _) => ContainerState::Running { started_at: started_at.unwrap_or(created_at) },
            (Phase::Ended, _) => match (started_at, seconds(self.exited_at)) {
                // Podman notes the start after, and the end before it got to it: a program that ends at once
                // seems to end before it began.
                (Some(started), Some(finished)) => ContainerState::Exited {
                    started_at: Some(started),
                    finished_at: finished.max(started),
                    exit_code: self.exit_code,
                    oom_killed,
                    message: String::new(),
                },
                (started, _) => unseen(started, created_at),
            },
            (Phase::Unknown, _) => ContainerState::Unknown,
        };
        Some(Container {
            id: ContainerId(self.id),
            pod: ours.pod,
            name: ours.name,
            attempt: ours.attempt,
            image: ours.image,
            image_id: image_id(&self.image_id),
            state,
            created_at,
            log_path: PathBuf::from(ours.log_path),
            labels: ours.free,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Created,
    Running,
    Ended,
    Unknown,
}

/// `GET /containers/<id>/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct InspectedContainer {
    pub(super) id: String,
    pub(super) created: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) state: InspectedState,
    /// Where its monitor has its files.
    pub(super) static_dir: PathBuf,
    #[serde(deserialize_with = "nullable")]
    host_config: HostConfig,
    #[serde(deserialize_with = "nullable")]
    network_settings: NetworkSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    #[serde(deserialize_with = "nullable")]
    log_config: LogConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LogConfig {
    #[serde(deserialize_with = "nullable")]
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct InspectedState {
    #[serde(rename = "OOMKilled")]
    pub(super) oom_killed: bool,
    pub(super) conmon_pid: i32,
    #[serde(deserialize_with = "nullable")]
    pub(super) cgroup_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettings {
    #[serde(flatten)]
    first: Addresses,
    #[serde(deserialize_with = "nullable")]
    networks: BTreeMap<String, Addresses>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Addresses {
    #[serde(rename = "IPAddress", deserialize_with = "nullable")]
    v4: String,
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "nullable")]
    v6: String,
}

impl InspectedContainer {
    /// All addresses, the primary first.
    pub(super) fn ips(&self) -> Vec<String> {
        let settings = &self.network_settings;
        let mut ips: Vec<String> = Vec::new();
        for addresses in std::iter::once(&settings.first).chain(settings.networks.values()) {
            for ip in [&addresses.v4, &addresses.v6] {
                if !ip.is_empty() && !ips.contains(ip) {
                    ips.push(ip.clone());
                }
            }
        }
        ips
    }

    /// Where its monitor writes its log.
    pub(super) fn log_path(&self) -> Option<PathBuf> {
        Some(&self.host_config.log_config.path).filter(|path| path.is_absolute()).cloned()
    }

    pub(super) fn created_at(&self) -> Option<Timestamp> {
        timestamp(&self.created)
    }
}

/// `GET /images/<name>/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct InspectedImage {
    id: String,
    #[serde(deserialize_with = "nullable")]
    repo_tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    repo_digests: Vec<String>,
    size: u64,
    #[serde(deserialize_with = "nullable")]
    user: String,
    #[serde(deserialize_with = "nullable")]
    config: ImageConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ImageConfig {
    #[serde(deserialize_with = "nullable")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    cmd: Vec<String>,
}

impl From<InspectedImage> for Image {
    fn from(image: InspectedImage) -> Self {
        let mut names = image.repo_tags;
        names.extend(image.repo_digests);
        Self {
            id: image_id(&image.id),
            names,
            size: image.size,
            user: image.user,
            has_command: !image.config.entrypoint.is_empty() || !image.config.cmd.is_empty(),
        }
    }
}

/// An entry of `GET /images/json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ImageEntry {
    id: String,
    /// In some versions all names, those by a digest, too.
    #[serde(deserialize_with = "nullable")]
    repo_tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    repo_digests: Vec<String>,
    size: u64,
}

impl From<ImageEntry> for ListedImage {
    fn from(image: ImageEntry) -> Self {
        let mut names = image.repo_tags;
        names.retain(|name| !name.contains('@'));
        names.extend(image.repo_digests);
        Self { id: image_id(&image.id), names, size: image.size }
    }
}

/// A line of `GET /events`. Podman 4 puts the container's labels among the attributes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(rename = "Actor", deserialize_with = "nullable")]
    actor: Actor,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID", deserialize_with = "nullable")]
    id: String,
}

impl Event {
    /// The container that it is about.
    pub(super) fn container(self) -> String {
        self.actor.id
    }
}

/// Podman gives bare hexadecimal ids.
pub(super) fn image_id(id: &str) -> String {
    if id.is_empty() || id.contains(':') { id.to_owned() } else { format!("sha256:{id}") }
}

/// Go's zero time means "never".
fn timestamp(text: &str) -> Option<Timestamp> {
    let at: Timestamp = text.parse().ok()?;
    (at > Timestamp::UNIX_EPOCH).then_some(at)
}

fn seconds(unix: i64) -> Option<Timestamp> {
    (unix > 0).then(|| Timestamp::from_second(unix).ok()).flatten()
}

#[cfg(test)]
#[path = "answer/tests.rs"]
mod tests;
