//! What a pod refers to.

use std::collections::BTreeMap;

use fleet_wire::message::ReferenceKind;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, Volume};

/// Kinds of objects that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl From<Kind> for ReferenceKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::ConfigMap => Self::ConfigMap,
            Kind::Secret => Self::Secret,
        }
    }
}

/// Whether a pod can start without the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It cannot.
    Mandatory,
    /// It can: `optional: true`, or an image pull secret, of which kubelets only warn.
    Optional,
}

/// The ConfigMaps and Secrets of a pod, by kind and name. One that is mandatory anywhere is mandatory.
pub fn of(pod: &Pod) -> BTreeMap<(Kind, String), Need> {
    let mut found = Found::default();
    let Some(spec) = &pod.spec else {
        return found.0;
    };
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
    }
    found.containers(spec);
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.add(Kind::Secret, &secret.name, Some(true));
    }
    found.0
}

#[derive(Default)]
struct Found(BTreeMap<(Kind, String), Need>);

impl Found {
    fn add(&mut self, kind: Kind, name: &str, optional: Option<bool>) {
        // The API server admits empty names of optional references.
        if name.is_empty() {
            return;
        }
        let need = self.0.entry((kind, name.to_owned())).or_insert(Need::Optional);
        if optional != Some(true) {
            *need = Need::Mandatory;
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(source) = &volume.config_map {
            self.add(Kind::ConfigMap, &source.name, source.optional);
        }
        if let Some(source) = &volume.secret {
            self.add(Kind::Secret, source.secret_name.as_deref().unwrap_or_default(), source.optional);
        }
        let projected = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
        for source in projected {
            if let Some(source) = &source.config_map {
                self.add(Kind::ConfigMap, &source.name, source.optional);
            }
            if let Some(source) = &source.secret {
                self.add(Kind::Secret, &source.name, source.optional);
            }
        }
    }

    fn containers(&mut self, spec: &PodSpec) {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        for container in containers {
            self.environment(&container.env, &container.env_from);
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            self.environment(&container.env, &container.env_from);
        }
    }

    fn environment(&mut self, env: &Option<Vec<EnvVar>>, env_from: &Option<Vec<EnvFromSource>>) {
        for source in env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(key) = &source.config_map_key_ref {
                self.add(Kind::ConfigMap, &key.name, key.optional);
            }
            if let Some(key) = &source.secret_key_ref {
                self.add(Kind::Secret, &key.name, key.optional);
            }
        }
        for source in env_from.iter().flatten() {
            if let Some(source) = &source.config_map_ref {
                self.add(Kind::ConfigMap, &source.name, source.optional);
            }
            if let Some(source) = &source.secret_ref {
                self.add(Kind::Secret, &source.name, source.optional);
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/which.rs"]
mod tests;
