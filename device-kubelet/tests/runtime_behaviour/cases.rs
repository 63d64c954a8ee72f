//! What holds for every runtime.

use std::{os::unix::fs::MetadataExt as _, time::Duration};

use device_kubelet::runtime::{
    ContainerId, ContainerState, ListedImage, PortMapping, RuntimeError, SandboxId,
};

use crate::device::{Device, Ended, IMAGE, pod, sandbox, told};

const NO_GRACE: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(50);

fn published(port: u16) -> Vec<PortMapping> {
    vec![PortMapping {
        protocol: "TCP".to_owned(),
        container_port: 8080,
        host_port: port,
        host_ip: String::new(),
    }]
}

pub async fn a_container_ends_with_its_exit_code(device: Device) {
    let pod = pod("exit-code");
    let (sandbox, id) = device.run(&pod, &["sh", "-c", "exit 3"]).await;
    assert_eq!(device.ended(&id).await, Ended::with(3));
    device.remove(&sandbox).await;
}

pub async fn a_failing_command_is_not_a_failed_start(device: Device) {
    for (command, code) in [(&["true"][..], 0), (&["false"], 1), (&["sleep", "0.1"], 0)] {
        let pod = pod("plain");
        let (sandbox, id) = device.run(&pod, command).await;
        assert_eq!(device.ended(&id).await, Ended::with(code), "{command:?}");
        device.remove(&sandbox).await;
    }
}

pub async fn a_missing_command_fails_the_start(device: Device) {
    let pod = pod("no-command");
    let sandbox = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let spec = device.container(&pod, &["/does-not-exist"]);
    let id = device.runtime.create_container(&sandbox.id, spec).await.unwrap();
    let refusal = device.runtime.start_container(&id).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Refused { .. }), "{refusal:?}");
    let said = refusal.to_string();
    assert!(said.contains("\"/does-not-exist\": stat /does-not-exist: no such file or directory"), "{said}");
    let ended = device.ended(&id).await;
    assert_eq!((ended.started, ended.exit_code), (false, 128), "{ended:?}");
    assert!(ended.message.contains("/does-not-exist"), "{ended:?}");
    device.runtime.stop_container(&id, NO_GRACE).await.unwrap();
    device.remove(&sandbox).await;
}

pub async fn stop_lets_a_container_end_by_itself(device: Device) {
    let pod = pod("polite");
    let script = "trap 'exit 7' TERM; echo ready; sleep 1000 & wait";
    let (sandbox, id) = device.run(&pod, &["sh", "-c", script]).await;
    device.said(&pod, "ready").await;
    device.runtime.stop_container(&id, LONG).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(7));
    device.remove(&sandbox).await;
}

pub async fn stop_kills_after_the_grace(device: Device) {
    let pod = pod("stubborn");
    let script = "trap '' TERM; echo ready; sleep 1000";
    let (sandbox, id) = device.run(&pod, &["sh", "-c", script]).await;
    device.said(&pod, "ready").await;
    device.runtime.stop_container(&id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(137));
    device.remove(&sandbox).await;
}

pub async fn stop_waits_for_a_container_that_needs_its_time(device: Device) {
    let pod = pod("slow");
    let script = "trap '' TERM; echo ready; sleep 2; exit 5";
    let (sandbox, id) = device.run(&pod, &["sh", "-c", script]).await;
    device.said(&pod, "ready").await;
    device.runtime.stop_container(&id, LONG).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(5));
    device.remove(&sandbox).await;
}

pub async fn stop_of_what_does_not_run_succeeds(device: Device) {
    let pod = pod("idle");
    let sandbox = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let spec = device.container(&pod, &["true"]);
    let id = device.runtime.create_container(&sandbox.id, spec).await.unwrap();
    device.runtime.stop_container(&id, NO_GRACE).await.unwrap();
    assert_eq!(device.see(&id).await.unwrap().state, ContainerState::Created);
    device.runtime.start_container(&id).await.unwrap();
    device.ended(&id).await;
    device.runtime.stop_container(&id, NO_GRACE).await.unwrap();
    device.runtime.stop_container(&id, NO_GRACE).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(0));
    device.runtime.remove_container(&id).await.unwrap();
    device.runtime.stop_container(&id, NO_GRACE).await.unwrap();
    device.runtime.stop_sandbox(&sandbox.id).await.unwrap();
    device.runtime.stop_sandbox(&sandbox.id).await.unwrap();
    device.remove(&sandbox).await;
    device.runtime.stop_sandbox(&sandbox.id).await.unwrap();
}

