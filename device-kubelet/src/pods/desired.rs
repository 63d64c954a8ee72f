//! A bundle, parsed once: what a pod shall be.

use std::collections::BTreeMap;

use fleet_wire::{
    message::{Bundle, BundleConfigMap, BundleSecret, MissingReference},
    name::{ContainerName, PodKey, PodUid},
};
use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest as _, Sha256};

/// `spec.restartPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever happens.
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// Whether a container that ended with this code is started again.
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// What kind of a container it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container with `restartPolicy: Always`: is started in its turn, and keeps running.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// A pod with all that it refers to; names satisfy their grammar.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Which pod.
    pub key: PodKey,
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Its specification.
    pub spec: PodSpec,
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, BundleConfigMap>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, BundleSecret>,
    /// What could not be resolved.
    pub missing: Vec<MissingReference>,
    /// Variables of Services.
    pub service_env: BTreeMap<String, String>,
}

impl Desired {
    /// Reads a bundle; the error says what is wrong with it.
    pub fn parse(uid: &PodUid, json: &str) -> Result<Self, String> {
        let bundle: Bundle = serde_json::from_str(json).map_err(|error| error.to_string())?;
        Self::from_bundle(uid, bundle)
    }

    /// Takes a bundle apart.
    pub fn from_bundle(uid: &PodUid, bundle: Bundle) -> Result<Self, String> {
        let Bundle { pod, config_maps, secrets, missing, service_env } = bundle;
        let meta = pod.metadata;
        let spec = pod.spec.ok_or("the pod has no spec")?;
        let key = key(uid, &meta)?;
        if spec.containers.is_empty() {
            return Err("the pod has no containers".to_owned());
        }
        let desired = Self { key, meta, spec, config_maps, secrets, missing, service_env };
        for (_, container) in desired.containers() {
            container.name.parse::<ContainerName>().map_err(text)?;
        }
        Ok(desired)
    }

    /// The pod of a bundle that cannot be read as a whole, without anything that it runs: enough to name it, and to end
    /// it.
    pub fn outline(uid: &PodUid, json: &str) -> Option<Self> {
        let mut bundle: serde_json::Value = serde_json::from_str(json).ok()?;
        let meta = bundle.pointer_mut("/pod/metadata")?.take();
        let meta: ObjectMeta = serde_json::from_value(meta).ok()?;
        let key = key(uid, &meta).ok()?;
        let (spec, config_maps, secrets, missing, service_env) = Default::default();
        Some(Self { key, meta, spec, config_maps, secrets, missing, service_env })
    }

    /// All containers in the order of their start.
    pub fn containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        self.init_containers().chain(self.spec.containers.iter().map(|container| (Role::Main, container)))
    }

    /// Init containers and sidecars in order.
    pub fn init_containers(&self) -> impl Iterator<Item = (Role, &Container)> {
        self.spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (if sidecar { Role::Sidecar } else { Role::Init }, container)
        })
    }

    /// The container of this name.
    pub fn container(&self, name: &str) -> Option<(Role, &Container)> {
        self.containers().find(|(_, container)| container.name == name)
    }

    /// `spec.restartPolicy`.
    pub fn restart_policy(&self) -> RestartPolicy {
        match self.spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// What decides whether one container is started again.
    pub fn restart_policy_of(&self, role: Role, container: &Container) -> RestartPolicy {
        match (role, container.restart_policy.as_deref()) {
            (Role::Sidecar, _) | (_, Some("Always")) => RestartPolicy::Always,
            (_, Some("OnFailure")) => RestartPolicy::OnFailure,
            (_, Some("Never")) => RestartPolicy::Never,
            // An init container that succeeded is done, whatever the pod's policy.
            (Role::Init, _) if self.restart_policy() == RestartPolicy::Always => RestartPolicy::OnFailure,
            _ => self.restart_policy(),
        }
    }

    /// Whether the API server wants it to end.
    pub fn deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// Seconds between SIGTERM and SIGKILL; never less than one.
    pub fn grace_seconds(&self) -> u64 {
        let asked = self.meta.deletion_grace_period_seconds.or(self.spec.termination_grace_period_seconds);
        u64::try_from(asked.unwrap_or(30)).unwrap_or(0).max(1)
    }

    /// `name_namespace(uid)`, as in a kubelet's messages.
    pub fn long_name(&self) -> String {
        format!("{}_{}({})", self.key.name, self.key.namespace, self.key.uid)
    }
}

fn key(uid: &PodUid, meta: &ObjectMeta) -> Result<PodKey, String> {
    if meta.uid.as_deref() != Some(uid.as_str()) {
        return Err(format!("metadata.uid is {:?}", meta.uid));
    }
    Ok(PodKey {
        namespace: meta.namespace.as_deref().unwrap_or_default().parse().map_err(text)?,
        name: meta.name.as_deref().unwrap_or_default().parse().map_err(text)?,
        uid: uid.clone(),
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What of a container makes it another one: its name and image, as for a kubelet. Everything else cannot
/// change in a running pod.
pub fn container_hash(container: &Container) -> String {
    let digest =
        Sha256::digest(format!("{}\n{}", container.name, container.image.as_deref().unwrap_or_default()));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
