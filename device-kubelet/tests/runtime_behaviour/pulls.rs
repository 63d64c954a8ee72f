//! Pulls by Podman, from registries that run in this process.

use std::{process::Command, time::Duration};

use device_kubelet::runtime::{RegistryAuth, Runtime as _, RuntimeError, podman::PodmanRuntime};

use crate::{
    device::{Device, Ended, pod, sandbox, within, words},
    on_podman::{Case, case},
    podman_service::{DOCKER_HUB, REGISTRIES},
    registry::{Access, Pace, Registry, TAG},
};

pub fn cases() -> Vec<Case> {
    vec![
        case!(pulls::what_is_pulled_is_listed_and_runs),
        case!(pulls::an_image_is_pulled_by_its_digest),
        case!(pulls::short_names_are_docker_hubs_and_others_are_kept),
        case!(pulls::a_guarded_registry_wants_the_right_credentials),
        case!(pulls::a_dropped_pull_ends_in_podman),
        case!(pulls::a_pull_goes_on_while_there_is_progress),
        case!(pulls::what_a_registry_does_not_have_is_said),
    ]
}

fn open(device: &Device, address: &str) -> Registry {
    Registry::serve(device.podman().listen(address), Access::Anyone)
}

pub async fn what_is_pulled_is_listed_and_runs(device: Device) {
    let registry = open(&device, REGISTRIES[1]);
    registry.publish("team/tagged", device.podman().saved_image("tagged"));
    let name = format!("{}/team/tagged:{TAG}", REGISTRIES[1]);
    assert_eq!(device.runtime.image_status(&name).await.unwrap(), None);
    let id = device.runtime.pull_image(&name, None).await.unwrap();
    let status = device.runtime.image_status(&name).await.unwrap().unwrap();
    assert_eq!(status.id, id);
    let listed = device.runtime.list_images().await.unwrap();
    let listed = listed.into_iter().find(|image| image.id == id).unwrap();
    assert!(listed.names.contains(&name), "{listed:?}");
    // As `imagePullPolicy: Always` has it: nothing is new.
    assert_eq!(device.runtime.pull_image(&name, None).await.unwrap(), id);
    let pod = pod("pulled");
    let made = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let mut spec = device.container(&pod, &["cat", "/content"]);
    spec.image.clone_from(&name);
    let container = device.runtime.create_container(&made.id, spec).await.unwrap();
    device.runtime.start_container(&container).await.unwrap();
    assert_eq!(device.ended(&container).await, Ended::with(0));
    assert_eq!(device.see(&container).await.unwrap().image_id, id);
    assert_eq!(device.log(&pod), words(&["stdout F tagged"]));
    device.remove(&made).await;
}

pub async fn an_image_is_pulled_by_its_digest(device: Device) {
    let registry = open(&device, REGISTRIES[2]);
    let digest = registry.publish("digested", device.podman().saved_image("digested"));
    let repository = format!("{}/digested", REGISTRIES[2]);
    let name = format!("{repository}@{digest}");
    let id = device.runtime.pull_image(&name, None).await.unwrap();
    let status = device.runtime.image_status(&name).await.unwrap().unwrap();
    assert_eq!(status.id, id);
    assert!(status.names.contains(&name), "{status:?}");
    assert_eq!(device.runtime.pull_image(&name, None).await.unwrap(), id);
    // A tag beside a digest means nothing.
    let both = format!("{repository}:other@{digest}");
    assert_eq!(device.runtime.pull_image(&both, None).await.unwrap(), id);
    assert_eq!(device.runtime.image_status(&both).await.unwrap().unwrap().id, id);
    let missing = format!("{repository}@sha256:{}", "0".repeat(64));
    let refusal = device.runtime.pull_image(&missing, None).await.unwrap_err().to_string();
    assert!(refusal.contains(&missing) && refusal.contains("manifest unknown"), "{refusal}");
}

pub async fn short_names_are_docker_hubs_and_others_are_kept(device: Device) {
    let registry = open(&device, DOCKER_HUB);
    for (repository, name, full) in [
        ("library/short", "short:v1", "docker.io/library/short:v1"),
        ("team/short", "team/short:v1", "docker.io/team/short:v1"),
        ("served/local", "localhost/served/local:v1", "localhost/served/local:v1"),
    ] {
        registry.publish(repository, device.podman().saved_image(&repository.replace('/', "-")));
        let id = device.runtime.pull_image(name, None).await.unwrap();
        for name in [name, full] {
            let status = device.runtime.image_status(name).await.unwrap().unwrap();
            assert_eq!(status.id, id, "{name}");
            assert!(status.names.iter().any(|name| name == full), "{status:?}");
        }
        assert_eq!(device.runtime.pull_image(name, None).await.unwrap(), id);
    }
}

