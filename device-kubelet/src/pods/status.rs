//! `PodStatus` as a kubelet would write it. Pure: what shall be, what is seen and what was last told go in.
//!
//! A container's status is a fold: where the runtime has forgotten, the previous status remembers (restart
//! counts, last states, a container that completed and was removed).
//!
//! **Not here.** Probes are not run yet: a running container counts as started and ready, and a pod that asks for
//! probes gets the Event `ProbesNotSupported` (see [`super::admission`]). `hostIP` is reported only where addresses of
//! pods are: elsewhere the address of a device behind NAT would mislead. `user` is left out: Podman does not say
//! which groups a process got from the image.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container as ApiContainer, ContainerState as ApiState, ContainerStateRunning,
        ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    clock::whole_seconds,
    conditions::{Facts, conditions},
    desired::{Desired, RestartPolicy, Role},
    given,
    observed::Observed,
    phase::{self, PodPhase, has_started},
    qos,
};
use crate::runtime::{Container, ContainerId, ContainerState};

/// Why a container waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase, e.g. `ImagePullBackOff`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Why a pod is over although its containers do not say so.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Verdict {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
}

/// What a status is computed from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What shall be.
    pub desired: &'a Desired,
    /// What is seen.
    pub observed: &'a Observed,
    /// What was last told.
    pub previous: &'a PodStatus,
    /// Why containers wait, by name.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Termination messages.
    pub last_words: &'a BTreeMap<ContainerId, String>,
    /// Whether addresses are told.
    pub report_pod_ip: bool,
    /// The device's address, where it is told.
    pub host_ip: Option<&'a str>,
    /// Now, in whole seconds.
    pub now: Timestamp,
    /// The pod is being taken down: nothing is started again.
    pub ending: bool,
    /// All that runs has been stopped: the phase must be terminal.
    pub ended: bool,
    /// Why the pod was ended by the device.
    pub verdict: Option<&'a Verdict>,
    /// It was never let in: nothing of it began.
    pub rejected: bool,
}

const UNKNOWN: &str = "ContainerStatusUnknown";

/// The status.
pub fn pod_status(view: &View<'_>) -> PodStatus {
    let desired = view.desired;
    if view.rejected {
        return rejected(view);
    }
    let mut init: Vec<ContainerStatus> =
        desired.init_containers().map(|(role, container)| view.container(role, container)).collect();
    let mut main: Vec<ContainerStatus> =
        desired.spec.containers.iter().map(|container| view.container(Role::Main, container)).collect();
    main.sort_by(|a, b| a.name.cmp(&b.name));
    if view.ended {
        close(&mut init, &mut main);
    }
    let phase = view.phase(&init, &main);
    let sandbox = view.observed.sandbox.as_ref().filter(|sandbox| sandbox.ready);
    let sandbox_ready =
        sandbox.is_some_and(|sandbox| desired.spec.host_network == Some(true) || !sandbox.ips.is_empty());
    let facts = Facts { desired, phase, init: &init, main: &main, sandbox_ready, now: view.now };
    let conditions = conditions(&facts, view.previous.conditions.as_deref().unwrap_or_default());
    let delayed = view.delayed(phase, &init, &main);
    let verdict = view.verdict.filter(|_| delayed.is_none());
    let ips: Vec<String> = match sandbox {
        // The device's network is such a pod's own.
        Some(sandbox) if view.report_pod_ip && sandbox.ips.is_empty() => view
            .host_ip
            .filter(|_| desired.spec.host_network == Some(true))
            .map(str::to_owned)
            .into_iter()
            .collect(),
        Some(sandbox) if view.report_pod_ip => sandbox.ips.clone(),
        // A pod that has ended keeps the address it had.
        None if view.report_pod_ip && view.ending => {
            view.previous.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
        }
        _ => Vec::new(),
    };
    PodStatus {
        phase: Some(delayed.unwrap_or_else(|| phase.as_str().to_owned())),
        reason: verdict.map(|verdict| verdict.reason.clone()),
        message: verdict.map(|verdict| verdict.message.clone()),
        conditions: Some(conditions),
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: Some(main),
        host_ip: view.host_ip.map(str::to_owned),
        host_ips: view.host_ip.map(|ip| vec![HostIP { ip: ip.to_owned() }]),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: view.previous.start_time.clone().or(Some(Time(view.now))),
        qos_class: Some(qos::class(&desired.spec).as_str().to_owned()),
        observed_generation: desired.meta.generation,
        ..PodStatus::default()
    }
}

