//! Histories of pods on the runtime in memory, with the clock paused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pods_device;

use std::time::Duration;

use device_kubelet::runtime::{
    Runtime as _,
    memory::{MemoryOptions, Registry},
};
use fleet_wire::message::{EventRecord, PodReport};
use pods_device::{Device, FOREVER, bundle, condition, main_status, simple, state, waiting};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_pod_runs_with_the_status_of_a_kubelet() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    let status = device.until_phase("u1", "Running").await;
    let main = main_status(&status);
    assert!(main.ready && main.started == Some(true));
    assert_eq!(main.restart_count, 0);
    assert!(main.container_id.as_ref().unwrap().starts_with("podman://"));
    assert!(main.image_id.starts_with("sha256:"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert!(status.start_time.is_some() && status.pod_ip.is_none() && status.host_ip.is_none());
    let types: Vec<&str> =
        status.conditions.iter().flatten().map(|condition| condition.type_.as_str()).collect();
    assert_eq!(
        types,
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
    );
    for condition in status.conditions.iter().flatten() {
        assert_eq!((condition.status.as_str(), condition.observed_generation), ("True", Some(1)));
    }
    assert_eq!(device.reasons().await, ["MissingClusterDNS", "Pulled", "Created", "Started"]);
    // Nothing but the start was told.
    assert!(device.history.lock().unwrap().len() <= 3);
}

#[tokio::test(start_paused = true)]
async fn crashes_are_restarted_with_growing_delays() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["false"])).await;
    let mut starts = Vec::new();
    for restarts in 0..6 {
        device
            .until("u1", "restarted", |report| {
                waiting(&report.status).as_deref() == Some("CrashLoopBackOff")
                    && main_status(&report.status).restart_count > restarts
            })
            .await;
        starts.push(tokio::time::Instant::now());
    }
    let delays: Vec<u64> =
        starts.windows(2).map(|pair| (pair[1] - pair[0]).as_millis().div_ceil(1000) as u64).collect();
    for (delay, expected) in delays.iter().zip([10, 20, 40, 80, 160]) {
        assert!(delay.abs_diff(expected) <= 1, "{delays:?}");
    }
    let status = device.until_waiting("u1", "CrashLoopBackOff").await;
    let main = main_status(&status);
    let last = main.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
    let message = state(&status).waiting.as_ref().unwrap().message.clone().unwrap();
    assert_eq!(message, "back-off 5m0s restarting failed container=main pod=web_default(u1)");
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Ready").reason.as_deref(), Some("ContainersNotReady"));
    // One dead container is kept beside the newest, no more.
    assert!(device.containers().await.len() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_sandbox_dies_alone_gets_another_at_once() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    device.until_phase("u1", "Running").await;
    let sandboxes = device.runtime.list_sandboxes().await.unwrap();
    let before = tokio::time::Instant::now();
    device.runtime.end_sandbox(&sandboxes[0].id);
    let restarted = |report: &PodReport| {
        let main = main_status(&report.status);
        main.restart_count == 1 && main.ready
    };
    device.until("u1", "restarted", restarted).await;
    // Not only when everything is looked at, once a minute.
    assert!(before.elapsed().as_secs() < 30, "{:?}", before.elapsed());
    let sandboxes = device.runtime.list_sandboxes().await.unwrap();
    assert!(sandboxes.len() == 1 && sandboxes[0].ready, "{sandboxes:?}");
}

