//! Pods on a real Podman: what only real processes and files can show. Needs root, as the runtime's own tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "runtime_behaviour/podman_service.rs"]
#[allow(dead_code)]
mod podman_service;
mod pods_device;

/// What the service's module expects of its crate.
mod device {
    /// The image that it makes.
    pub const IMAGE: &str = "localhost/hello:v1";
}

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use device::IMAGE;
use device_kubelet::runtime::{
    Container, ContainerId, ContainerSpec, Image, ListedImage, RegistryAuth, Result, Runtime, RuntimeEvent,
    Sandbox, SandboxId, SandboxSpec, podman::PodmanRuntime,
};
use futures::{future::BoxFuture, stream::BoxStream};
use k8s_openapi::{ByteString, api::core::v1::PodStatus};
use podman_service::PodmanService;
use pods_device::{Device, bundle, main_status, state};
use serde_json::{Value, json};

/// A handle that can be cloned, for an agent that restarts.
#[derive(Clone)]
struct Shared(Arc<PodmanRuntime>);

impl Runtime for Shared {
    fn version(&self) -> BoxFuture<'_, Result<String>> {
        self.0.version()
    }
    fn run_sandbox(&self, spec: SandboxSpec) -> BoxFuture<'_, Result<Sandbox>> {
        self.0.run_sandbox(spec)
    }
    fn stop_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        self.0.stop_sandbox(id)
    }
    fn remove_sandbox<'a>(&'a self, id: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        self.0.remove_sandbox(id)
    }
    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<Sandbox>>> {
        self.0.list_sandboxes()
    }
    fn create_container<'a>(
        &'a self,
        sandbox: &'a SandboxId,
        spec: ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId>> {
        self.0.create_container(sandbox, spec)
    }
    fn start_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.0.start_container(id)
    }
    fn stop_container<'a>(
        &'a self,
        id: &'a ContainerId,
        grace: std::time::Duration,
    ) -> BoxFuture<'a, Result<()>> {
        self.0.stop_container(id, grace)
    }
    fn reopen_log<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.0.reopen_log(id)
    }

    fn remove_container<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<()>> {
        self.0.remove_container(id)
    }
    fn list_containers<'a>(
        &'a self,
        pod: Option<&'a fleet_wire::name::PodUid>,
    ) -> BoxFuture<'a, Result<Vec<Container>>> {
        self.0.list_containers(pod)
    }
    fn image_status<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<Image>>> {
        self.0.image_status(image)
    }
    fn pull_image<'a>(&'a self, image: &'a str, auth: Option<RegistryAuth>) -> BoxFuture<'a, Result<String>> {
        self.0.pull_image(image, auth)
    }
    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>>> {
        self.0.list_images()
    }
    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.0.events()
    }
}

fn log(device: &Device<Shared>, pod: &str, uid: &str, attempt: u32) -> String {
    let path = device.dir.path().join(format!("logs/default_{pod}_{uid}/main/{attempt}.log"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    paths.filter(|path| Path::new(path).starts_with(folder)).map(str::to_owned).collect()
}

/// Unmounts what a failed test left, so that its folder can be removed.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        for path in mounts_below(&self.0) {
            let _ = Command::new("umount").args(["--lazy", &path]).status();
        }
    }
}

/// Looks again and again, for at most a minute.
async fn eventually(look: impl Fn() -> String, wanted: impl Fn(&str) -> bool) {
    let began = Instant::now();
    while !wanted(&look()) {
        assert!(began.elapsed().as_secs() < 60, "still: {}", look());
        tokio::task::yield_now().await;
    }
}