/// As a kubelet's: without containers or conditions, for nothing was tried.
fn rejected(view: &View<'_>) -> PodStatus {
    PodStatus {
        phase: Some(PodPhase::Failed.as_str().to_owned()),
        reason: view.verdict.map(|verdict| verdict.reason.clone()),
        message: view.verdict.map(|verdict| verdict.message.clone()),
        start_time: view.previous.start_time.clone().or(Some(Time(view.now))),
        qos_class: Some(qos::class(&view.desired.spec).as_str().to_owned()),
        observed_generation: view.desired.meta.generation,
        ..PodStatus::default()
    }
}

impl View<'_> {
    fn phase(&self, init: &[ContainerStatus], main: &[ContainerStatus]) -> PodPhase {
        // What has ended stays ended.
        match self.previous.phase.as_deref() {
            Some("Succeeded") => return PodPhase::Succeeded,
            Some("Failed") => return PodPhase::Failed,
            _ => {}
        }
        if self.verdict.is_some() {
            return PodPhase::Failed;
        }
        let computed = phase::phase(self.desired, init, main, self.ended);
        if self.ended && !computed.is_terminal() { PodPhase::Failed } else { computed }
    }

    /// The phase to be told for now instead of a terminal one: a pod is over when nothing of it runs any more, since
    /// what it had is given to others then.
    fn delayed(&self, phase: PodPhase, init: &[ContainerStatus], main: &[ContainerStatus]) -> Option<String> {
        let runs =
            |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        let before = self.previous.phase.as_deref().unwrap_or(PodPhase::Pending.as_str());
        let ends = phase.is_terminal() && !matches!(before, "Succeeded" | "Failed");
        (ends && init.iter().chain(main).any(runs)).then(|| {
            let computed = phase::phase(self.desired, init, main, false);
            if computed.is_terminal() { before.to_owned() } else { computed.as_str().to_owned() }
        })
    }

    fn last_told(&self, role: Role, name: &str) -> Option<&ContainerStatus> {
        let statuses = if role == Role::Main {
            &self.previous.container_statuses
        } else {
            &self.previous.init_container_statuses
        };
        statuses.iter().flatten().find(|status| status.name == name)
    }

    fn container(&self, role: Role, container: &ApiContainer) -> ContainerStatus {
        let told = self.last_told(role, &container.name);
        let mut status = match self.observed.newest(&container.name) {
            Some(seen) => self.seen(container, seen, told),
            None => self.unseen(container, told),
        };
        self.overlay_waiting(self.desired.restart_policy_of(role, container), &mut status);
        let state = status.state.as_ref();
        let running = state.is_some_and(|state| state.running.is_some());
        let completed =
            state.and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0);
        status.started = Some(running);
        status.ready = if role == Role::Init { completed } else { running };
        status
    }

    fn seen(
        &self,
        container: &ApiContainer,
        seen: &Container,
        told: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let id = format!("podman://{}", seen.id.0);
        let state = match &seen.state {
            ContainerState::Created => {
                ApiState { waiting: Some(self.default_waiting()), ..ApiState::default() }
            }
            ContainerState::Running { started_at } => ApiState {
                running: Some(ContainerStateRunning { started_at: Some(Time(whole_seconds(*started_at))) }),
                ..ApiState::default()
            },
            ContainerState::Exited { .. } => ended(self.terminated(seen, &id, told)),
            ContainerState::Unknown => match told.and_then(|told| told.state.as_ref()) {
                Some(ApiState { running: Some(_), .. }) => ended(lost(&id)),
                Some(state) if state.terminated.is_some() => state.clone(),
                _ => ApiState { waiting: Some(self.default_waiting()), ..ApiState::default() },
            },
        };
        let earlier = match self.observed.previous(&container.name) {
            Some(before) if matches!(before.state, ContainerState::Exited { .. }) => {
                Some(ended(self.terminated(before, &format!("podman://{}", before.id.0), told)))
            }
            _ => told.and_then(|told| match &told.state {
                Some(state) => match &state.terminated {
                    Some(last) if last.container_id.as_deref() != Some(&id) => Some(state.clone()),
                    _ => told.last_state.clone().filter(|last| ended_id(last) != Some(&id)),
                },
                None => told.last_state.clone(),
            }),
        };
        let mut status = ContainerStatus {
            name: container.name.clone(),
            container_id: Some(id),
            image: seen.image.clone(),
            image_id: given::image_id(seen),
            // The runtime may know less than was told: the newest instance may be gone, and those before it not.
            restart_count: i32::try_from(seen.attempt)
                .unwrap_or(i32::MAX)
                .max(told.map_or(0, |told| told.restart_count)),
            state: Some(state),
            last_state: earlier.or_else(|| Some(ApiState::default())),
            volume_mounts: given::mounts(self.desired, container),
            ..ContainerStatus::default()
        };
        given::resources(container, &mut status);
        status
    }

    fn unseen(&self, container: &ApiContainer, told: Option<&ContainerStatus>) -> ContainerStatus {
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(ApiState { waiting: Some(self.default_waiting()), ..ApiState::default() }),
            last_state: Some(ApiState::default()),
            volume_mounts: given::mounts(self.desired, container),
            ..ContainerStatus::default()
        };
        let Some(told) = told else {
            return status;
        };
        match &told.state {
            Some(state) if state.terminated.is_some() => return told.clone(),
            Some(state) if state.running.is_some() => {
                status.last_state = Some(ended(lost(told.container_id.as_deref().unwrap_or_default())));
                // The next instance is another one; a pod that ends has none.
                status.restart_count = told.restart_count + i32::from(!self.ending);
            }
            _ => {
                status.restart_count = told.restart_count;
                status.last_state = told.last_state.clone().or(status.last_state);
            }
        }
        status
    }

    /// What a container waits for, unless it runs, or has ended and will not be started again.
    fn overlay_waiting(&self, policy: RestartPolicy, status: &mut ContainerStatus) {
        let Some(waiting) = self.waiting.get(&status.name).filter(|_| !self.ending) else {
            return;
        };
        match &status.state {
            Some(state) if state.running.is_some() => return,
            Some(state) => match &state.terminated {
                Some(ended) if !policy.restarts(ended.exit_code) => return,
                Some(_) => status.last_state = status.state.clone(),
                None => {}
            },
            None => {}
        }
        status.state = Some(ApiState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(waiting.reason.to_owned()),
                message: Some(waiting.message.clone()).filter(|message| !message.is_empty()),
            }),
            ..ApiState::default()
        });
    }

    fn default_waiting(&self) -> ContainerStateWaiting {
        let first = self.desired.init_containers().next();
        let reason = if first.is_some() { "PodInitializing" } else { "ContainerCreating" };
        ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }
    }

    fn terminated(
        &self,
        seen: &Container,
        id: &str,
        told: Option<&ContainerStatus>,
    ) -> ContainerStateTerminated {
        let ContainerState::Exited { started_at, finished_at, exit_code, oom_killed, message } = &seen.state
        else {
            return lost(id);
        };
        let reason = match (started_at, oom_killed, exit_code) {
            (None, _, _) => "StartError",
            (_, true, _) => "OOMKilled",
            (_, _, 0) => "Completed",
            _ => "Error",
        };
        let told_message = || {
            let states = told.into_iter().flat_map(|told| [&told.state, &told.last_state]).flatten();
            states
                .filter_map(|state| state.terminated.as_ref())
                .find(|ended| ended.container_id.as_deref() == Some(id))
                .and_then(|ended| ended.message.clone())
        };
        let last_words =
            self.last_words.get(&seen.id).cloned().filter(|words| !words.is_empty()).or_else(told_message);
        ContainerStateTerminated {
            container_id: Some(id.to_owned()),
            exit_code: *exit_code,
            reason: Some(reason.to_owned()),
            message: last_words.or_else(|| Some(message.clone())).filter(|message| !message.is_empty()),
            started_at: Some(Time(whole_seconds(started_at.unwrap_or(Timestamp::UNIX_EPOCH)))),
            finished_at: Some(Time(whole_seconds(*finished_at))),
            signal: None,
        }
    }
}