#[tokio::test(start_paused = true)]
async fn pods_that_need_not_run_again_end() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("a", "u1", "Never", &["true"])).await;
    device.apply(simple("b", "u2", "Never", &["sh", "-c", "exit 3"])).await;
    device.apply(simple("c", "u3", "OnFailure", &["sh", "-c", "sleep 3; exit 0"])).await;
    let done = device.until_phase("u1", "Succeeded").await;
    assert_eq!(condition(&done, "Ready").reason.as_deref(), Some("PodCompleted"));
    assert_eq!(state(&done).terminated.as_ref().unwrap().reason.as_deref(), Some("Completed"));
    let failed = device.until_phase("u2", "Failed").await;
    assert_eq!(state(&failed).terminated.as_ref().unwrap().exit_code, 3);
    device.until_phase("u3", "Succeeded").await;
    // Dead containers stay for their logs until the pod is deleted.
    assert_eq!(device.containers().await.len(), 3);
    device.delete("u1", 30).await;
    let status = device.until_stopped("u1").await;
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(device.containers().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_in_order_and_sidecars_stay() {
    let mut device = Device::with_image("busybox:1").await;
    let container =
        |name: &str, command: &[&str]| json!({"name": name, "image": "busybox:1", "command": command});
    let mut sidecar = container("proxy", FOREVER);
    sidecar["restartPolicy"] = json!("Always");
    device
        .apply(bundle(
            "job",
            "u1",
            json!({
                "restartPolicy": "Never",
                "initContainers": [container("one", &["sleep", "5"]), sidecar, container("two", &["sleep", "5"])],
                "containers": [container("main", &["sleep", "10"])],
            }),
        ))
        .await;
    let early = device.until_waiting("u1", "PodInitializing").await;
    assert_eq!(early.phase.as_deref(), Some("Pending"));
    assert_eq!(condition(&early, "Initialized").status, "False");
    let status = device.until_phase("u1", "Running").await;
    let init = status.init_container_statuses.as_ref().unwrap();
    assert!(init.iter().all(|status| status.ready), "{init:#?}");
    assert_eq!(device.running().await.len(), 2);
    let done = device.until_phase("u1", "Succeeded").await;
    assert!(device.running().await.is_empty());
    assert_eq!(
        done.init_container_statuses.unwrap()[1]
            .state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        143
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_init_container_fails_a_pod_that_is_never_restarted() {
    let mut device = Device::with_image("busybox:1").await;
    device
        .apply(bundle(
            "job",
            "u1",
            json!({
                "restartPolicy": "Never",
                "initContainers": [{"name": "one", "image": "busybox:1", "command": ["false"]}],
                "containers": [{"name": "main", "image": "busybox:1"}],
            }),
        ))
        .await;
    let status = device.until_phase("u1", "Failed").await;
    assert_eq!(waiting(&status).as_deref(), Some("PodInitializing"));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_exist_is_tried_again_less_and_less_often() {
    let options = MemoryOptions { registry: Registry::Only(Default::default()), ..MemoryOptions::default() };
    let mut device = Device::new(options).await;
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    let status = device.until_waiting("u1", "ErrImagePull").await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let status = device.until_waiting("u1", "ImagePullBackOff").await;
    let message = state(&status).waiting.as_ref().unwrap().message.clone().unwrap();
    let why = "Back-off pulling image \"busybox:1\": ErrImagePull: ";
    assert!(message.starts_with(why) && message.len() > why.len(), "{message}");
    device.until_waiting("u1", "ErrImagePull").await;
    let reasons = device.reasons().await;
    for reason in ["Pulling", "Failed", "BackOff"] {
        assert!(reasons.contains(&reason.to_owned()), "{reasons:?}");
    }
    device.delete("u1", 30).await;
    let status = device.until_stopped("u1").await;
    assert_eq!(status.phase.as_deref(), Some("Failed"));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_does_not_exist_crash_loops() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(simple("web", "u1", "Always", &["/does-not-exist"])).await;
    let status = device.until_waiting("u1", "CrashLoopBackOff").await;
    let last = main_status(&status).last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.reason.as_deref(), last.exit_code), (Some("StartError"), 128));
    let events = device.events().await;
    let said = |event: &EventRecord| event.reason == "Failed" && event.message.contains("no such file");
    assert!(events.iter().any(said), "{events:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_refers_to_something_missing_waits_for_it() {
    let mut device = Device::with_image("busybox:1").await;
    let mut wanted = bundle(
        "web",
        "u1",
        json!({
            "containers": [{
                "name": "main", "image": "busybox:1", "command": FOREVER,
                "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "a"}}}],
            }],
        }),
    );
    device.apply(wanted.clone()).await;
    let status = device.until_waiting("u1", "CreateContainerConfigError").await;
    assert_eq!(
        state(&status).waiting.as_ref().unwrap().message.as_deref(),
        Some("configmap \"web\" not found")
    );
    wanted["configMaps"] = json!({"web": {"data": {"a": "1"}}});
    device.apply(wanted.clone()).await;
    device.until_phase("u1", "Running").await;

    let mut wanted = bundle(
        "vol",
        "u2",
        json!({
            "volumes": [{"name": "cfg", "configMap": {"name": "web"}}],
            "containers": [{
                "name": "main", "image": "busybox:1", "command": FOREVER,
                "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}],
            }],
        }),
    );
    device.apply(wanted.clone()).await;
    device.until_waiting("u2", "ContainerCreating").await;
    wanted["configMaps"] = json!({"web": {"data": {"a": "1"}}});
    device.apply(wanted.clone()).await;
    device.until_phase("u2", "Running").await;
    let file = device.dir.path().join("pods/u2/volumes/cfg/a");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    // A changed ConfigMap reaches the running pod; nothing is restarted.
    let before = device.running().await;
    wanted["configMaps"] = json!({"web": {"data": {"a": "2"}}});
    device.apply(wanted).await;
    while std::fs::read_to_string(&file).unwrap() != "2" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(device.running().await, before);
    assert!(device.reasons().await.contains(&"FailedMount".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_changed_image_restarts_that_container_in_place() {
    let present = ["busybox:1".to_owned(), "busybox:2".to_owned()].into();
    let mut device = Device::new(MemoryOptions { present, ..MemoryOptions::default() }).await;
    let mut wanted = simple("web", "u1", "Always", FOREVER);
    device.apply(wanted.clone()).await;
    device.until_phase("u1", "Running").await;
    wanted["pod"]["metadata"]["labels"] = json!({"a": "b"});
    device.apply(wanted.clone()).await;
    wanted["pod"]["spec"]["containers"][0]["image"] = json!("busybox:2");
    device.apply(wanted).await;
    let status = device
        .until("u1", "restarted", |report| {
            let main = main_status(&report.status);
            main.restart_count == 1 && main.ready
        })
        .await
        .status;
    assert!(main_status(&status).image.contains("busybox:2"));
    assert_eq!(device.running().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_started_and_not_seen_is_not_started_again() {
    let mut device = Device::with_image("busybox:1").await;
    // The agent has looked at what was there before.
    tokio::time::sleep(Duration::from_secs(1)).await;
    device.runtime.refuse_lists(2);
    device.apply(simple("web", "u1", "Always", FOREVER)).await;
    let status = device.until_phase("u1", "Running").await;
    assert_eq!(main_status(&status).restart_count, 0);
    assert_eq!(device.containers().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_stopped_for_its_new_image_is_tried_again_later() {
    let present = ["busybox:1".to_owned(), "busybox:2".to_owned()].into();
    let mut device = Device::new(MemoryOptions { present, ..MemoryOptions::default() }).await;
    let mut wanted = simple("web", "u1", "Always", FOREVER);
    device.apply(wanted.clone()).await;
    device.until_phase("u1", "Running").await;
    device.events().await;
    device.runtime.set_unavailable(true);
    wanted["pod"]["spec"]["containers"][0]["image"] = json!("busybox:2");
    device.apply(wanted).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let events = device.events().await;
    let failed = events.iter().find(|event| event.reason == "FailedKillPod").unwrap();
    assert!(failed.count <= 3, "{failed:?}");
    device.runtime.set_unavailable(false);
    let wanted = |report: &PodReport| main_status(&report.status).restart_count == 1;
    let restarted = device.until("u1", "restarted", wanted).await.status;
    assert!(main_status(&restarted).image.contains("busybox:2"));
    assert_eq!(device.running().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_device_cannot_do_is_refused_by_name_and_stays_pending() {
    let mut device = Device::with_image("busybox:1").await;
    device
        .apply(bundle(
            "db",
            "u1",
            json!({
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
                "containers": [{
                    "name": "main", "image": "busybox:1",
                    "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
                }],
            }),
        ))
        .await;
    let status = device.until_waiting("u1", "DeviceUnsupported").await;
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let events = device.events().await;
    let refusals: Vec<_> = events.iter().filter(|event| event.reason == "DeviceUnsupported").collect();
    assert_eq!((refusals.len(), refusals[0].count), (1, 1));
    for field in ["persistentVolumeClaim", "spec.containers[main].lifecycle.preStop"] {
        assert!(refusals[0].message.contains(field), "{}", refusals[0].message);
    }
    assert!(device.containers().await.is_empty());
    device.delete("u1", 30).await;
    device.until_stopped("u1").await;
}

#[tokio::test(start_paused = true)]
async fn probes_and_token_volumes_do_not_keep_a_pod_from_running() {
    let mut device = Device::with_image("busybox:1").await;
    device
        .apply(bundle(
            "web",
            "u1",
            json!({
                "volumes": [{"name": "kube-api-access-x", "projected": {"sources": []}}],
                "containers": [{
                    "name": "main", "image": "busybox:1", "command": FOREVER,
                    "readinessProbe": {"httpGet": {"port": 80}},
                    "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets"}],
                }],
            }),
        ))
        .await;
    device.until_phase("u1", "Running").await;
    assert!(device.reasons().await.contains(&"ProbesNotSupported".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_pod() {
    let mut device = Device::with_image("busybox:1").await;
    let mut wanted = simple("job", "u1", "Never", FOREVER);
    wanted["pod"]["spec"]["activeDeadlineSeconds"] = json!(30);
    device.apply(wanted).await;
    device.until_phase("u1", "Running").await;
    let status = device.until_phase("u1", "Failed").await;
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_beyond_its_deadline_is_over_when_nothing_of_it_runs_and_says_so_once() {
    let mut device = Device::with_image("busybox:1").await;
    let mut wanted = simple("web", "u1", "Always", &["sh", "-c", "trap '' TERM; sleep infinity"]);
    wanted["pod"]["spec"]["activeDeadlineSeconds"] = json!(30);
    wanted["pod"]["spec"]["terminationGracePeriodSeconds"] = json!(20);
    device.apply(wanted).await;
    device.until_phase("u1", "Failed").await;
    for report in device.history.lock().unwrap().iter() {
        let runs = main_status(&report.status).state.as_ref().unwrap().running.is_some();
        let over = report.status.phase.as_deref() == Some("Failed") || report.status.reason.is_some();
        assert!(!(runs && over), "{:#?}", report.status);
    }
    let events = device.events().await;
    let told: Vec<_> = events.iter().filter(|event| event.reason == "DeadlineExceeded").collect();
    assert_eq!(told.len(), 1, "{events:#?}");
    assert_eq!(told[0].message, "Pod was active on the node longer than the specified deadline");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_something_fails_at_its_deadline() {
    let mut device = Device::with_image("busybox:1").await;
    let mut wanted = simple("web", "u1", "Always", FOREVER);
    wanted["pod"]["spec"]["activeDeadlineSeconds"] = json!(20);
    wanted["pod"]["spec"]["volumes"] = json!([{"name": "conf", "configMap": {"name": "web"}}]);
    let before = tokio::time::Instant::now();
    device.apply(wanted).await;
    let status = device.until_phase("u1", "Failed").await;
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    // Not only when its volumes are tried again, ten seconds later.
    assert!(before.elapsed().as_secs() < 25, "{:?}", before.elapsed());

    device.runtime.set_unavailable(true);
    let mut wanted = simple("api", "u2", "Always", FOREVER);
    wanted["pod"]["spec"]["activeDeadlineSeconds"] = json!(3);
    device.apply(wanted).await;
    device.until_waiting("u2", "ContainerCreating").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let events = device.events().await;
    let of_this = |event: &&EventRecord| event.pod.as_ref().is_some_and(|pod| pod.uid.as_str() == "u2");
    let reasons: Vec<_> = events.iter().filter(of_this).map(|event| event.reason.as_str()).collect();
    assert!(reasons.contains(&"DeadlineExceeded"), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn a_container_says_what_it_was_given() {
    let mut device = Device::with_image("busybox:1").await;
    let mut wanted = simple("web", "u1", "Always", FOREVER);
    wanted["pod"]["spec"]["volumes"] = json!([{ "name": "tmp", "emptyDir": {} }]);
    wanted["pod"]["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "tmp", "mountPath": "/tmp" }]);
    wanted["pod"]["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "10m" } });
    device.apply(wanted).await;
    let status = device.until_phase("u1", "Running").await;
    let told = json!(main_status(&status));
    assert_eq!(told["volumeMounts"], json!([{ "name": "tmp", "mountPath": "/tmp" }]));
    assert_eq!(told["resources"], json!({ "requests": { "cpu": "10m" } }));
    assert_eq!(told["allocatedResources"], json!({ "cpu": "10m" }));
    let messages: Vec<_> = device.events().await.into_iter().map(|event| event.message).collect();
    let expected = [
        "Container image \"busybox:1\" already present on machine and can be accessed by the pod",
        "Container created",
        "Container started",
    ];
    assert!(messages.ends_with(&expected.map(str::to_owned)), "{messages:#?}");
}