pub async fn a_guarded_registry_wants_the_right_credentials(device: Device) {
    const PASSWORD: &str = "correct-horse-battery";
    let registry = Registry::serve(device.podman().listen(REGISTRIES[3]), Access::Only("me", PASSWORD));
    registry.publish("guarded", device.podman().saved_image("guarded"));
    let name = format!("{}/guarded:{TAG}", REGISTRIES[3]);
    let auth = |password: &str| RegistryAuth { username: "me".to_owned(), password: password.to_owned() };
    for wrong in [None, Some(auth("staple-horse-battery"))] {
        let refusal = device.runtime.pull_image(&name, wrong).await.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Refused { .. }), "{refusal:?}");
        println!("         {refusal}");
        assert!(refusal.to_string().contains("unauthorized"), "{refusal}");
        assert!(!format!("{refusal:?}").contains("horse-battery"), "{refusal:?}");
    }
    let id = device.runtime.pull_image(&name, Some(auth(PASSWORD))).await.unwrap();
    assert_eq!(device.runtime.image_status(&name).await.unwrap().unwrap().id, id);
    // What Podman logs, and all that it keeps.
    let folder = device.podman().folder();
    let found = Command::new("grep").args(["-rlF", "horse-battery"]).arg(folder).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert!(!std::fs::read(folder.join("service.log")).unwrap().is_empty());
}

pub async fn a_dropped_pull_ends_in_podman(device: Device) {
    let registry = open(&device, REGISTRIES[4]);
    registry.publish("stopping", device.podman().saved_image("stopping"));
    registry.pace(Pace::Half);
    let name = format!("{}/stopping:{TAG}", REGISTRIES[4]);
    tokio::select! {
        ended = device.runtime.pull_image(&name, None) => panic!("{ended:?}"),
        () = registry.hands_out(1) => {}
    }
    registry.hands_out(0).await;
    assert_eq!(device.runtime.image_status(&name).await.unwrap(), None);
    registry.pace(Pace::AtOnce);
    // Nothing of it is in the way of the next.
    let id = within("the next pull", device.runtime.pull_image(&name, None)).await.unwrap();
    assert_eq!(device.runtime.image_status(&name).await.unwrap().unwrap().id, id);
}

pub async fn a_pull_goes_on_while_there_is_progress(device: Device) {
    const LIMIT: Duration = Duration::from_secs(12);
    let registry = open(&device, REGISTRIES[5]);
    let runtime = PodmanRuntime::with_pull_limit(&device.podman().address(), LIMIT);
    for name in ["stalling", "slow"] {
        registry.publish(name, device.podman().saved_image(name));
    }
    let name = |repository: &str| format!("{}/{repository}:{TAG}", REGISTRIES[5]);
    registry.pace(Pace::Half);
    let refusal = runtime.pull_image(&name("stalling"), None).await.unwrap_err().to_string();
    assert!(refusal.contains("no progress for 12 s"), "{refusal}");
    registry.hands_out(0).await;
    // Twice as long, and never without progress.
    registry.pace(Pace::Pieces(24, LIMIT / 12));
    let id = runtime.pull_image(&name("slow"), None).await.unwrap();
    assert_eq!(runtime.image_status(&name("slow")).await.unwrap().unwrap().id, id);
}

pub async fn what_a_registry_does_not_have_is_said(device: Device) {
    let registry = open(&device, REGISTRIES[6]);
    registry.publish("there", device.podman().saved_image("there"));
    for (missing, why) in [("there:v2", "manifest unknown"), ("nowhere:v1", "name unknown")] {
        let name = format!("{}/{missing}", REGISTRIES[6]);
        let refusal = device.runtime.pull_image(&name, None).await.unwrap_err();
        println!("         {refusal}");
        assert!(matches!(refusal, RuntimeError::Refused { .. }), "{refusal:?}");
        let refusal = refusal.to_string();
        assert!(refusal.contains(&name) && refusal.contains(why), "{refusal}");
    }
}
