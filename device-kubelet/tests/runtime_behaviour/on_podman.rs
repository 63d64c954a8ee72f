//! What needs real processes, networks and files, and the harness that runs all cases on one service.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use device_kubelet::{
    logs::{self, LogOptions},
    runtime::{
        ContainerState, DnsConfig, MountSpec, PortMapping, ResourceSpec, Runtime as _, RuntimeError,
        RuntimeEvent, podman::PodmanRuntime,
    },
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use tokio::sync::watch;

use crate::{
    device::{Device, Ended, IMAGE, pod, sandbox, told, within, words},
    podman_service::PodmanService,
};

/// A named case.
pub struct Case {
    pub name: &'static str,
    pub run: Box<dyn FnOnce(Device) -> BoxFuture<'static, ()> + Send>,
}

macro_rules! case {
    ($($path:ident)::+) => {
        $crate::on_podman::Case {
            name: stringify!($($path)::+),
            run: Box::new(|device| Box::pin($crate::$($path)::+(device))),
        }
    };
}
pub(crate) use case;

/// The cases of this file that share the service with others.
pub fn cases() -> Vec<Case> {
    vec![
        case!(on_podman::what_is_specified_is_what_runs),
        case!(on_podman::the_images_command_is_kept_unless_replaced),
        case!(on_podman::mounts_and_limits_hold),
        case!(on_podman::a_published_port_answers),
        case!(on_podman::containers_of_a_pod_share_their_network),
        case!(on_podman::processes_are_shared_when_asked),
        case!(on_podman::the_devices_namespaces_are_joined_when_asked),
        case!(on_podman::a_container_killed_for_memory_is_told_so),
        case!(on_podman::what_others_run_is_not_seen),
        case!(on_podman::an_event_stream_serves_as_well),
        case!(on_podman::a_sandbox_that_dies_is_told),
        case!(on_podman::a_log_that_is_rotated_while_it_is_written_loses_nothing),
    ]
}

static PORTS: AtomicU16 = AtomicU16::new(18_100);
/// Cases at once.
const AT_ONCE: usize = 3;

