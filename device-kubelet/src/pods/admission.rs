//! May this pod run on a device at all? Pure.
//!
//! What a device cannot do is said, never ignored: a pod that asks for it stays `Pending` with the waiting reason
//! `DeviceUnsupported`, and the fields are named in one Event. (It is not failed: a DaemonSet would make a failed
//! pod again for ever.) Whether there is room for it is another question: [`capacity`].
//!
//! **Three exceptions, each to go when the real thing is there:**
//!
//! - *Probes* are accepted and not run: a running container counts as started, ready and alive. The pod gets one
//!   Warning Event `ProbesNotSupported`.
//! - The *service-account token volume* (`kube-api-access-*`) that admission adds to nearly every pod is left out,
//!   with its mounts: there are no tokens for devices yet.
//! - *Limits of local storage* (`emptyDir.sizeLimit` on disk, `ephemeral-storage`) are accepted and not enforced: no
//!   pod is evicted. The pod gets one Warning Event `StorageLimitsNotEnforced`.

pub mod capacity;

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume};

use super::desired::{Desired, Role};

/// Result of the check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// Fields that devices do not support, as paths.
    pub unsupported: Vec<String>,
    /// Accepted with a warning: (Event reason, message).
    pub warnings: Vec<(&'static str, String)>,
}

impl Admission {
    /// The refusal as a sentence, if there is one.
    pub fn refusal(&self) -> Option<String> {
        (!self.unsupported.is_empty()).then(|| {
            format!(
                "this device does not support {}; remove it from the pod, or keep the pod off devices",
                self.unsupported.join(", ")
            )
        })
    }
}

/// Whether this is the volume with the token of the pod's service account, which admission adds.
pub fn is_token_volume(volume: &Volume) -> bool {
    volume.name.starts_with("kube-api-access-") && volume.projected.is_some()
}

/// Looks at everything that a pod may ask for.
pub fn admit(desired: &Desired) -> Admission {
    let mut admission = Admission::default();
    let spec = &desired.spec;
    admission.unsupported.extend(pod_fields(spec));
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if !is_token_volume(volume)
            && let Some(kind) = unsupported_volume(volume)
        {
            admission.unsupported.push(format!("spec.volumes[{index}].{kind} (volume {:?})", volume.name));
        }
    }
    let mut probed = Vec::new();
    for (role, container) in desired.containers() {
        let list = if role == Role::Main { "containers" } else { "initContainers" };
        let fields = container_fields(role, container);
        admission
            .unsupported
            .extend(fields.into_iter().map(|field| format!("spec.{list}[{}].{field}", container.name)));
        if container.liveness_probe.is_some()
            || container.readiness_probe.is_some()
            || container.startup_probe.is_some()
        {
            probed.push(container.name.as_str());
        }
    }
    if !probed.is_empty() {
        let message = format!(
            "Probes are not run on this device yet: containers [{}] count as ready as soon as they run",
            probed.join(" ")
        );
        admission.warnings.push(("ProbesNotSupported", message));
    }
    let limits = storage_limits(desired);
    if !limits.is_empty() {
        let message = format!(
            "Limits of local storage are not enforced on this device yet: {}. Nothing is evicted that takes more",
            limits.join(", ")
        );
        admission.warnings.push(("StorageLimitsNotEnforced", message));
    }
    if matches!(spec.dns_policy.as_deref(), None | Some("ClusterFirst")) && spec.host_network != Some(true)
        || spec.dns_policy.as_deref() == Some("ClusterFirstWithHostNet")
    {
        let message = format!(
            "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"{}\" \
             policy. Falling back to \"Default\" policy.",
            desired.long_name(),
            spec.dns_policy.as_deref().unwrap_or("ClusterFirst"),
        );
        admission.warnings.push(("MissingClusterDNS", message));
    }
    admission
}

