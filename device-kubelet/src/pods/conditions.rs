//! `status.conditions`, by a kubelet's rules. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    desired::{Desired, Role},
    phase::{PodPhase, has_started},
};

/// What the conditions are computed from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The pod.
    pub desired: &'a Desired,
    /// The phase that was computed.
    pub phase: PodPhase,
    /// Statuses of init containers.
    pub init: &'a [ContainerStatus],
    /// Statuses of containers.
    pub main: &'a [ContainerStatus],
    /// The sandbox is up and has its network.
    pub sandbox_ready: bool,
    /// Now.
    pub now: Timestamp,
}

struct Verdict {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Verdict {
    const TRUE: Self = Self { holds: true, reason: None, message: None };

    fn because(holds: bool, reason: &'static str) -> Self {
        Self { holds, reason: Some(reason), message: None }
    }
}

/// All conditions in a kubelet's order; the time of one whose status did not change is kept.
pub fn conditions(facts: &Facts<'_>, previous: &[PodCondition]) -> Vec<PodCondition> {
    let containers_ready = facts.containers_ready();
    let ready = Verdict {
        holds: containers_ready.holds,
        reason: containers_ready.reason,
        message: containers_ready.message.clone(),
    };
    let network = Verdict { holds: facts.sandbox_ready, reason: None, message: None };
    [
        ("PodReadyToStartContainers", network),
        ("Initialized", facts.initialized()),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::TRUE),
    ]
    .into_iter()
    .map(|(type_, verdict)| {
        let status = if verdict.holds { "True" } else { "False" };
        let since = previous
            .iter()
            .find(|old| old.type_ == type_ && old.status == status)
            .and_then(|old| old.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.map(str::to_owned),
            message: verdict.message,
            last_probe_time: None,
            last_transition_time: since.or(Some(Time(facts.now))),
            observed_generation: facts.desired.meta.generation,
        }
    })
    .collect()
}

impl Facts<'_> {
    fn initialized(&self) -> Verdict {
        let mut unknown = Vec::new();
        let mut incomplete = Vec::new();
        for (role, container) in self.desired.init_containers() {
            match self.init.iter().find(|status| status.name == container.name) {
                None => unknown.push(container.name.as_str()),
                Some(status) => {
                    let done =
                        if role == Role::Sidecar { status.started == Some(true) } else { status.ready };
                    if !done {
                        incomplete.push(container.name.as_str());
                    }
                }
            }
        }
        if self.phase == PodPhase::Succeeded && unknown.is_empty() {
            return Verdict::because(true, "PodCompleted");
        }
        if self.main.iter().any(has_started) {
            return Verdict::TRUE;
        }
        judge("ContainersNotInitialized", &unknown, "incomplete", &incomplete)
    }

    fn containers_ready(&self) -> Verdict {
        let mut unknown = Vec::new();
        let mut unready = Vec::new();
        for (role, container) in self.desired.containers().filter(|(role, _)| *role != Role::Init) {
            let statuses = if role == Role::Main { self.main } else { self.init };
            match statuses.iter().find(|status| status.name == container.name) {
                None => unknown.push(container.name.as_str()),
                Some(status) if !status.ready => unready.push(container.name.as_str()),
                Some(_) => {}
            }
        }
        match self.phase {
            PodPhase::Succeeded if unknown.is_empty() => Verdict::because(false, "PodCompleted"),
            PodPhase::Failed => Verdict::because(false, "PodFailed"),
            _ => judge("ContainersNotReady", &unknown, "unready", &unready),
        }
    }
}

fn judge(reason: &'static str, unknown: &[&str], adjective: &str, lacking: &[&str]) -> Verdict {
    let mut parts = Vec::new();
    for (adjective, names) in [("unknown", unknown), (adjective, lacking)] {
        if !names.is_empty() {
            parts.push(format!("containers with {adjective} status: [{}]", names.join(" ")));
        }
    }
    if parts.is_empty() {
        return Verdict::TRUE;
    }
    Verdict { holds: false, reason: Some(reason), message: Some(parts.join(", ")) }
}
