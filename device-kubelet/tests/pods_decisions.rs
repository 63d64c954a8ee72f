//! Decisions and statuses over all kinds of situations: pure, so any situation can be made up.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pods_device;

use std::collections::BTreeMap;

use device_kubelet::{
    pods::{
        backoff::BackOffs,
        clock::Mono,
        desired::{Desired, Role, container_hash},
        observed::{Endings, HASH_LABEL, Observed},
        plan::{Plan, Situation, back_off_key, plan},
        status::{Verdict, View, Waiting, pod_status},
    },
    runtime::{Container, ContainerId, ContainerState, Sandbox, SandboxId},
};
use fleet_wire::name::PodKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use pods_device::bundle;
use proptest::prelude::*;
use serde_json::{Value, json};

fn desired(policy: &str, inits: &[bool], mains: usize, deleting: bool) -> Desired {
    let container = |name: String| json!({"name": name, "image": "busybox:1"});
    let inits: Vec<Value> = inits
        .iter()
        .enumerate()
        .map(|(index, sidecar)| {
            let mut init = container(format!("init{index}"));
            if *sidecar {
                init["restartPolicy"] = json!("Always");
            }
            init
        })
        .collect();
    let mains: Vec<Value> = (0..mains).map(|index| container(format!("main{index}"))).collect();
    let spec = json!({"restartPolicy": policy, "initContainers": inits, "containers": mains});
    let mut bundle = bundle("web", "u1", spec);
    if deleting {
        bundle["pod"]["metadata"]["deletionTimestamp"] = json!("2026-01-02T03:04:05Z");
    }
    Desired::parse(&"u1".parse().unwrap(), &bundle.to_string()).unwrap()
}

fn key() -> PodKey {
    PodKey { namespace: "default".parse().unwrap(), name: "web".parse().unwrap(), uid: "u1".parse().unwrap() }
}