/// Limits that only eviction could enforce; a volume in memory has the size of its limit.
fn storage_limits(desired: &Desired) -> Vec<String> {
    let volumes = desired.spec.volumes.iter().flatten().filter(|volume| {
        volume.empty_dir.as_ref().is_some_and(|empty_dir| {
            empty_dir.size_limit.is_some() && empty_dir.medium.as_deref().is_none_or(str::is_empty)
        })
    });
    let volumes = volumes.map(|volume| format!("sizeLimit of volume {:?}", volume.name));
    let containers = desired.containers().filter(|(_, container)| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key("ephemeral-storage"))
    });
    let containers =
        containers.map(|(_, container)| format!("ephemeral-storage of container {}", container.name));
    volumes.chain(containers).collect()
}

fn pod_fields(spec: &PodSpec) -> Vec<String> {
    let security = spec.security_context.as_ref();
    let localhost = security
        .and_then(|security| security.seccomp_profile.as_ref())
        .is_some_and(|profile| profile.type_ == "Localhost");
    let checks = [
        ("spec.ephemeralContainers", spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty())),
        ("spec.readinessGates", spec.readiness_gates.as_ref().is_some_and(|list| !list.is_empty())),
        ("spec.resourceClaims", spec.resource_claims.as_ref().is_some_and(|list| !list.is_empty())),
        ("spec.runtimeClassName", spec.runtime_class_name.is_some()),
        ("spec.hostUsers", spec.host_users == Some(false)),
        ("spec.resources", spec.resources.is_some()),
        ("spec.os.name", spec.os.as_ref().is_some_and(|os| os.name != "linux")),
        ("spec.setHostnameAsFQDN", spec.set_hostname_as_fqdn == Some(true)),
        (
            "spec.securityContext.seLinuxOptions",
            security.is_some_and(|security| security.se_linux_options.is_some()),
        ),
        (
            "spec.securityContext.appArmorProfile",
            security
                .and_then(|security| security.app_armor_profile.as_ref())
                .is_some_and(|profile| profile.type_ == "Localhost"),
        ),
        (
            "spec.securityContext.supplementalGroupsPolicy",
            security.is_some_and(|security| security.supplemental_groups_policy.as_deref() == Some("Strict")),
        ),
        ("spec.securityContext.seccompProfile", localhost),
    ];
    checks.into_iter().filter(|(_, used)| *used).map(|(field, _)| field.to_owned()).collect()
}

fn container_fields(role: Role, container: &Container) -> Vec<String> {
    let security = container.security_context.as_ref();
    let lifecycle = container.lifecycle.as_ref();
    let mut fields: Vec<String> = [
        ("lifecycle.postStart", lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some())),
        ("lifecycle.preStop", lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())),
        // Without `stdin` it means nothing, in Kubernetes, too.
        ("stdinOnce", container.stdin == Some(true) && container.stdin_once == Some(true)),
        ("volumeDevices", container.volume_devices.as_ref().is_some_and(|list| !list.is_empty())),
        ("restartPolicyRules", container.restart_policy_rules.as_ref().is_some_and(|list| !list.is_empty())),
        (
            "resources.claims",
            container
                .resources
                .as_ref()
                .and_then(|resources| resources.claims.as_ref())
                .is_some_and(|list| !list.is_empty()),
        ),
        // A main container's own policy is a later Kubernetes feature that needs its rules, too.
        ("restartPolicy", role == Role::Main && container.restart_policy.is_some()),
        (
            "securityContext.seLinuxOptions",
            security.is_some_and(|security| security.se_linux_options.is_some()),
        ),
        (
            "securityContext.appArmorProfile",
            security
                .and_then(|security| security.app_armor_profile.as_ref())
                .is_some_and(|profile| profile.type_ == "Localhost"),
        ),
        (
            "securityContext.procMount",
            security.is_some_and(|security| {
                security.proc_mount.as_deref().is_some_and(|mount| mount != "Default")
            }),
        ),
        (
            "securityContext.seccompProfile",
            security
                .and_then(|security| security.seccomp_profile.as_ref())
                .is_some_and(|profile| profile.type_ == "Localhost"),
        ),
    ]
    .into_iter()
    .filter(|(_, used)| *used)
    .map(|(field, _)| field.to_owned())
    .collect();
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    for resource in limits.into_iter().flat_map(|limits| limits.keys()) {
        if !matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            fields.push(format!("resources.limits[{resource}]"));
        }
    }
    for mount in container.volume_mounts.iter().flatten() {
        if mount.recursive_read_only.as_deref() == Some("Enabled") {
            fields.push(format!("volumeMounts[{}].recursiveReadOnly", mount.mount_path));
        }
    }
    for variable in container.env.iter().flatten() {
        if variable.value_from.as_ref().is_some_and(|from| from.file_key_ref.is_some()) {
            fields.push(format!("env[{}].valueFrom.fileKeyRef", variable.name));
        }
    }
    fields
}

