//! What a container was given, as its status tells it: image, resources, mounts. Pure.

use k8s_openapi::api::core::v1::{Container as ApiContainer, ContainerStatus, VolumeMountStatus};

use super::{admission::is_token_volume, desired::Desired};
use crate::{
    images::ImageName,
    runtime::{Container, Image},
};

/// Label of a container with the image's name by its digest, where it has one.
pub const IMAGE_LABEL: &str = "fleet.harmony.io/image-by-digest";

/// The image by its digest, from the registry and path that were asked for, if it is known by one there.
pub fn by_digest(image: &Image, asked: &str) -> Option<String> {
    let asked = ImageName::parse(asked).ok();
    let digests = || image.names.iter().filter(|name| name.contains('@'));
    let same = |name: &&String| {
        let name = ImageName::parse(name).ok();
        name.zip(asked.as_ref())
            .is_some_and(|(name, asked)| name.registry() == asked.registry() && name.path() == asked.path())
    };
    digests().find(same).or_else(|| digests().next()).cloned()
}

/// `imageID`: by its digest, since that means the same image everywhere; else by its id.
pub fn image_id(seen: &Container) -> String {
    seen.labels.get(IMAGE_LABEL).unwrap_or(&seen.image_id).clone()
}

/// Resources of a container that the runtime knows. They cannot be changed while it runs, so that what was
/// asked for, what was set aside and what it has are the same.
pub fn resources(container: &ApiContainer, status: &mut ContainerStatus) {
    let resources = container.resources.clone().unwrap_or_default();
    status.allocated_resources = resources.requests.clone().filter(|requests| !requests.is_empty());
    status.resources = Some(resources);
}

/// Its mounts, but for service-account tokens, which are not mounted.
pub fn mounts(desired: &Desired, container: &ApiContainer) -> Option<Vec<VolumeMountStatus>> {
    let is_token = |name: &str| {
        desired.spec.volumes.iter().flatten().any(|volume| volume.name == name && is_token_volume(volume))
    };
    let mounts = container.volume_mounts.iter().flatten().filter(|mount| !is_token(&mount.name));
    let mounts: Vec<VolumeMountStatus> = mounts
        .map(|mount| {
            let read_only = mount.read_only == Some(true);
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: read_only.then_some(true),
                recursive_read_only: read_only.then(|| "Disabled".to_owned()),
                ..VolumeMountStatus::default()
            }
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn image(names: &[&str]) -> Image {
        Image {
            id: "sha256:1".to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            size: 1,
            user: String::new(),
            has_command: true,
        }
    }

    #[test]
    fn an_image_is_told_by_the_digest_of_where_it_was_asked_for() {
        let digest = "@sha256:5d677662c8b924441ae954a67e174e03c08fd29d876209802936e9e59db8a685";
        let name = |repository: &str| format!("{repository}{digest}");
        let (mirror, hub) = (name("mirror.example/nginx"), name("docker.io/library/nginx"));
        let both = image(&["docker.io/library/nginx:1", &mirror, &hub]);
        assert_eq!(by_digest(&both, "nginx:1"), Some(hub));
        assert_eq!(by_digest(&both, "elsewhere.example/nginx"), Some(mirror));
        assert_eq!(by_digest(&image(&["localhost/hello:v1"]), "localhost/hello:v1"), None);
    }

    #[test]
    fn a_token_that_is_not_mounted_is_not_told() {
        let bundle = json!({ "pod": {
            "metadata": { "namespace": "default", "name": "web", "uid": "u1" },
            "spec": {
                "volumes": [
                    { "name": "kube-api-access-x", "projected": { "sources": [] } },
                    { "name": "data", "emptyDir": {} },
                ],
                "containers": [{
                    "name": "c", "image": "busybox:1",
                    "resources": { "requests": { "cpu": "50m" }, "limits": { "memory": "64Mi" } },
                    "volumeMounts": [
                        { "name": "data", "mountPath": "/data" },
                        { "name": "data", "mountPath": "/ro", "readOnly": true },
                        { "name": "kube-api-access-x", "mountPath": "/var/run/secrets", "readOnly": true },
                    ],
                }],
            },
        } });
        let desired = Desired::parse(&"u1".parse().unwrap(), &bundle.to_string()).unwrap();
        let container = &desired.spec.containers[0];
        assert_eq!(
            json!(mounts(&desired, container)),
            json!([
                { "name": "data", "mountPath": "/data" },
                { "name": "data", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "Disabled" },
            ])
        );
        let mut status = ContainerStatus::default();
        resources(container, &mut status);
        assert_eq!(json!(status.allocated_resources), json!({ "cpu": "50m" }));
        assert_eq!(
            json!(status.resources),
            json!({ "requests": { "cpu": "50m" }, "limits": { "memory": "64Mi" } })
        );
    }
}
