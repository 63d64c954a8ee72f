//! `status.phase` from container statuses, by a kubelet's rules (`getPhase`). Pure.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus};

use super::desired::{Desired, RestartPolicy, Role};

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Something has not started yet.
    Pending,
    /// Everything has started, something runs or will again.
    Running,
    /// Everything ended well, for good.
    Succeeded,
    /// Everything ended for good, something badly.
    Failed,
}

impl PodPhase {
    /// As in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

/// The phase. `ending` = the pod is being taken down and nothing is started again.
pub fn phase(
    desired: &Desired,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    ending: bool,
) -> PodPhase {
    let initialized = main.iter().any(has_started);
    let mut pending_init = false;
    let mut failed_init = false;
    let mut count = Count::default();
    for (role, container) in desired.init_containers() {
        let status = init.iter().find(|status| status.name == container.name);
        let state = status.and_then(|status| status.state.as_ref());
        let last_exit = status.and_then(|status| exit_code(&status.last_state));
        match (role, state) {
            (Role::Sidecar, Some(ContainerState { running: Some(_), .. })) => count.running += 1,
            (Role::Sidecar, Some(ContainerState { terminated: Some(_), .. })) => {}
            // A sidecar that was up and is being started again says nothing about the phase.
            (Role::Sidecar, Some(ContainerState { waiting: Some(_), .. })) if last_exit.is_some() => {}
            (Role::Sidecar, _) => {
                pending_init = true;
                count.waiting += 1;
            }
            (_, Some(ContainerState { terminated: Some(ended), .. })) => failed_init |= ended.exit_code != 0,
            (_, Some(ContainerState { waiting: Some(_), .. })) if last_exit.is_some() => {
                failed_init |= last_exit != Some(0);
            }
            _ => pending_init = true,
        }
    }
    for container in &desired.spec.containers {
        count.add(main.iter().find(|status| status.name == container.name));
    }
    let policy = desired.restart_policy();
    if failed_init && policy == RestartPolicy::Never {
        return PodPhase::Failed;
    }
    if (pending_init && !initialized) || count.waiting > 0 {
        return PodPhase::Pending;
    }
    if count.running > 0 && count.unknown == 0 {
        return PodPhase::Running;
    }
    if count.running == 0 && count.stopped > 0 && count.unknown == 0 {
        let succeeded = count.stopped == count.succeeded;
        return match (ending, policy) {
            (true, _) => ended_as(succeeded),
            (false, RestartPolicy::Always) => PodPhase::Running,
            (false, _) if succeeded => PodPhase::Succeeded,
            (false, RestartPolicy::Never) => PodPhase::Failed,
            (false, RestartPolicy::OnFailure) => PodPhase::Running,
        };
    }
    PodPhase::Pending
}

fn ended_as(succeeded: bool) -> PodPhase {
    if succeeded { PodPhase::Succeeded } else { PodPhase::Failed }
}

impl Count {
    fn add(&mut self, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        match &status.state {
            Some(ContainerState { running: Some(_), .. }) => self.running += 1,
            Some(ContainerState { terminated: Some(ended), .. }) => {
                self.stopped += 1;
                self.succeeded += usize::from(ended.exit_code == 0);
            }
            Some(ContainerState { waiting: Some(_), .. }) if exit_code(&status.last_state).is_some() => {
                self.stopped += 1;
            }
            Some(ContainerState { waiting: Some(_), .. }) => self.waiting += 1,
            _ => self.unknown += 1,
        }
    }
}

/// Whether a container is running or has been.
pub fn has_started(status: &ContainerStatus) -> bool {
    let ran = |state: &Option<ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    ran(&status.state) || ran(&status.last_state)
}

fn exit_code(state: &Option<ContainerState>) -> Option<i32> {
    state.as_ref()?.terminated.as_ref().map(|ended| ended.exit_code)
}