/// The name of the volume's type, if devices do not have it.
fn unsupported_volume(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() || volume.secret.is_some() || volume.host_path.is_some() {
        return None;
    }
    if let Some(empty_dir) = &volume.empty_dir {
        return match empty_dir.medium.as_deref() {
            None | Some("" | "Memory") => None,
            Some(_) => Some("emptyDir.medium"),
        };
    }
    let kinds = [
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("projected", volume.projected.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("csi", volume.csi.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("fc", volume.fc.is_some()),
        ("cephfs", volume.cephfs.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
    ];
    Some(
        kinds.into_iter().find(|(_, used)| *used).map_or("(a type that is not known here)", |(kind, _)| kind),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn unsupported(container: &Value) -> Vec<String> {
        let bundle = json!({ "pod": {
            "metadata": { "namespace": "default", "name": "web", "uid": "u1" },
            "spec": { "containers": [container] },
        } });
        admit(&Desired::parse(&"u1".parse().unwrap(), &bundle.to_string()).unwrap()).unsupported
    }

    #[test]
    fn standard_input_for_the_first_who_attaches_is_refused_and_not_ignored() {
        let container = |fields: &Value| {
            let mut container = json!({ "name": "c", "image": "busybox:1" });
            container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            container
        };
        let once = container(&json!({ "stdin": true, "stdinOnce": true }));
        assert_eq!(unsupported(&once), ["spec.containers[c].stdinOnce"]);
        for plain in [
            json!({}),
            json!({ "stdin": true }),
            json!({ "stdin": true, "stdinOnce": false }),
            json!({ "stdinOnce": true }),
        ] {
            assert!(unsupported(&container(&plain)).is_empty(), "{plain}");
        }
    }

    #[test]
    fn limits_that_nobody_enforces_are_said() {
        let bundle = json!({ "pod": {
            "metadata": { "namespace": "default", "name": "web", "uid": "u1" },
            "spec": {
                "dnsPolicy": "Default",
                "volumes": [
                    { "name": "disk", "emptyDir": { "sizeLimit": "10Mi" } },
                    { "name": "memory", "emptyDir": { "sizeLimit": "10Mi", "medium": "Memory" } },
                    { "name": "free", "emptyDir": {} },
                ],
                "containers": [
                    { "name": "c", "image": "busybox:1", "resources": { "limits": { "ephemeral-storage": "1Gi" } } },
                    { "name": "d", "image": "busybox:1", "resources": { "limits": { "memory": "1Gi" } } },
                ],
            },
        } });
        let admission = admit(&Desired::parse(&"u1".parse().unwrap(), &bundle.to_string()).unwrap());
        assert!(admission.unsupported.is_empty());
        let [(reason, message)] = &admission.warnings[..] else { panic!("{admission:?}") };
        assert_eq!(*reason, "StorageLimitsNotEnforced");
        assert!(message.contains("volume \"disk\"") && message.contains("container c."), "{message}");
        assert!(!message.contains("\"memory\"") && !message.contains("container d"), "{message}");
    }
}