pub async fn remove_is_idempotent_and_kills(device: Device) {
    let pod = pod("removed");
    let (sandbox, id) = device.run(&pod, &["sleep", "1000"]).await;
    device.runtime.remove_container(&id).await.unwrap();
    assert_eq!(device.see(&id).await, None);
    device.runtime.remove_container(&id).await.unwrap();
    device.remove(&sandbox).await;
    device.remove(&sandbox).await;
}

pub async fn a_second_sandbox_of_a_pod_is_a_conflict(device: Device) {
    let pod = pod("twice");
    let first = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let refusal = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Conflict { what: "sandbox", .. }), "{refusal:?}");
    device.remove(&first).await;
    let second = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    device.remove(&second).await;
}

pub async fn a_second_container_of_an_attempt_is_a_conflict(device: Device) {
    let pod = pod("double");
    let sandbox = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let spec = device.container(&pod, &["true"]);
    device.runtime.create_container(&sandbox.id, spec.clone()).await.unwrap();
    let refusal = device.runtime.create_container(&sandbox.id, spec).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Conflict { what: "container", .. }), "{refusal:?}");
    device.remove(&sandbox).await;
}

pub async fn what_does_not_exist_is_not_found(device: Device) {
    let pod = pod("nothing");
    let nobody = "0".repeat(64);
    let refusal = device.runtime.start_container(&ContainerId(nobody.clone())).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NotFound { what: "container", .. }), "{refusal:?}");
    let spec = device.container(&pod, &["true"]);
    let nowhere = SandboxId(nobody);
    let refusal = device.runtime.create_container(&nowhere, spec.clone()).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NotFound { what: "sandbox", .. }), "{refusal:?}");
    let sandbox = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let mut imageless = spec;
    imageless.image = "localhost/none:v1".to_owned();
    let refusal = device.runtime.create_container(&sandbox.id, imageless).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NotFound { what: "image", .. }), "{refusal:?}");
    device.remove(&sandbox).await;
}

pub async fn a_new_agent_finds_everything_again(device: Device) {
    let pod = pod("adopted");
    let (sandbox, id) = device.run(&pod, &["sleep", "1000"]).await;
    let agent = (device.restarted)();
    let found = agent.list_sandboxes().await.unwrap();
    let found = found.into_iter().find(|s| s.id == sandbox.id).unwrap();
    assert_eq!((&found.pod, found.ready, &found.ips), (&pod, true, &sandbox.ips));
    let found = agent.list_containers(Some(&pod.uid)).await.unwrap();
    let [found] = &found[..] else { panic!("{found:?}") };
    let spec = device.container(&pod, &[]);
    assert_eq!((&found.id, &found.pod, &found.name), (&id, &pod, &spec.name));
    assert_eq!((found.attempt, &found.image, &found.log_path), (0, &spec.image, &spec.log_path));
    assert_eq!(found.labels, spec.labels);
    assert!(found.image_id.starts_with("sha256:"), "{}", found.image_id);
    assert!(matches!(found.state, ContainerState::Running { .. }), "{:?}", found.state);
    device.remove(&sandbox).await;
}

pub async fn a_new_agent_hears_of_exits(device: Device) {
    let pod = pod("heard");
    let (sandbox, id) = device.run(&pod, &["sleep", "1000"]).await;
    let agent = (device.restarted)();
    let mut events = agent.events();
    agent.list_sandboxes().await.unwrap();
    device.runtime.stop_container(&id, NO_GRACE).await.unwrap();
    told(&mut events, &pod).await;
    device.remove(&sandbox).await;
}

pub async fn an_exit_is_told(device: Device) {
    let pod = pod("told");
    let mut events = device.runtime.events();
    let (sandbox, id) = device.run(&pod, &["sh", "-c", "sleep 0.3; exit 1"]).await;
    told(&mut events, &pod).await;
    // What is told can be seen: the exit code is there, not only soon.
    let seen = device.see(&id).await.unwrap();
    assert_eq!(Ended::of(&seen.state), Some(Ended::with(1)), "{seen:?}");
    device.remove(&sandbox).await;
}