fn sandbox(ready: bool) -> Sandbox {
    Sandbox {
        id: SandboxId("s".to_owned()),
        pod: key(),
        ready,
        ips: vec!["10.88.0.2".to_owned()],
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn state() -> impl Strategy<Value = Option<ContainerState>> {
    let exited = |exit_code| ContainerState::Exited {
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Timestamp::UNIX_EPOCH,
        exit_code,
        oom_killed: false,
        message: String::new(),
    };
    prop_oneof![
        Just(None),
        Just(Some(ContainerState::Created)),
        Just(Some(ContainerState::Unknown)),
        Just(Some(ContainerState::Running { started_at: Timestamp::UNIX_EPOCH })),
        (0_i32..3).prop_map(move |code| Some(exited(code))),
    ]
}

#[derive(Debug, Clone)]
struct Scene {
    desired: Desired,
    observed: Observed,
    crashed: bool,
}

fn scene() -> impl Strategy<Value = Scene> {
    let policies = prop::sample::select(vec!["Always", "OnFailure", "Never"]);
    let sandboxes = prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    let states = prop::collection::vec((state(), 0_u32..4), 8);
    (policies, prop::collection::vec(any::<bool>(), 0..3), 1_usize..4, sandboxes, states, any::<bool>())
        .prop_map(|(policy, inits, mains, ready, states, crashed)| {
            let desired = desired(policy, &inits, mains, false);
            let containers =
                desired.containers().zip(&states).filter_map(|((_, container), (state, attempt))| {
                    Some(Container {
                        id: ContainerId(format!("id-{}", container.name)),
                        pod: key(),
                        name: container.name.parse().unwrap(),
                        attempt: *attempt,
                        image: "busybox:1".to_owned(),
                        image_id: "sha256:1".to_owned(),
                        state: state.clone()?,
                        created_at: Timestamp::UNIX_EPOCH,
                        log_path: "/log".into(),
                        labels: BTreeMap::from([(HASH_LABEL.to_owned(), container_hash(container))]),
                    })
                });
            let containers = containers.collect();
            let observed = Observed::new(ready.map(sandbox), containers);
            Scene { desired, observed, crashed }
        })
}

impl Scene {
    fn plan(&self, status: &PodStatus, now: Mono) -> Plan {
        let mut crashes = BackOffs::default();
        if self.crashed {
            for (_, container) in self.desired.containers() {
                crashes.lengthen(&back_off_key(container), Mono(0), Mono(0));
            }
        }
        let mut endings = Endings::default();
        endings.note(&self.observed, Mono(0), |_| Mono(0));
        plan(&Situation {
            desired: &self.desired,
            observed: &self.observed,
            status,
            endings: &endings,
            crashes: &crashes,
            retries: &BTreeMap::new(),
            now,
        })
    }

    fn status(&self, previous: &PodStatus, ending: bool, now: i64) -> PodStatus {
        pod_status(&View {
            desired: &self.desired,
            observed: &self.observed,
            previous,
            waiting: &BTreeMap::new(),
            last_words: &BTreeMap::new(),
            report_pod_ip: true,
            host_ip: None,
            now: Timestamp::from_second(now).unwrap(),
            ending,
            ended: ending,
            verdict: None,
            rejected: false,
        })
    }

    fn runs(&self, name: &str) -> bool {
        self.observed.running().any(|container| container.name.as_str() == name)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_runs_is_never_started_and_nothing_is_started_twice(scene in scene()) {
        if let Plan::Converge(todo) = scene.plan(&PodStatus::default(), Mono(0)) {
            let mut seen = std::collections::BTreeSet::new();
            for name in &todo.start {
                prop_assert!(!scene.runs(name));
                prop_assert!(seen.insert(name));
            }
            prop_assert!(todo.replace.is_empty(), "nothing changed");
        }
    }

    #[test]
    fn a_plan_acts_waits_or_has_something_that_runs(scene in scene()) {
        if let Plan::Converge(todo) = scene.plan(&PodStatus::default(), Mono(1)) {
            let runs = scene.observed.running().next().is_some();
            prop_assert!(!todo.start.is_empty() || todo.wake.is_some() || runs, "it would wait for ever");
            prop_assert!(todo.wake.is_none_or(|wake| wake > Mono(1)), "it would never rest");
        }
    }

    #[test]
    fn a_crash_delays_and_never_prevents(scene in scene()) {
        let later = scene.plan(&PodStatus::default(), Mono(3_600_000));
        if let Plan::Converge(todo) = later {
            prop_assert!(todo.crash_looping.is_empty());
        }
    }

    #[test]
    fn mains_start_after_all_init_containers(scene in scene()) {
        let Plan::Converge(todo) = scene.plan(&PodStatus::default(), Mono(0)) else { return Ok(()) };
        let known = |name: &str| scene.observed.newest(name).is_some();
        let begun = scene.desired.spec.containers.iter().any(|container| known(&container.name));
        let starts_main = todo.start.iter().any(|name| name.starts_with("main"));
        if starts_main && !begun {
            for (role, init) in scene.desired.init_containers() {
                let fine = match scene.observed.newest(&init.name).map(|seen| &seen.state) {
                    Some(ContainerState::Exited { exit_code, .. }) => role == Role::Init && *exit_code == 0,
                    Some(ContainerState::Running { .. }) => role == Role::Sidecar,
                    // A later one proves that it was done.
                    None => role == Role::Init,
                    _ => false,
                };
                prop_assert!(fine, "{} is not done", init.name);
            }
        }
    }

    #[test]
    fn never_means_never(scene in scene()) {
        if scene.desired.spec.restart_policy.as_deref() != Some("Never") {
            return Ok(());
        }
        if let Plan::Converge(todo) = scene.plan(&PodStatus::default(), Mono(0)) {
            for name in todo.start {
                let sidecar = scene.desired.container(&name).unwrap().0 == Role::Sidecar;
                let state = scene.observed.newest(&name).map(|seen| seen.state.clone());
                let ended = matches!(state, Some(ContainerState::Exited { .. }));
                prop_assert!(sidecar || !ended, "{name} was started again");
            }
        }
    }

    #[test]
    fn a_status_is_stable_and_times_move_only_with_their_conditions(scene in scene()) {
        let first = scene.status(&PodStatus::default(), false, 1000);
        let second = scene.status(&first, false, 2000);
        prop_assert_eq!(&first, &second);
        prop_assert_eq!(first.conditions.as_ref().unwrap().len(), 5);
        for status in first.container_statuses.iter().flatten() {
            let state = status.state.as_ref().unwrap();
            let one = [state.running.is_some(), state.waiting.is_some(), state.terminated.is_some()];
            prop_assert_eq!(one.iter().filter(|set| **set).count(), 1);
            prop_assert_eq!(status.ready, state.running.is_some());
        }
    }

    #[test]
    fn a_pod_that_was_ended_has_a_terminal_phase_and_keeps_it(scene in scene()) {
        // Only what runs nowhere is ended.
        if scene.observed.running().next().is_some() {
            return Ok(());
        }
        let before = scene.status(&PodStatus::default(), false, 1000);
        let ended = scene.status(&before, true, 2000);
        let phase = ended.phase.clone().unwrap();
        prop_assert!(phase == "Succeeded" || phase == "Failed");
        let gone = Scene { observed: Observed::default(), ..scene };
        let later = gone.status(&ended, true, 3000);
        prop_assert_eq!(later.phase.as_ref(), Some(&phase));
        let states = |status: &PodStatus| -> Vec<_> {
            let statuses = status.container_statuses.iter().flatten();
            statuses.map(|status| (status.state.clone(), status.last_state.clone(), status.restart_count)).collect()
        };
        prop_assert_eq!(states(&later), states(&ended));
    }

    #[test]
    fn restart_counts_never_fall(scene in scene(), attempts in prop::collection::vec(0_u32..9, 3)) {
        let mut status = PodStatus::default();
        // Whatever the runtime remembers or has forgotten: after a reboot, or when an instance is removed.
        for attempt in attempts {
            let containers: Vec<Container> = scene
                .observed
                .all()
                .filter(|_| attempt != 0)
                .map(|seen| Container { attempt, id: ContainerId(attempt.to_string()), ..seen.clone() })
                .collect();
            let observed = Observed::new(Some(sandbox(true)), containers);
            let next = Scene { observed, ..scene.clone() }.status(&status, false, 1000);
            let counts = |status: &PodStatus| -> BTreeMap<String, i32> {
                let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
                all.map(|status| (status.name.clone(), status.restart_count)).collect()
            };
            let now = counts(&next);
            for (name, count) in counts(&status) {
                prop_assert!(now[&name] >= count, "{name}: {count} fell to {}", now[&name]);
            }
            status = next;
        }
    }
}

#[test]
fn a_waiting_reason_moves_the_end_into_the_last_state() {
    let desired = desired("Always", &[], 1, false);
    let dead = Container {
        id: ContainerId("a".to_owned()),
        pod: key(),
        name: "main0".parse().unwrap(),
        attempt: 2,
        image: "busybox:1".to_owned(),
        image_id: "sha256:1".to_owned(),
        state: ContainerState::Exited {
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Timestamp::UNIX_EPOCH,
            exit_code: 137,
            oom_killed: true,
            message: String::new(),
        },
        created_at: Timestamp::UNIX_EPOCH,
        log_path: "/log".into(),
        labels: BTreeMap::new(),
    };
    let waiting = Waiting { reason: "CrashLoopBackOff", message: "back-off".to_owned() };
    let status = pod_status(&View {
        desired: &desired,
        observed: &Observed::new(Some(sandbox(true)), vec![dead]),
        previous: &PodStatus::default(),
        waiting: &BTreeMap::from([("main0".to_owned(), waiting)]),
        last_words: &BTreeMap::from([(ContainerId("a".to_owned()), "out of cheese".to_owned())]),
        report_pod_ip: false,
        host_ip: None,
        now: Timestamp::UNIX_EPOCH,
        ending: false,
        ended: false,
        verdict: None,
        rejected: false,
    });
    let json = serde_json::to_value(&status.container_statuses.unwrap()[0]).unwrap();
    assert_eq!(json["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(json["lastState"]["terminated"]["reason"], "OOMKilled");
    assert_eq!(json["lastState"]["terminated"]["message"], "out of cheese");
    assert_eq!(json["lastState"]["terminated"]["containerID"], "podman://a");
    assert_eq!(
        (&json["restartCount"], &json["ready"], &json["started"]),
        (&json!(2), &json!(false), &json!(false))
    );
}

#[test]
fn a_pod_on_the_devices_network_has_its_address_where_addresses_are_told() {
    let tell = |host_network: bool, host_ip: Option<&str>| {
        let mut desired = desired("Always", &[], 1, false);
        desired.spec.host_network = Some(host_network);
        let mut sandbox = sandbox(true);
        sandbox.ips = if host_network { Vec::new() } else { vec!["10.88.0.7".to_owned()] };
        let status = pod_status(&View {
            desired: &desired,
            observed: &Observed::new(Some(sandbox), Vec::new()),
            previous: &PodStatus::default(),
            waiting: &BTreeMap::new(),
            last_words: &BTreeMap::new(),
            report_pod_ip: host_ip.is_some(),
            host_ip,
            now: Timestamp::UNIX_EPOCH,
            ending: false,
            ended: false,
            verdict: None,
            rejected: false,
        });
        (status.host_ip, status.pod_ip)
    };
    let address = |text: &str| Some(text.to_owned());
    assert_eq!(tell(true, Some("192.0.2.7")), (address("192.0.2.7"), address("192.0.2.7")));
    assert_eq!(tell(false, Some("192.0.2.7")), (address("192.0.2.7"), address("10.88.0.7")));
    assert_eq!(tell(true, None), (None, None));
}

#[test]
fn what_is_ended_by_the_device_runs_until_it_does_not_run_any_more() {
    let desired = desired("Always", &[], 1, false);
    let verdict = Verdict { reason: "DeadlineExceeded".to_owned(), message: "too long".to_owned() };
    let tell = |state: ContainerState, ended: bool| {
        let container = Container {
            id: ContainerId("a".to_owned()),
            pod: key(),
            name: "main0".parse().unwrap(),
            attempt: 0,
            image: "busybox:1".to_owned(),
            image_id: "sha256:1".to_owned(),
            state,
            created_at: Timestamp::UNIX_EPOCH,
            log_path: "/log".into(),
            labels: BTreeMap::new(),
        };
        let status = pod_status(&View {
            desired: &desired,
            observed: &Observed::new(Some(sandbox(true)), vec![container]),
            // It started so late that this is the first that is told of it.
            previous: &PodStatus::default(),
            waiting: &BTreeMap::new(),
            last_words: &BTreeMap::new(),
            report_pod_ip: false,
            host_ip: None,
            now: Timestamp::UNIX_EPOCH,
            ending: true,
            ended,
            verdict: Some(&verdict),
            rejected: false,
        });
        (status.phase.unwrap(), status.reason)
    };
    let running = ContainerState::Running { started_at: Timestamp::UNIX_EPOCH };
    assert_eq!(tell(running, false), ("Running".to_owned(), None));
    let exited = ContainerState::Exited {
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Timestamp::UNIX_EPOCH,
        exit_code: 0,
        oom_killed: false,
        message: String::new(),
    };
    assert_eq!(tell(exited, true), ("Failed".to_owned(), Some("DeadlineExceeded".to_owned())));
}
