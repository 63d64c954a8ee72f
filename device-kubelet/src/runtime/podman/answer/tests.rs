//! Answers of Podman 4.3 and 5.4, see `tests/fixtures/README.md`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use serde::de::DeserializeOwned;

use super::*;
use crate::runtime::podman::oom::PodCgroups;

const VERSIONS: [&str; 2] = ["podman-4.3", "podman-5.4"];

fn answer<T: DeserializeOwned>(version: &str, name: &str) -> T {
    let path = format!("{}/tests/fixtures/{version}/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_pod_is_a_sandbox() {
    for version in VERSIONS {
        let [pod]: [ListedPod; 1] =
            answer::<Vec<ListedPod>>(version, "pods").try_into().map_err(|_| "one pod").unwrap();
        let infra: InspectedContainer = answer(version, "infra");
        assert_eq!(pod.infra_id, infra.id);
        assert!(infra.state.conmon_pid > 0);
        assert!(PodCgroups::new(&infra.id, &infra.state.cgroup_path).is_some(), "{version}");
        let sandbox = pod.into_sandbox(infra.ips()).unwrap();
        assert!(sandbox.ready);
        assert_eq!(sandbox.pod.to_string(), "default/web(0b5c2f52-8a58-4f0e-9d4f-3a3b6f9c1f11)");
        assert_eq!(sandbox.ips.len(), 1, "{:?}", sandbox.ips);
        assert!(sandbox.ips[0].starts_with("10.88."), "{:?}", sandbox.ips);
        assert!(sandbox.created_at > at("2026-11-21T00:00:00Z"));
    }
}

#[test]
fn containers_are_told_by_their_labels() {
    for version in VERSIONS {
        let listed: Vec<ListedContainer> = answer(version, "containers");
        assert_eq!(listed.iter().filter(|c| c.is_infra).count(), 1);
        assert!(listed.iter().all(|c| c.owner().is_some()));
        let oom: Vec<bool> = listed.iter().map(ListedContainer::may_be_oom_killed).collect();
        assert_eq!(oom.iter().filter(|may| **may).count(), 1);
        let mut containers: Vec<Container> = listed
            .into_iter()
            .filter(|c| !c.is_infra)
            .map(|c| {
                let oom_killed =
                    c.may_be_oom_killed() && answer::<InspectedContainer>(version, "ended").state.oom_killed;
                c.into_container(None, oom_killed).unwrap()
            })
            .collect();
        containers.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        let [greedy, ended, running, waiting] = &containers[..] else { panic!("{containers:?}") };

        assert_eq!((ended.name.as_str(), ended.attempt), ("main", 0));
        assert!(matches!(ended.state, ContainerState::Exited { exit_code: 3, oom_killed: false, .. }));
        assert_eq!(ended.labels, BTreeMap::from([("a".to_owned(), "1".to_owned())]));
        assert!(ended.log_path.ends_with("main/0.log"));
        assert_eq!(ended.image, "localhost/hello:v1");
        assert!(ended.image_id.starts_with("sha256:") && ended.image_id.len() == 71, "{}", ended.image_id);

        assert_eq!((running.name.as_str(), running.attempt), ("main", 1));
        assert!(
            matches!(running.state, ContainerState::Running { started_at } if started_at > at("2026-11-21T00:00:00Z"))
        );
        assert_eq!(waiting.state, ContainerState::Created);
        // Of Podman 5's answer, the kernel killed for memory.
        let killed = matches!(greedy.state, ContainerState::Exited { exit_code: 137, oom_killed, .. } if oom_killed == (version == "podman-5.4"));
        assert!(killed, "{:?}", greedy.state);
    }
}

#[test]
fn an_inspect_of_the_fifth_api_is_read_the_same() {
    let by_version = |name| answer::<InspectedContainer>("podman-5.4", name);
    let (fourth, fifth) = (by_version("ended"), by_version("ended-api5"));
    assert_eq!(fifth.state.cgroup_path, fourth.state.cgroup_path);
    assert!(fifth.state.oom_killed && fourth.state.oom_killed);
    assert_eq!((fifth.id.as_str(), fifth.log_path()), (fourth.id.as_str(), fourth.log_path()));
}

#[test]
fn an_event_names_its_container() {
    for version in VERSIONS {
        let ended: InspectedContainer = answer(version, "ended");
        assert_eq!(answer::<Event>(version, "event").container(), ended.id, "{version}");
    }
}

#[test]
fn an_image_has_its_names_and_command() {
    for version in VERSIONS {
        let image: Image = answer::<InspectedImage>(version, "image").into();
        assert!(image.id.starts_with("sha256:"));
        assert_eq!(image.names[0], "localhost/hello:v1");
        assert!(image.names[1].starts_with("localhost/hello@sha256:"));
        assert!(image.has_command && image.size > 1_000_000 && image.user.is_empty());
    }
}

#[test]
fn a_listed_image_has_the_names_that_an_inspected_one_has() {
    let digest = "localhost/hello@sha256:5d677662c8b924441ae954a67e174e03c08fd29d876209802936e9e59db8a685";
    // Some versions list tags here, some all names.
    for repo_tags in [&["localhost/hello:v1"][..], &["localhost/hello:v1", digest]] {
        let entry: ImageEntry = serde_json::from_value(serde_json::json!({
            "Id": "c0ffee", "RepoTags": repo_tags, "RepoDigests": [digest], "Size": 5_000_000, "Labels": null,
        }))
        .unwrap();
        let expected = ListedImage {
            id: "sha256:c0ffee".to_owned(),
            names: vec!["localhost/hello:v1".to_owned(), digest.to_owned()],
            size: 5_000_000,
        };
        assert_eq!(ListedImage::from(entry), expected);
    }
    let dangling = r#"{"Id":"sha256:c0ffee","RepoTags":null,"RepoDigests":null,"Size":1}"#;
    let dangling = ListedImage::from(serde_json::from_str::<ImageEntry>(dangling).unwrap());
    assert_eq!((dangling.id.as_str(), dangling.names.len()), ("sha256:c0ffee", 0));
}

fn container(state: &str, started: i64, exited: i64) -> ContainerState {
    let labels = serde_json::json!({
        "fleet.harmony.io/managed-by": "device-kubelet",
        "io.kubernetes.pod.namespace": "default",
        "io.kubernetes.pod.name": "web",
        "io.kubernetes.pod.uid": "u1",
        "io.kubernetes.container.name": "main",
        "io.kubernetes.container.restartCount": "0",
        "io.kubernetes.container.logpath": "/log",
        "fleet.harmony.io/image": "hello",
        "fleet.harmony.io/labels": "{}",
    });
    let listed = serde_json::json!({
        "Id": "c1", "State": state, "StartedAt": started, "ExitedAt": exited, "ExitCode": 3, "Labels": labels,
    });
    let listed: ListedContainer = serde_json::from_value(listed).unwrap();
    listed.into_container(None, false).unwrap().state
}

const NEVER: i64 = -62_135_596_800;

#[test]
fn an_end_is_never_before_the_start() {
    let ContainerState::Exited { started_at, finished_at, exit_code, .. } =
        container("exited", 1_795_252_404, 1_795_252_403)
    else {
        panic!()
    };
    assert_eq!((started_at, exit_code), (Some(finished_at), 3));
}

#[test]
fn an_end_that_nobody_saw_has_an_unknown_code() {
    let ContainerState::Exited { started_at, exit_code, message, .. } =
        container("exited", 1_795_252_404, NEVER)
    else {
        panic!()
    };
    assert!(started_at.is_some());
    assert_eq!(exit_code, EXIT_UNSEEN);
    assert!(message.contains("while the device was down"));
}

#[test]
fn what_nobody_knows_is_told_the_same_each_time() {
    let ended = container("exited", NEVER, NEVER);
    let ContainerState::Exited { started_at: None, finished_at, .. } = ended else { panic!("{ended:?}") };
    assert_eq!(finished_at, Timestamp::UNIX_EPOCH, "as it was made: it is not told when");
    let running = container("running", NEVER, NEVER);
    assert_eq!(running, ContainerState::Running { started_at: Timestamp::UNIX_EPOCH });
}

#[test]
fn what_ran_before_a_reboot_has_ended_and_is_not_taken_for_new() {
    // Podman 4.3, after its run folder was gone: `created`, with the time of the start.
    let state = container("created", 1_795_301_498, NEVER);
    let ContainerState::Exited { started_at, exit_code, .. } = state else {
        panic!("it would be started again under its number: {state:?}");
    };
    assert_eq!((started_at, exit_code), (Some(at("2026-11-21T22:51:38Z")), EXIT_UNSEEN));
    assert_eq!(container("created", NEVER, NEVER), ContainerState::Created);
}

#[test]
fn states_on_the_way_have_a_meaning() {
    for state in ["created", "configured", "initialized"] {
        assert_eq!(container(state, NEVER, NEVER), ContainerState::Created, "{state}");
    }
    for state in ["running", "paused", "stopping"] {
        assert!(matches!(container(state, 1_795_252_404, NEVER), ContainerState::Running { .. }), "{state}");
    }
    for state in ["removing", "unknown", ""] {
        assert_eq!(container(state, NEVER, NEVER), ContainerState::Unknown, "{state}");
    }
}

#[test]
fn what_lacks_our_label_is_not_ours() {
    let foreign = serde_json::json!({
        "Id": "c1", "State": "running", "Labels": { "io.kubernetes.pod.uid": "u1", "fleet.harmony.io/managed-by": "else" },
    });
    let listed: ListedContainer = serde_json::from_value(foreign).unwrap();
    assert_eq!(listed.owner(), None);
    assert_eq!(listed.into_container(None, false), None);
    let bare: ListedContainer = serde_json::from_str(r#"{"Id":"c2","Labels":null,"Command":null}"#).unwrap();
    assert_eq!(bare.owner(), None);
}