pub async fn listing_by_pod_gives_that_pod_only(device: Device) {
    let (ours, other) = (pod("ours"), pod("other"));
    let (first, id) = device.run(&ours, &["sleep", "1000"]).await;
    let (second, _) = device.run(&other, &["sleep", "1000"]).await;
    let listed = device.runtime.list_containers(Some(&ours.uid)).await.unwrap();
    assert_eq!(listed.iter().map(|c| &c.id).collect::<Vec<_>>(), [&id]);
    device.remove(&first).await;
    device.remove(&second).await;
}

pub async fn attempts_stand_side_by_side(device: Device) {
    let pod = pod("attempts");
    let (sandbox, first) = device.run(&pod, &["false"]).await;
    device.ended(&first).await;
    let mut again = device.container(&pod, &["sleep", "1000"]);
    again.attempt = 1;
    again.log_path = device.log_path(&pod, 1);
    let second = device.runtime.create_container(&sandbox.id, again).await.unwrap();
    device.runtime.start_container(&second).await.unwrap();
    let mut listed = device.runtime.list_containers(Some(&pod.uid)).await.unwrap();
    listed.sort_by_key(|c| c.attempt);
    let [old, new] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(Ended::of(&old.state), Some(Ended::with(1)));
    assert!(matches!(new.state, ContainerState::Running { .. }));
    assert!(old.created_at <= new.created_at);
    device.remove(&sandbox).await;
}

pub async fn logs_are_in_the_cri_format(device: Device) {
    let pod = pod("logs");
    let (sandbox, id) = device.run(&pod, &["sh", "-c", "echo one; sleep 0.2; echo two >&2"]).await;
    device.ended(&id).await;
    device.said(&pod, "two").await;
    assert_eq!(device.log(&pod), ["stdout F one", "stderr F two"]);
    let log = std::fs::read_to_string(device.log_path(&pod, 0)).unwrap();
    for line in log.lines() {
        let time = line.split_once(' ').unwrap().0;
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    // The log outlives the container: it is the caller's.
    device.remove(&sandbox).await;
    assert!(device.log_path(&pod, 0).exists());
}

pub async fn a_reopened_log_goes_on_in_a_new_file(device: Device) {
    let pod = pod("reopened");
    let (sandbox, id) = device.run(&pod, &["sh", "-c", "echo one; sleep 3; echo two; sleep 1000"]).await;
    device.said(&pod, "one").await;
    let path = device.log_path(&pod, 0);
    let rotated = path.with_extension("log.0000000001");
    std::fs::hard_link(&path, &rotated).unwrap();
    device.runtime.reopen_log(&id).await.unwrap();
    // It is a new file when the call returns, and the old one lives on.
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), std::fs::metadata(&rotated).unwrap().ino());
    device.said(&pod, "two").await;
    assert_eq!(device.log(&pod), ["stdout F two"]);
    let rotated = std::fs::read_to_string(rotated).unwrap();
    assert!(rotated.ends_with(" stdout F one\n") && rotated.lines().count() == 1, "{rotated}");
    assert!(!path.with_extension("log.tmp").exists());
    device.remove(&sandbox).await;
}

pub async fn a_log_to_which_nobody_writes_is_not_reopened(device: Device) {
    let pod = pod("silent");
    let (sandbox, id) = device.run(&pod, &["sh", "-c", "echo one"]).await;
    device.ended(&id).await;
    let refusal = device.runtime.reopen_log(&id).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Refused { .. }), "{refusal:?}");
    assert!(refusal.to_string().ends_with("the container does not run"), "{refusal}");
    assert_eq!(device.log(&pod), ["stdout F one"]);
    assert!(!device.log_path(&pod, 0).with_extension("log.tmp").exists());
    device.remove(&sandbox).await;
    let refusal = device.runtime.reopen_log(&id).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::NotFound { what: "container", .. }), "{refusal:?}");
}

