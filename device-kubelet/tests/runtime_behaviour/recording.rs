//! Records what Podman answers, as fixtures of the unit tests. See `tests/fixtures/README.md`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use device_kubelet::runtime::PortMapping;
use fleet_wire::name::PodKey;
use serde_json::{Value, json};

use crate::{
    device::{Device, Ended, IMAGE, sandbox},
    podman_service::{PodmanService, run},
};

/// Never in a pod of a cluster; the same in each recording, so that recordings can be compared.
const UID: &str = "0b5c2f52-8a58-4f0e-9d4f-3a3b6f9c1f11";

/// One pod with four containers: ended with 3, running, killed for memory, never started.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes the fixtures"]
async fn answers() {
    let service = Arc::new(PodmanService::start());
    let device = Device::on(&service);
    let pod = PodKey {
        namespace: "default".parse().unwrap(),
        name: "web".parse().unwrap(),
        uid: UID.parse().unwrap(),
    };
    let mut spec = sandbox(&pod);
    spec.ports = vec![PortMapping {
        protocol: "TCP".to_owned(),
        container_port: 8080,
        host_port: 8080,
        host_ip: String::new(),
    }];
    let made = device.runtime.run_sandbox(spec).await.unwrap();

    let container = async |name: &str, attempt, script: &str, memory_limit| {
        let mut spec = device.container(&pod, &["sh", "-c", script]);
        spec.name = name.parse().unwrap();
        spec.attempt = attempt;
        spec.log_path = device.folder.path().join(UID).join(name).join(format!("{attempt}.log"));
        spec.resources.memory_limit = memory_limit;
        device.runtime.create_container(&made.id, spec).await.unwrap()
    };
    let ended = container("main", 0, "exit 3", None).await;
    device.runtime.start_container(&ended).await.unwrap();
    assert_eq!(device.ended(&ended).await, Ended::with(3));
    let running = container("main", 1, "exec sleep 1000", None).await;
    device.runtime.start_container(&running).await.unwrap();
    let greedy = container("greedy", 0, "a=x; while true; do a=$a$a; done", Some(16 << 20)).await;
    device.runtime.start_container(&greedy).await.unwrap();
    assert_eq!(device.ended(&greedy).await.exit_code, 137);
    container("waiting", 0, "true", None).await;

    let answers = Answers::of(&service, &device);
    let ours = json!({ "label": ["fleet.harmony.io/managed-by=device-kubelet"] });
    answers.record("pods", "pods/json", &[("filters", ours.clone())]);
    answers.record("containers", "containers/json", &[("all", true.into()), ("filters", ours)]);
    answers.record("infra", &format!("containers/{UID}_infra/json"), &[]);
    answers.record("ended", &format!("containers/{}/json", greedy.0), &[]);
    answers.record("image", &format!("images/{IMAGE}/json"), &[]);
    if answers.version.starts_with("5.") {
        answers.record_by("v5.0.0", "ended-api5", &format!("containers/{}/json", greedy.0), &[]);
    }
    let died = json!({ "container": [greedy.0], "event": ["died"] });
    answers.record("event", "events", &[("stream", false.into()), ("filters", died)]);
    device.remove(&made).await;
}

/// Answers of one Podman, on their way into its folder.
struct Answers<'a> {
    service: &'a PodmanService,
    /// Of this machine and run, and what stands there instead: Podman's defaults, and ours.
    places: Vec<(String, &'static str)>,
    folder: PathBuf,
    version: String,
}

impl<'a> Answers<'a> {
    fn of(service: &'a PodmanService, device: &Device) -> Self {
        let version = service.podman(&["version", "--format", "{{.Client.Version}}"]);
        let version = version.trim().to_owned();
        let (minor, _) = version.rsplit_once('.').unwrap();
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("podman-{minor}"));
        fs::create_dir_all(&folder).unwrap();
        let own = service.folder().display().to_string();
        let places = vec![
            (format!("{own}/root"), "/var/lib/containers/storage"),
            (format!("{own}/run"), "/run/containers/storage"),
            (format!("{own}/tmp"), "/run/libpod"),
            (format!("{own}/networks"), "/etc/containers/networks"),
            (device.folder.path().display().to_string(), "/var/lib/harmony-fleet/pods"),
        ];
        println!("Podman {version} answers into {}", folder.display());
        Self { service, places, folder, version }
    }

    /// By the version of the API that the agent speaks.
    fn record(&self, name: &str, path: &str, parameters: &[(&str, Value)]) {
        self.record_by("v4.0.0", name, path, parameters);
    }

    fn record_by(&self, api: &str, name: &str, path: &str, parameters: &[(&str, Value)]) {
        let socket = self.service.folder().join("podman.sock").display().to_string();
        let url = format!("http://podman/{api}/libpod/{path}");
        let mut curl = self.service.inside(&["curl", "--silent", "--show-error", "--fail", "--get"]);
        curl.args(["--unix-socket", &socket, &url]);
        for (key, value) in parameters {
            curl.args(["--data-urlencode", &format!("{key}={value}")]);
        }
        let mut answer = run(&mut curl);
        for (place, default) in &self.places {
            answer = answer.replace(place, default);
        }
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{url}: {error}: {answer}"));
        let text = format!("{answer:#}\n");
        assert!(!text.contains("/tmp/"), "{name} names a folder of this machine: {text}");
        fs::write(self.folder.join(name).with_extension("json"), text).unwrap();
    }
}