fn container(script: &str, more: Value) -> Value {
    let mut container = json!({
        "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
    });
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_live_and_die_on_podman() {
    let service = PodmanService::start();
    let runtime = Shared(Arc::new(PodmanRuntime::new(&service.address())));
    let mut device = Device::on(runtime).await;
    let _unmount = Unmount(device.dir.path().to_owned());
    everything_that_a_pod_asks_for_is_there(&mut device).await;
    crashes_leave_their_last_words(&mut device).await;
    an_agent_that_restarts_adopts(&mut device).await;
    what_cannot_start_says_so(&mut device).await;
}

async fn everything_that_a_pod_asks_for_is_there(device: &mut Device<Shared>) {
    let script = "cat /cfg/a /one /sec/key; echo; echo $A-$B-$NAME-$IP-$CPU; grep shm /proc/mounts; touch /mem/x; \
                  grep -e web -e gateway /etc/hosts; echo $(id -u):$(id -g); echo done; trap 'exit 0' TERM; sleep 1000 & wait";
    let secret = serde_json::to_value(ByteString(b"hidden".to_vec())).unwrap();
    let mut wanted = bundle(
        "web",
        "p1",
        json!({
            "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["gateway"]}],
            "volumes": [
                {"name": "cfg", "configMap": {"name": "web"}},
                {"name": "sec", "secret": {"secretName": "web", "defaultMode": 0o444}},
                {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
            "containers": [container(script, json!({
                "env": [
                    {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                ],
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
                "securityContext": {"runAsUser": 1000, "runAsGroup": 1000},
                "volumeMounts": [
                    {"name": "cfg", "mountPath": "/cfg"}, {"name": "sec", "mountPath": "/sec"},
                    {"name": "cfg", "mountPath": "/one", "subPath": "a"}, {"name": "mem", "mountPath": "/mem"},
                ],
            }))],
        }),
    );
    wanted["configMaps"] = json!({"web": {"data": {"a": "config\n"}}});
    wanted["secrets"] = json!({"web": {"data": {"key": secret}}});
    let began = Instant::now();
    device.apply(wanted.clone()).await;
    let status: PodStatus = device.until_phase("p1", "Running").await;
    println!("apply to Running: {:?}", began.elapsed());
    assert_eq!(status.qos_class.as_deref(), Some("Guaranteed"));
    eventually(|| log(device, "web", "p1", 0), |said| said.contains("done")).await;
    let said = log(device, "web", "p1", 0);
    for expected in
        ["config\n", "hidden", "1-12-web-10.", "-500\n", "\tweb\n", "192.0.2.7\tgateway\n", "1000:1000"]
    {
        assert!(said.contains(expected), "{expected:?} in {said}");
    }
    // A live update is seen in the container's own mount namespace.
    wanted["configMaps"] = json!({"web": {"data": {"a": "changed\n"}}});
    device.apply(wanted).await;
    let file = device.dir.path().join("pods/p1/volumes/cfg/a");
    eventually(|| fs::read_to_string(&file).unwrap_or_default(), |content| content == "changed\n").await;
    let began = Instant::now();
    device.delete("p1", 30).await;
    let status = device.until_stopped("p1").await;
    println!("delete to stopped: {:?}", began.elapsed());
    assert_eq!(state(&status).terminated.as_ref().unwrap().exit_code, 0);
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert!(!device.dir.path().join("pods/p1").exists());
    assert_eq!(mounts_below(device.dir.path()), Vec::<String>::new());
    device.remove("p1").await;
}

async fn crashes_leave_their_last_words(device: &mut Device<Shared>) {
    let script = "echo it broke > /dev/termination-log; exit 3";
    let spec = json!({"restartPolicy": "Always", "containers": [container(script, json!({}))]});
    device.apply(bundle("crash", "p2", spec)).await;
    let status = device.until_waiting("p2", "CrashLoopBackOff").await;
    let last = main_status(&status).last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.message.as_deref()), (3, Some("it broke\n")));
    device.delete("p2", 1).await;
    device.until_stopped("p2").await;
    device.remove("p2").await;
    let script = "echo from the log; exit 4";
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let spec = json!({"restartPolicy": "Never", "containers": [container(script, fallback)]});
    device.apply(bundle("once", "p3", spec)).await;
    let status = device.until_phase("p3", "Failed").await;
    assert_eq!(state(&status).terminated.as_ref().unwrap().message.as_deref(), Some("from the log"));
    device.delete("p3", 1).await;
    device.until_stopped("p3").await;
    device.remove("p3").await;
}

async fn an_agent_that_restarts_adopts(device: &mut Device<Shared>) {
    let spec = json!({"containers": [container("trap 'exit 0' TERM; sleep 1000 & wait", json!({}))]});
    device.apply(bundle("stay", "p4", spec)).await;
    let before = device.until_phase("p4", "Running").await;
    let containers = device.containers().await;
    device.restart_agent().await;
    assert_eq!(device.until_phase("p4", "Running").await, before);
    assert_eq!(device.containers().await, containers);
    device.delete("p4", 30).await;
    device.until_stopped("p4").await;
    device.remove("p4").await;
}

async fn what_cannot_start_says_so(device: &mut Device<Shared>) {
    let mut missing = container("", json!({}));
    missing["command"] = json!(["/does-not-exist"]);
    device.apply(bundle("none", "p5", json!({"containers": [missing]}))).await;
    let status = device.until_waiting("p5", "CrashLoopBackOff").await;
    let last = main_status(&status).last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.reason.as_deref(), last.exit_code), (Some("StartError"), 128));
    assert!(last.message.unwrap().contains("no such file or directory"));
    device.delete("p5", 1).await;
    device.until_stopped("p5").await;
    device.remove("p5").await;
    assert!(device.containers().await.is_empty());
    assert!(device.runtime.list_sandboxes().await.unwrap().is_empty());
}