/// Gives every container that began, or should have, an end: nothing is known to run any more.
fn close(init: &mut [ContainerStatus], main: &mut [ContainerStatus]) {
    let is_over =
        |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let end = |status: &mut ContainerStatus| {
        if !is_over(status) {
            status.state = Some(ended(ContainerStateTerminated {
                reason: Some(UNKNOWN.to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                exit_code: 137,
                ..ContainerStateTerminated::default()
            }));
            status.ready = false;
            status.started = Some(false);
        }
    };
    let initialized = init.is_empty() || main.iter().any(has_started);
    if initialized {
        main.iter_mut().for_each(end);
        init.iter_mut().for_each(end);
    } else if let Some(last) = init.iter().rposition(has_started) {
        // Init containers behind the last one that began never had their turn.
        init.iter_mut().take(last + 1).for_each(end);
    }
}

fn ended(terminated: ContainerStateTerminated) -> ApiState {
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

fn ended_id(state: &ApiState) -> Option<&String> {
    state.terminated.as_ref().and_then(|ended| ended.container_id.as_ref())
}

fn lost(id: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(id.to_owned()).filter(|id| !id.is_empty()),
        reason: Some(UNKNOWN.to_owned()),
        message: Some(
            "The container could not be located when the pod was deleted.  The container used to be Running"
                .to_owned(),
        ),
        exit_code: 137,
        ..ContainerStateTerminated::default()
    }
}
