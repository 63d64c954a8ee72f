//! A pod and what it refers to, as a bundle. Pure: the same input gives the same bytes.
//!
//! What changes without meaning anything to a device is left out, so that the digest stays:
//! `resourceVersion`, `managedFields`, `finalizers`, and the status. One thing of the status goes down: a
//! terminal phase. It is how a device that lost its disk knows that a finished pod is not to be run again,
//! and how one learns that the control plane has given a pod up.

use std::{collections::BTreeMap, sync::Arc};

use fleet_wire::{
    digest::Digest,
    envelope::MAX_PAYLOAD,
    message::{Bundle, MissingReference, ReferenceKind},
};
use k8s_openapi::{
    api::core::v1::{Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::value::RawValue;

use crate::references::{self, Kind, Need, RefKey, RefState, Resolved};

/// Why there is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Something it refers to was not read yet.
    #[error("a reference is not resolved yet")]
    Unresolved,
    /// It cannot be written as JSON.
    #[error("the bundle cannot be written: {0}")]
    Encoding(String),
    /// It is larger than a device takes.
    #[error(
        "the bundle has {size} bytes, more than the limit of {limit}; make its ConfigMaps or Secrets smaller"
    )]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
}

/// A bundle as it goes to a device.
#[derive(Debug, Clone)]
pub struct Built {
    /// Digest of the JSON.
    pub digest: Digest,
    /// The JSON, exactly as digested.
    pub json: Arc<RawValue>,
}

/// Builds the bundle of a pod.
///
/// # Errors
/// See [`BuildError`].
pub fn build(
    pod: &Pod,
    state: impl Fn(&RefKey) -> RefState,
    service_env: &BTreeMap<String, String>,
) -> Result<Built, BuildError> {
    let mut bundle = Bundle { pod: desired(pod), service_env: service_env.clone(), ..Bundle::default() };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    for ((kind, name), need) in references::of(pod) {
        let key = RefKey { kind, namespace: namespace.to_owned(), name };
        match state(&key) {
            RefState::Pending => return Err(BuildError::Unresolved),
            RefState::Missing(_) if need == Need::Optional => {}
            RefState::Missing(message) => {
                bundle.missing.push(MissingReference { kind: kind.into(), name: key.name, message });
            }
            RefState::Present(content) => add(&mut bundle, key, &content),
        }
    }
    match encode(&bundle) {
        Err(error @ BuildError::TooLarge { .. }) => encode(&emptied(bundle, &error.to_string())),
        other => other,
    }
}

/// A bundle whose content is too large, with the reason in place of the content: the device says so in the
/// pod's status, where its owner looks.
fn emptied(mut bundle: Bundle, reason: &str) -> Bundle {
    let missing = |kind, name| MissingReference { kind, name, message: reason.to_owned() };
    let config_maps = std::mem::take(&mut bundle.config_maps).into_keys();
    bundle.missing.extend(config_maps.map(|name| missing(ReferenceKind::ConfigMap, name)));
    let secrets = std::mem::take(&mut bundle.secrets).into_keys();
    bundle.missing.extend(secrets.map(|name| missing(ReferenceKind::Secret, name)));
    bundle
}

fn add(bundle: &mut Bundle, key: RefKey, content: &Resolved) {
    match (key.kind, content) {
        (Kind::ConfigMap, Resolved::ConfigMap(content)) => {
            bundle.config_maps.insert(key.name, content.clone());
        }
        (Kind::Secret, Resolved::Secret(content)) => {
            bundle.secrets.insert(key.name, content.clone());
        }
        // A reader gives back what it was opened for.
        _ => {}
    }
}

fn encode(bundle: &Bundle) -> Result<Built, BuildError> {
    let json = serde_json::to_string(bundle).map_err(|error| BuildError::Encoding(error.to_string()))?;
    if json.len() > MAX_PAYLOAD {
        return Err(BuildError::TooLarge { size: json.len(), limit: MAX_PAYLOAD });
    }
    let digest = Digest::of(json.as_bytes());
    let json = RawValue::from_string(json).map_err(|error| BuildError::Encoding(error.to_string()))?;
    Ok(Built { digest, json: Arc::from(json) })
}

/// Digest of what a device has to know of the pod itself: it stays when only the status changes.
pub fn digest_of(pod: &Pod) -> Digest {
    // Kubernetes' types are written to JSON without error.
    Digest::of(&serde_json::to_vec(&desired(pod)).unwrap_or_default())
}

/// The pod without what does not concern its device.
fn desired(pod: &Pod) -> Pod {
    let metadata = &pod.metadata;
    Pod {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            generation: metadata.generation,
            creation_timestamp: metadata.creation_timestamp.clone(),
            deletion_timestamp: metadata.deletion_timestamp.clone(),
            deletion_grace_period_seconds: metadata.deletion_grace_period_seconds,
            owner_references: metadata.owner_references.clone(),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: terminal_phase(pod)
            .map(|phase| PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }),
    }
}

/// `Succeeded` or `Failed`, if the pod is in either.
pub fn terminal_phase(pod: &Pod) -> Option<&str> {
    let phase = pod.status.as_ref()?.phase.as_deref()?;
    matches!(phase, "Succeeded" | "Failed").then_some(phase)
}

#[cfg(test)]
#[path = "tests/build.rs"]
mod tests;
