//! From a container of a pod to what the runtime is told to make: nothing left to look up.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use k8s_openapi::{
    api::core::v1::{Capabilities, Container, PodSpec, VolumeMount},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    desired::{Desired, container_hash},
    env::{EnvError, Surroundings, environment, expand},
    given::{IMAGE_LABEL, by_digest},
    hosts::{self, Network},
    observed::HASH_LABEL,
    qos, quantity,
};
use crate::{
    logs::rotator::LogLimits,
    runtime::{ContainerSpec, Image, MountSpec, ResourceSpec, SecuritySpec},
    volumes::{Mounted, PodDirs, SubPathError, resolve_sub_path},
};

/// Microseconds of a CPU period.
const CPU_PERIOD: u64 = 100_000;

/// Why a container cannot be configured; `Display` is what a kubelet would say.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Its environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A part of a volume.
    #[error(transparent)]
    SubPath(#[from] SubPathError),
    /// It mounts a volume that the pod does not have.
    #[error("volume {0:?} of the mount is not part of the pod")]
    NoSuchVolume(String),
    /// It must not run as root, and would.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RunsAsRoot {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// It must not run as root, and nobody can tell.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: \"{pod}\", container: {container})"
    )]
    UserUnclear {
        /// `USER` of the image.
        user: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// A file for it cannot be made.
    #[error("failed to prepare {what}: {source}")]
    Io {
        /// What was to be made.
        what: &'static str,
        /// Why it was not.
        source: io::Error,
    },
}

/// What is needed beside the pod itself.
pub struct Ingredients<'a> {
    /// The pod.
    pub desired: &'a Desired,
    /// Its volumes.
    pub volumes: &'a BTreeMap<String, Mounted>,
    /// Its directories.
    pub dirs: &'a PodDirs,
    /// For the downward API.
    pub surroundings: &'a Surroundings,
    /// The image.
    pub image: &'a Image,
    /// How long logs may become.
    pub log_limits: LogLimits,
}