pub async fn images_are_found_by_name_and_id(device: Device) {
    let image = device.runtime.image_status(IMAGE).await.unwrap().unwrap();
    assert!(image.id.starts_with("sha256:"), "{image:?}");
    assert!(image.names.iter().any(|name| name == IMAGE), "{image:?}");
    assert!(image.has_command, "{image:?}");
    assert_eq!(device.runtime.image_status(&image.id).await.unwrap(), Some(image.clone()));
    for missing in ["localhost/none:v1", "none", "../../info", "localhost/hello:v2"] {
        assert_eq!(device.runtime.image_status(missing).await.unwrap(), None, "{missing}");
    }
    let listed = ListedImage { id: image.id.clone(), names: image.names.clone(), size: image.size };
    assert!(device.runtime.list_images().await.unwrap().contains(&listed));
    // An id is a name for a container's image, too.
    let pod = pod("by-id");
    let sandbox = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let mut spec = device.container(&pod, &["true"]);
    spec.image = image.id.clone();
    let id = device.runtime.create_container(&sandbox.id, spec).await.unwrap();
    let seen = device.see(&id).await.unwrap();
    assert_eq!((&seen.image, &seen.image_id), (&image.id, &image.id));
    device.remove(&sandbox).await;
}

pub async fn a_failed_pull_says_why(device: Device) {
    for missing in ["localhost:1/none:v1", "not an image"] {
        let refusal = device.runtime.pull_image(missing, None).await.unwrap_err();
        assert!(matches!(refusal, RuntimeError::Refused { .. }), "{refusal:?}");
        assert!(refusal.to_string().contains(missing), "{refusal}");
    }
}

pub async fn a_stopped_sandbox_ends_its_containers_and_frees_its_port(device: Device) {
    let first = pod("stopped");
    let mut spec = sandbox(&first);
    spec.ports = published(device.port);
    let stopped = device.runtime.run_sandbox(spec).await.unwrap();
    let container = device.container(&first, &["sleep", "1000"]);
    let id = device.runtime.create_container(&stopped.id, container).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    device.runtime.stop_sandbox(&stopped.id).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(137));
    let listed = device.runtime.list_sandboxes().await.unwrap();
    let seen = listed.iter().find(|s| s.id == stopped.id).unwrap();
    assert_eq!((seen.ready, &seen.ips[..]), (false, &[][..]));
    let mut spec = sandbox(&pod("next"));
    spec.ports = published(device.port);
    let next = device.runtime.run_sandbox(spec).await.unwrap();
    device.remove(&next).await;
    device.remove(&stopped).await;
}

pub async fn a_taken_port_is_refused_and_leaves_nothing(device: Device) {
    let (first, second) = (pod("first"), pod("second"));
    let mut spec = sandbox(&first);
    spec.ports = published(device.port);
    let holder = device.runtime.run_sandbox(spec).await.unwrap();
    let mut spec = sandbox(&second);
    spec.ports = published(device.port);
    let refusal = device.runtime.run_sandbox(spec).await.unwrap_err();
    assert!(matches!(refusal, RuntimeError::Refused { .. }), "{refusal:?}");
    assert!(refusal.to_string().contains("address already in use"), "{refusal}");
    let listed = device.runtime.list_sandboxes().await.unwrap();
    assert!(!listed.iter().any(|s| s.pod == second), "{listed:?}");
    device.remove(&holder).await;
}

pub async fn a_removed_sandbox_leaves_nothing(device: Device) {
    let pod = pod("gone");
    let (sandbox, _) = device.run(&pod, &["sleep", "1000"]).await;
    device.remove(&sandbox).await;
    assert!(device.runtime.list_containers(Some(&pod.uid)).await.unwrap().is_empty());
    let listed = device.runtime.list_sandboxes().await.unwrap();
    assert!(!listed.iter().any(|s| s.pod == pod), "{listed:?}");
}

pub async fn start_is_idempotent_while_it_runs(device: Device) {
    let pod = pod("started");
    let (sandbox, id) = device.run(&pod, &["sleep", "1000"]).await;
    device.runtime.start_container(&id).await.unwrap();
    assert_eq!(device.runtime.list_containers(Some(&pod.uid)).await.unwrap().len(), 1);
    device.remove(&sandbox).await;
}

pub async fn the_runtime_names_itself(device: Device) {
    let version = device.runtime.version().await.unwrap();
    let (name, number) = version.split_once("://").unwrap();
    assert!(!name.is_empty() && number.starts_with(|c: char| c.is_ascii_digit()), "{version}");
}
