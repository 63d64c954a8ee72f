//! A container's environment: every kind of source, resolved from the bundle. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, EnvVar, ObjectFieldSelector, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{desired::Desired, quantity};

/// What the downward API can tell of the surroundings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Name of the Node.
    pub node_name: String,
    /// Address of the device.
    pub host_ip: String,
    /// Addresses of the pod, primary first.
    pub pod_ips: Vec<String>,
    /// Logical processors.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Lowest `oom_score_adj` that a container may get here.
    pub oom_score_floor: i32,
}

/// Why an environment cannot be made; `Display` is a kubelet's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap or Secret is missing.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A key of it is missing.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyNotFound {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// The downward API has no such field.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// There is no such resource, container or divisor.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// A value must be text.
    #[error("the value of key {key} in secret {name} is not text")]
    NotText {
        /// Name of the Secret.
        name: String,
        /// The key.
        key: String,
    },
}

/// The environment in order; later ones have won.
pub fn environment(
    desired: &Desired,
    container: &Container,
    surroundings: &Surroundings,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    let mut set = |known: &mut BTreeMap<String, String>, name: String, value: String| {
        if known.insert(name.clone(), value).is_none() {
            order.push(name);
        }
    };
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            match desired.config_maps.get(&wanted.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().filter(|(key, _)| is_env_name(prefix, key)) {
                        set(&mut known, format!("{prefix}{key}"), value.clone());
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(EnvError::NotFound { kind: "configmap", name: wanted.name.clone() }),
            }
        }
        if let Some(wanted) = &source.secret_ref {
            match desired.secrets.get(&wanted.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().filter(|(key, _)| is_env_name(prefix, key)) {
                        let value = secret_text(&wanted.name, key, &value.0)?;
                        set(&mut known, format!("{prefix}{key}"), value);
                    }
                }
                None if wanted.optional == Some(true) => {}
                None => return Err(EnvError::NotFound { kind: "secret", name: wanted.name.clone() }),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(desired, container, surroundings, variable, &known)? {
            set(&mut known, variable.name.clone(), value);
        }
    }
    // A pod's own variables win over those of Services.
    let services = desired.service_env.iter().filter(|(name, _)| !known.contains_key(*name));
    let mut all: Vec<(String, String)> =
        services.map(|(name, value)| (name.clone(), value.clone())).collect();
    all.extend(
        order.into_iter().filter_map(|name| known.get(&name).map(|value| (name.clone(), value.clone()))),
    );
    Ok(all)
}

fn value_of(
    desired: &Desired,
    container: &Container,
    surroundings: &Surroundings,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &variable.value_from else {
        let text = variable.value.as_deref().unwrap_or_default();
        let lookup = |name: &str| known.get(name).or_else(|| desired.service_env.get(name)).cloned();
        return Ok(Some(expand(text, lookup)));
    };
    if let Some(field) = &from.field_ref {
        return field_value(desired, surroundings, field).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(desired, container, surroundings, resource).map(Some);
    }
    let namespace = desired.key.namespace.as_str().to_owned();
    if let Some(wanted) = &from.config_map_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(map) = desired.config_maps.get(&wanted.name) else {
            let missing = EnvError::NotFound { kind: "configmap", name: wanted.name.clone() };
            return if optional { Ok(None) } else { Err(missing) };
        };
        return match map.data.get(&wanted.key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvError::KeyNotFound {
                kind: "ConfigMap",
                namespace,
                name: wanted.name.clone(),
                key: wanted.key.clone(),
            }),
        };
    }
    if let Some(wanted) = &from.secret_key_ref {
        let optional = wanted.optional == Some(true);
        let Some(secret) = desired.secrets.get(&wanted.name) else {
            let missing = EnvError::NotFound { kind: "secret", name: wanted.name.clone() };
            return if optional { Ok(None) } else { Err(missing) };
        };
        return match secret.data.get(&wanted.key) {
            Some(value) => secret_text(&wanted.name, &wanted.key, &value.0).map(Some),
            None if optional => Ok(None),
            None => Err(EnvError::KeyNotFound {
                kind: "Secret",
                namespace,
                name: wanted.name.clone(),
                key: wanted.key.clone(),
            }),
        };
    }
    Ok(None)
}

fn secret_text(name: &str, key: &str, value: &[u8]) -> Result<String, EnvError> {
    String::from_utf8(value.to_vec())
        .map_err(|_| EnvError::NotText { name: name.to_owned(), key: key.to_owned() })
}

fn is_env_name(prefix: &str, key: &str) -> bool {
    let mut bytes = prefix.bytes().chain(key.bytes());
    let valid = bytes.all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    valid && !key.is_empty()
}

/// Value of a field of the pod.
pub fn field_value(
    desired: &Desired,
    surroundings: &Surroundings,
    field: &ObjectFieldSelector,
) -> Result<String, EnvError> {
    let path = field.field_path.as_str();
    let subscript =
        |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    let from = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some(key) = subscript("metadata.labels") {
        return Ok(from(&desired.meta.labels, &key));
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(from(&desired.meta.annotations, &key));
    }
    Ok(match path {
        "metadata.name" => desired.key.name.as_str().to_owned(),
        "metadata.namespace" => desired.key.namespace.as_str().to_owned(),
        "metadata.uid" => desired.key.uid.as_str().to_owned(),
        "spec.nodeName" => surroundings.node_name.clone(),
        "spec.serviceAccountName" => desired.spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => surroundings.host_ip.clone(),
        "status.podIP" => surroundings.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => surroundings.pod_ips.join(","),
        _ => return Err(EnvError::Field(path.to_owned())),
    })
}

/// Value of a request or limit; a missing limit is what the device has.
pub fn resource_value(
    desired: &Desired,
    container: &Container,
    surroundings: &Surroundings,
    field: &ResourceFieldSelector,
) -> Result<String, EnvError> {
    let unsupported = || EnvError::Resource(field.resource.clone());
    let named = field.container_name.as_deref().and_then(|name| desired.container(name));
    let container = named.map_or(container, |(_, container)| container);
    let (list, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let value = |limits: bool| {
        let resources = resources?;
        let map = if limits { &resources.limits } else { &resources.requests };
        map.as_ref()?.get(resource).map(|Quantity(text)| text.clone())
    };
    let value = match list {
        "limits" => value(true).or_else(|| match resource {
            "cpu" => Some(surroundings.cpus.to_string()),
            "memory" => Some(surroundings.memory.to_string()),
            _ => None,
        }),
        "requests" => value(false).or_else(|| value(true)),
        _ => return Err(unsupported()),
    };
    let divisor = match field.divisor.as_ref().map(|Quantity(text)| text.as_str()) {
        None | Some("" | "0") => "1",
        Some(divisor) => divisor,
    };
    let value = quantity::divide(value.as_deref().unwrap_or("0"), divisor).ok_or_else(unsupported)?;
    Ok(value.to_string())
}

/// Replaces `$(NAME)`; `$$` is a dollar, an unknown name stays as it stands.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_expanded_and_escapes_kept() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y", "x1y"),
            ("$$(A)", "$(A)"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("$", "$"),
            ("$$", "$"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_references_stays(text in "[^$]{0,60}") {
            prop_assert_eq!(expand(&text, |_| None), text);
        }

        #[test]
        fn no_text_panics(text in "[$()Aé]{0,20}") {
            let _ = expand(&text, |_| Some(String::new()));
        }
    }
}