impl Ingredients<'_> {
    /// Builds what the runtime is told. Blocks: makes the log directory, `/etc/hosts`, the file for the termination message,
    /// and parts of volumes.
    pub fn container(&self, container: &Container, attempt: u32) -> Result<ContainerSpec, ConfigError> {
        let desired = self.desired;
        let env = environment(desired, container, self.surroundings)?;
        let security = self.security(container)?;
        let lookup =
            |name: &str| env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
            list.iter().flatten().map(|text| expand(text, lookup)).collect()
        };
        let name = container.name.parse().map_err(|error| ConfigError::Io {
            what: "the container's name",
            source: io::Error::other(error),
        })?;
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            mounts.extend(self.mount(mount, lookup)?);
        }
        mounts.extend(self.hosts(container)?);
        mounts.push(self.last_words(container, attempt)?);
        self.dirs
            .create_log_dir(&container.name)
            .map_err(|source| ConfigError::Io { what: "the log directory", source })?;
        Ok(ContainerSpec {
            pod: desired.key.clone(),
            name,
            attempt,
            image: container.image.clone().unwrap_or_default(),
            command: expanded(&container.command),
            args: expanded(&container.args),
            working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
            env,
            mounts,
            resources: resources(&desired.spec, container, self.surroundings),
            security,
            stdin: container.stdin == Some(true),
            tty: container.tty == Some(true),
            stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
            log_path: self.dirs.log(&container.name, attempt),
            log_max_bytes: self.log_limits.max_bytes,
            labels: [(HASH_LABEL.to_owned(), container_hash(container))]
                .into_iter()
                .chain(self.image_by_digest(container).map(|image| (IMAGE_LABEL.to_owned(), image)))
                .collect(),
        })
    }

    fn image_by_digest(&self, container: &Container) -> Option<String> {
        by_digest(self.image, container.image.as_deref().unwrap_or_default())
    }

    fn mount(
        &self,
        mount: &VolumeMount,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<MountSpec>, ConfigError> {
        let Some(volume) = self.volumes.get(&mount.name) else {
            let in_pod = self.desired.spec.volumes.iter().flatten().any(|volume| volume.name == mount.name);
            // A volume that is left out on purpose (service-account tokens, see `admission`).
            return if in_pod { Ok(None) } else { Err(ConfigError::NoSuchVolume(mount.name.clone())) };
        };
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => Some(path.clone()),
            (_, Some(expression)) if !expression.is_empty() => Some(expand(expression, lookup)),
            _ => None,
        };
        let host_path = match sub_path {
            Some(path) => resolve_sub_path(&volume.path, &path, !volume.read_only)?,
            None => volume.path.clone(),
        };
        Ok(Some(MountSpec {
            host_path,
            container_path: mount.mount_path.clone(),
            read_only: volume.read_only || mount.read_only == Some(true),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                _ => "rprivate",
            },
        }))
    }

    /// `None` leaves `/etc/hosts` to the runtime: the container has a mount of its own there, or the pod has no address.
    fn hosts(&self, container: &Container) -> Result<Option<MountSpec>, ConfigError> {
        let own = container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == hosts::PATH);
        if own || self.surroundings.pod_ips.is_empty() {
            return Ok(None);
        }
        let failed = |source| ConfigError::Io { what: "the file /etc/hosts", source };
        let text = if self.desired.spec.host_network == Some(true) {
            let lines = fs::read_to_string(hosts::PATH).map_err(failed)?;
            hosts::text(self.desired, Network::Device(&lines))
        } else {
            hosts::text(self.desired, Network::Own(&self.surroundings.pod_ips))
        };
        Ok(Some(MountSpec {
            host_path: self.dirs.write_hosts(&text).map_err(failed)?,
            container_path: hosts::PATH.to_owned(),
            read_only: false,
            propagation: "rprivate",
        }))
    }

    fn last_words(&self, container: &Container, attempt: u32) -> Result<MountSpec, ConfigError> {
        let host_path: PathBuf = self
            .dirs
            .create_last_words(&container.name, attempt)
            .map_err(|source| ConfigError::Io { what: "the file for the termination message", source })?;
        let path = container.termination_message_path.clone().filter(|path| !path.is_empty());
        Ok(MountSpec {
            host_path,
            container_path: path.unwrap_or_else(|| "/dev/termination-log".to_owned()),
            read_only: false,
            propagation: "rprivate",
        })
    }

    fn security(&self, container: &Container) -> Result<SecuritySpec, ConfigError> {
        let own = container.security_context.clone().unwrap_or_default();
        let pod = self.desired.spec.security_context.clone().unwrap_or_default();
        let user = own.run_as_user.or(pod.run_as_user);
        let group = own.run_as_group.or(pod.run_as_group);
        if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
            self.check_non_root(container, user)?;
        }
        let mut groups: Vec<String> =
            pod.supplemental_groups.iter().flatten().chain(&pod.fs_group).map(ToString::to_string).collect();
        groups.dedup();
        let list = |pick: fn(&Capabilities) -> &Option<Vec<String>>| -> Vec<String> {
            let all = own.capabilities.as_ref().map(pick).into_iter().flatten().flatten();
            all.map(|name| name.strip_prefix("CAP_").unwrap_or(name).to_owned()).collect()
        };
        let profile = own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
        Ok(SecuritySpec {
            privileged: own.privileged == Some(true),
            user: match (user, group) {
                (Some(user), Some(group)) => Some(format!("{user}:{group}")),
                (Some(user), None) => Some(user.to_string()),
                (None, Some(group)) => {
                    let user = self.image.user.split(':').next().filter(|user| !user.is_empty());
                    Some(format!("{}:{group}", user.unwrap_or("0")))
                }
                (None, None) => None,
            },
            supplemental_groups: groups,
            cap_add: list(|capabilities| &capabilities.add),
            cap_drop: list(|capabilities| &capabilities.drop),
            read_only_root: own.read_only_root_filesystem == Some(true),
            no_new_privileges: own.allow_privilege_escalation == Some(false),
            // Unset and `RuntimeDefault` are the same: as a kubelet with `seccompDefault`.
            seccomp: match profile.map(|profile| profile.type_.as_str()) {
                Some("Unconfined") => Some("unconfined".to_owned()),
                _ => None,
            },
        })
    }

    fn check_non_root(&self, container: &Container, user: Option<i64>) -> Result<(), ConfigError> {
        let (pod, name) = (self.desired.long_name(), container.name.clone());
        let image_user = self.image.user.split(':').next().unwrap_or_default();
        match user {
            Some(0) => Err(ConfigError::RunsAsRoot { pod, container: name }),
            Some(_) => Ok(()),
            None => match image_user.parse::<i64>() {
                Ok(0) => Err(ConfigError::RunsAsRoot { pod, container: name }),
                Ok(_) => Ok(()),
                Err(_) if image_user.is_empty() || image_user == "root" => {
                    Err(ConfigError::RunsAsRoot { pod, container: name })
                }
                Err(_) => Err(ConfigError::UserUnclear { user: image_user.to_owned(), pod, container: name }),
            },
        }
    }
}

/// Limits and weights in the kernel's units, by a kubelet's formulas. Pure.
pub fn resources(spec: &PodSpec, container: &Container, surroundings: &Surroundings) -> ResourceSpec {
    let value = |limits: bool, resource: &str| {
        let resources = container.resources.as_ref()?;
        let map = if limits { &resources.limits } else { &resources.requests };
        map.as_ref()?.get(resource).map(|Quantity(text)| text.clone())
    };
    let limit_millis = value(true, "cpu").and_then(|text| quantity::millis(&text)).filter(|cpu| *cpu > 0);
    let request_millis =
        value(false, "cpu").and_then(|text| quantity::millis(&text)).or(limit_millis).unwrap_or(0);
    let shares = u64::try_from(request_millis).unwrap_or(0).saturating_mul(1024) / 1000;
    ResourceSpec {
        cpu_shares: Some(shares.clamp(2, 262_144)),
        cpu_quota: limit_millis.map(|cpu| cpu.saturating_mul(100).max(1000)),
        cpu_period: limit_millis.map(|_| CPU_PERIOD),
        memory_limit: value(true, "memory").and_then(|text| quantity::ceil(&text)).filter(|bytes| *bytes > 0),
        pids_limit: None,
        oom_score_adj: Some(
            qos::oom_score_adj(spec, container, surroundings.memory).max(surroundings.oom_score_floor),
        ),
    }
}