impl Device {
    pub fn on(service: &Arc<PodmanService>) -> Self {
        let address = service.address();
        Self {
            runtime: Arc::new(PodmanRuntime::new(&address)),
            restarted: Box::new(move || Arc::new(PodmanRuntime::new(&address))),
            podman: Some(service.clone()),
            folder: tempfile::tempdir().unwrap(),
            port: PORTS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Runs all; returns the names of those that failed.
pub async fn run(service: &Arc<PodmanService>, cases: Vec<Case>) -> Vec<String> {
    let mut failed: Vec<String> = stream::iter(cases)
        .map(|case| async move {
            let device = Device::on(service);
            let begin = Instant::now();
            let outcome = AssertUnwindSafe(tokio::spawn((case.run)(device))).await;
            println!("{:>6} ms  {}", begin.elapsed().as_millis(), case.name);
            outcome.err().map(|_| case.name.to_owned())
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(async |failed| failed)
        .collect()
        .await;
    // These disturb, or are disturbed by, others.
    let alone = AssertUnwindSafe(a_lost_service_is_told_when_it_is_back(service)).catch_unwind().await;
    failed.extend(alone.err().map(|_| "a_lost_service_is_told_when_it_is_back".to_owned()));
    let alone = AssertUnwindSafe(starting_a_pod_takes_podmans_own_time(service)).catch_unwind().await;
    failed.extend(alone.err().map(|_| "starting_a_pod_takes_podmans_own_time".to_owned()));
    failed
}

pub async fn what_is_specified_is_what_runs(device: Device) {
    let pod = pod("specified");
    let mut spec = sandbox(&pod);
    spec.dns = Some(DnsConfig {
        servers: words(&["192.0.2.1"]),
        searches: words(&["a.example", "b.example"]),
        options: words(&["ndots:5"]),
    });
    spec.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned());
    let made = device.runtime.run_sandbox(spec).await.unwrap();
    assert_eq!(made.ips.len(), 1, "{made:?}");
    let script = "cat /etc/resolv.conf; hostname; id; env; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj; \
                  grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x || echo read-only; echo $0 $1; cat /proc/self/cwd/none";
    let mut spec = device.container(&pod, &["sh", "-c", script]);
    spec.args = words(&["first", "second"]);
    spec.env = vec![("A".to_owned(), "b c".to_owned()), ("A".to_owned(), "last".to_owned())];
    spec.working_dir = Some("/made/for/it".to_owned());
    spec.security.user = Some("1000:2000".to_owned());
    spec.security.supplemental_groups = words(&["3000"]);
    spec.security.cap_drop = words(&["ALL"]);
    spec.security.cap_add = words(&["NET_RAW"]);
    spec.security.no_new_privileges = true;
    spec.security.read_only_root = true;
    spec.security.seccomp = Some("unconfined".to_owned());
    spec.resources.oom_score_adj = Some(900);
    spec.stop_signal = Some("SIGINT".to_owned());
    let id = device.runtime.create_container(&made.id, spec).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    device.ended(&id).await;
    let log = device.log(&pod);
    for line in [
        "search a.example b.example",
        "nameserver 192.0.2.1",
        "options ndots:5",
        "specified",
        "uid=1000(1000) gid=2000(2000) groups=2000(2000),3000",
        "A=last",
        "PWD=/made/for/it",
        "80",
        "900",
        "CapEff:\t0000000000002000",
        "NoNewPrivs:\t1",
        "Seccomp:\t0",
        "read-only",
        "first second",
    ] {
        assert!(log.contains(&format!("stdout F {line}")), "no line {line:?} in {log:#?}");
    }
    device.remove(&made).await;
}

pub async fn the_images_command_is_kept_unless_replaced(device: Device) {
    let pod = pod("image-command");
    let (sandbox, id) = device.run(&pod, &[]).await;
    assert!(matches!(device.see(&id).await.unwrap().state, ContainerState::Running { .. }));
    device.runtime.stop_container(&id, Duration::ZERO).await.unwrap();
    let mut spec = device.container(&pod, &[]);
    spec.attempt = 1;
    spec.args = words(&["sh", "-c", "exit 4"]);
    let id = device.runtime.create_container(&sandbox.id, spec).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(4));
    device.remove(&sandbox).await;
}

pub async fn mounts_and_limits_hold(device: Device) {
    let pod = pod("mounts");
    let volume = device.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("from-device"), "hello\n").unwrap();
    let mount = |path: &str, read_only| MountSpec {
        host_path: volume.clone(),
        container_path: path.to_owned(),
        read_only,
        propagation: "rprivate",
    };
    let made = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let script = "cat /rw/from-device; touch /rw/from-container; touch /ro/x || echo refused; \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; \
                  cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max; \
                  cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max";
    let mut spec = device.container(&pod, &["sh", "-c", script]);
    spec.mounts = vec![mount("/rw", false), mount("/ro", true)];
    spec.resources = ResourceSpec {
        cpu_shares: Some(102),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 << 20),
        pids_limit: Some(100),
        oom_score_adj: None,
    };
    let id = device.runtime.create_container(&made.id, spec).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    device.ended(&id).await;
    let log = device.log(&pod).join("\n");
    for text in ["stdout F hello", "refused", "stdout F 67108864", "stdout F 50000", "stdout F 100"] {
        assert!(log.contains(text), "no {text:?} in {log}");
    }
    assert!(volume.join("from-container").exists());
    let mut missing = device.container(&pod, &["true"]);
    missing.attempt = 1;
    missing.mounts = vec![MountSpec { host_path: "/does/not/exist".into(), ..mount("/m", false) }];
    let refusal = device.runtime.create_container(&made.id, missing).await.unwrap_err();
    assert!(refusal.to_string().contains("/does/not/exist"), "{refusal}");
    device.remove(&made).await;
}

const SERVER: &str = "echo hello > /tmp/index.html; echo ready; httpd -f -p 8080 -h /tmp";

pub async fn a_published_port_answers(device: Device) {
    let pod = pod("server");
    let mut spec = sandbox(&pod);
    spec.ports = vec![PortMapping {
        protocol: "TCP".to_owned(),
        container_port: 8080,
        host_port: device.port,
        host_ip: String::new(),
    }];
    let made = device.runtime.run_sandbox(spec).await.unwrap();
    let server = device.container(&pod, &["sh", "-c", SERVER]);
    let id = device.runtime.create_container(&made.id, server).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    for address in [format!("127.0.0.1:{}", device.port), format!("{}:8080", made.ips[0])] {
        // httpd listens a moment after it said so.
        let answer = within("the published port", async {
            loop {
                let url = format!("http://{address}/");
                let wget = ["busybox", "wget", "-q", "-O", "-", &url];
                let answer = tokio::task::block_in_place(|| device.podman().inside(&wget).output()).unwrap();
                if answer.status.success() {
                    return answer.stdout;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(String::from_utf8(answer).unwrap(), "hello\n", "{address}");
    }
    device.remove(&made).await;
}

pub async fn containers_of_a_pod_share_their_network(device: Device) {
    let pod = pod("two");
    let (sandbox, _) = device.run(&pod, &["sh", "-c", SERVER]).await;
    let script =
        "until wget -q -O /tmp/answer http://127.0.0.1:8080/; do sleep 0.1; done; grep -q hello /tmp/answer";
    let mut client = device.container(&pod, &["sh", "-c", script]);
    client.name = "client".parse().unwrap();
    let id = device.runtime.create_container(&sandbox.id, client).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    assert_eq!(device.ended(&id).await, Ended::with(0));
    device.remove(&sandbox).await;
}

pub async fn processes_are_shared_when_asked(device: Device) {
    for (shared, first) in [(true, "catatonit"), (false, "cat")] {
        let pod = pod("processes");
        let mut spec = sandbox(&pod);
        spec.share_process_namespace = shared;
        let made = device.runtime.run_sandbox(spec).await.unwrap();
        let container = device.container(&pod, &["sh", "-c", "cat /proc/1/comm"]);
        let id = device.runtime.create_container(&made.id, container).await.unwrap();
        device.runtime.start_container(&id).await.unwrap();
        device.ended(&id).await;
        assert_eq!(device.log(&pod), [format!("stdout F {first}")], "shared: {shared}");
        device.remove(&made).await;
    }
}

pub async fn the_devices_namespaces_are_joined_when_asked(device: Device) {
    let pod = pod("host");
    let mut spec = sandbox(&pod);
    (spec.host_network, spec.host_pid, spec.host_ipc) = (true, true, true);
    let made = device.runtime.run_sandbox(spec).await.unwrap();
    assert_eq!(made.ips, Vec::<String>::new());
    // A new agent must not forget that the pod is on the device's namespaces.
    let agent = (device.restarted)();
    let script = "for n in net pid ipc; do busybox readlink /proc/self/ns/$n; done";
    let container = device.container(&pod, &["sh", "-c", script]);
    let id = agent.create_container(&made.id, container).await.unwrap();
    agent.start_container(&id).await.unwrap();
    device.ended(&id).await;
    for namespace in ["net", "pid", "ipc"] {
        let path = format!("/proc/self/ns/{namespace}");
        let link = device.podman().inside(&["readlink", &path]).output().unwrap();
        let link = String::from_utf8(link.stdout).unwrap();
        let log = device.log(&pod);
        assert!(log.contains(&format!("stdout F {}", link.trim())), "{namespace}: {link} {log:?}");
    }
    device.remove(&made).await;
}

pub async fn a_container_killed_for_memory_is_told_so(device: Device) {
    let pod = pod("memory");
    let mut events = device.runtime.events();
    let made = device.runtime.run_sandbox(sandbox(&pod)).await.unwrap();
    let script = "a=x; while true; do a=$a$a; done";
    let mut spec = device.container(&pod, &["sh", "-c", script]);
    spec.resources.memory_limit = Some(16 << 20);
    let id = device.runtime.create_container(&made.id, spec).await.unwrap();
    device.runtime.start_container(&id).await.unwrap();
    // The event comes after the kernel was asked; a listing may be quicker.
    told(&mut events, &pod).await;
    let ended = device.ended(&id).await;
    assert_eq!((ended.exit_code, ended.oom_killed), (137, true), "{ended:?}");
    device.remove(&made).await;
}

pub async fn what_others_run_is_not_seen(device: Device) {
    let pod = pod("beside");
    let (sandbox, id) = device.run(&pod, &["sleep", "1000"]).await;
    let name = format!("foreign-{}", pod.uid);
    let label = format!("io.kubernetes.pod.uid={}", pod.uid);
    // Even with a label of ours, as another kubelet's runtime would have set it.
    device.podman().podman(&["run", "--detach", "--name", &name, "--label", &label, IMAGE]);
    device.podman().podman(&["pod", "create", "--name", &format!("{name}-pod"), "--label", &label]);
    for listed in
        [device.runtime.list_containers(None).await, device.runtime.list_containers(Some(&pod.uid)).await]
    {
        let listed = listed.unwrap();
        let of_pod: Vec<_> = listed.iter().filter(|c| c.pod == pod).map(|c| &c.id).collect();
        assert_eq!(of_pod, [&id]);
    }
    let sandboxes = device.runtime.list_sandboxes().await.unwrap();
    assert_eq!(sandboxes.iter().filter(|s| s.pod == pod).count(), 1);
    device.podman().podman(&["rm", "--force", "--time", "0", &name]);
    device.podman().podman(&["pod", "rm", "--force", &format!("{name}-pod")]);
    device.remove(&sandbox).await;
}

pub async fn an_event_stream_serves_as_well(device: Device) {
    let pod = pod("stream");
    let (sandbox, id) =
        device.run(&pod, &["sh", "-c", "trap 'exit 2' TERM; echo ready; sleep 1000 & wait"]).await;
    device.said(&pod, "ready").await;
    let agent = PodmanRuntime::remote(&device.podman().address());
    let mut events = agent.events();
    agent.list_sandboxes().await.unwrap();
    // The stream is opened by a task of its own: nothing tells when it listens, so the event is provoked until it comes.
    let mut attempt = 1;
    let stopping = async {
        device.runtime.stop_container(&id, Duration::from_secs(50)).await.unwrap();
        loop {
            let mut spec = device.container(&pod, &["true"]);
            spec.attempt = attempt;
            attempt += 1;
            let id = device.runtime.create_container(&sandbox.id, spec).await.unwrap();
            device.runtime.start_container(&id).await.unwrap();
            device.ended(&id).await;
        }
    };
    tokio::select! {
        () = told(&mut events, &pod) => {}
        () = stopping => {}
    }
    device.remove(&sandbox).await;
}

pub async fn a_sandbox_that_dies_is_told(device: Device) {
    let pod = pod("dying");
    let mut events = device.runtime.events();
    let (sandbox, _) = device.run(&pod, &["sleep", "1000"]).await;
    let infra = format!("{}_infra", pod.uid);
    device.podman().podman(&["kill", &infra]);
    told(&mut events, &pod).await;
    let listed = device.runtime.list_sandboxes().await.unwrap();
    assert!(!listed.iter().find(|s| s.id == sandbox.id).unwrap().ready);
    device.remove(&sandbox).await;
}

pub async fn a_log_that_is_rotated_while_it_is_written_loses_nothing(device: Device) {
    const LINES: u32 = 100_000;
    let pod = pod("rotated");
    let script = format!("i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done");
    let (sandbox, id) = device.run(&pod, &["sh", "-c", &script]).await;
    let path = device.log_path(&pod, 0);
    let ended = watch::Sender::new(false);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let followed =
        tokio::spawn(logs::stream(path.clone(), follow, ended.subscribe()).try_collect::<Vec<_>>());
    let mut rotations = 0_u32;
    loop {
        let rotated = path.with_extension(format!("log.{:010}", rotations + 1));
        std::fs::hard_link(&path, &rotated).unwrap();
        match device.runtime.reopen_log(&id).await {
            Ok(()) => rotations += 1,
            Err(error) => {
                assert!(error.to_string().ends_with("the container does not run"), "{error}");
                assert_eq!(device.ended(&id).await, Ended::with(0));
                std::fs::remove_file(&rotated).unwrap();
                break;
            }
        }
    }
    assert_eq!(device.ended(&id).await, Ended::with(0));
    ended.send_replace(true);
    assert!(rotations > 2, "{rotations} rotations");
    println!("         {rotations} rotations of a log of {LINES} lines");
    let expected: String = (0..LINES).map(|line| format!("{line}\n")).collect();
    let read = logs::stream(path, LogOptions::default(), ended.subscribe()).try_collect::<Vec<_>>();
    for (how, shown) in [("followed", followed.await.unwrap()), ("read", read.await)] {
        let shown = String::from_utf8(shown.unwrap().concat()).unwrap();
        let differs = shown.lines().zip(expected.lines()).find(|(shown, expected)| shown != expected);
        assert_eq!((shown.len(), differs), (expected.len(), None), "{how}");
    }
    device.remove(&sandbox).await;
}

async fn a_lost_service_is_told_when_it_is_back(service: &Arc<PodmanService>) {
    let device = Device::on(service);
    let pod = pod("lost");
    let (sandbox, id) = device.run(&pod, &["sleep", "1000"]).await;
    let mut events = device.runtime.events();
    let (told, wait) = std::sync::mpsc::channel();
    let runtime = device.runtime.clone();
    let refusal = tokio::task::block_in_place(|| {
        let handle = tokio::runtime::Handle::current();
        service.restart(move || {
            let refusal = handle.block_on(runtime.list_containers(None)).unwrap_err();
            told.send(refusal).unwrap();
        });
        wait.recv().unwrap()
    });
    assert!(matches!(refusal, RuntimeError::Unavailable { .. }), "{refusal:?}");
    within("the resync", async { while events.next().await != Some(RuntimeEvent::Resync) {} }).await;
    assert!(matches!(device.see(&id).await.unwrap().state, ContainerState::Running { .. }));
    device.remove(&sandbox).await;
}

/// Prints the figures; asserts nothing about a machine's speed.
async fn starting_a_pod_takes_podmans_own_time(service: &Arc<PodmanService>) {
    let device = Device::on(service);
    let mut ours = Vec::new();
    let mut podmans = Vec::new();
    for turn in 0..10 {
        let pod = pod("timed");
        let begin = Instant::now();
        let (sandbox, _) = device.run(&pod, &["sleep", "1000"]).await;
        ours.push(begin.elapsed());
        device.remove(&sandbox).await;
        let name = format!("timed-{turn}");
        let begin = Instant::now();
        service.podman(&["pod", "create", "--name", &name]);
        service.podman(&["run", "--detach", "--pod", &name, IMAGE]);
        podmans.push(begin.elapsed());
        service.podman(&["pod", "rm", "--force", "--time", "0", &name]);
    }
    ours.sort_unstable();
    podmans.sort_unstable();
    println!("start of a pod, median of 10: {:?}; podman pod create + run: {:?}", ours[5], podmans[5]);
}
