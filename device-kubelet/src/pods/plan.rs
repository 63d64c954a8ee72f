//! What is to be done now with a pod's sandbox and containers. Pure: data in, plan out.
//!
//! The rules are a kubelet's (`computePodActions`): a pod without a ready sandbox gets one; init containers run
//! one after the other, sidecars among them are started in their turn and kept running; main containers run at
//! once; what ended is started again as its restart policy says, after its back-off; when nothing runs and nothing
//! will be started, the pod is done.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerState as ApiState, PodStatus};

use super::{
    backoff::{BackOffs, Held},
    clock::Mono,
    desired::{Desired, RestartPolicy, Role, container_hash},
    observed::{Endings, HASH_LABEL, Observed},
};
use crate::runtime::{ContainerId, ContainerState};

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing runs that counts, and nothing will be started: the pod is done.
    Finish,
    /// It needs a sandbox, after what is left of the old one is gone.
    Sandbox {
        /// There was one before.
        again: bool,
    },
    /// Bring the containers to where they should be.
    Converge(Convergence),
}

/// What to do with containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Convergence {
    /// Stop these; they are started again at once.
    pub replace: Vec<Replace>,
    /// Start these, in this order.
    pub start: Vec<String>,
    /// These wait for the end of their crash back-off.
    pub crash_looping: Vec<(String, Held)>,
    /// When to look again.
    pub wake: Option<Mono>,
}

/// A running container whose definition changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// Its name.
    pub name: String,
    /// The one that runs.
    pub id: ContainerId,
}

/// What is known of a container, from the runtime or, failing that, from the last status.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Never,
    Unclear,
    Running { id: ContainerId, hash: Option<String> },
    Ended { exit_code: i32, seen: Mono },
}

/// What the plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What shall be.
    pub desired: &'a Desired,
    /// What is.
    pub observed: &'a Observed,
    /// What was last told.
    pub status: &'a PodStatus,
    /// When containers ended.
    pub endings: &'a Endings,
    /// Crash back-off, by [`back_off_key`].
    pub crashes: &'a BackOffs,
    /// Containers that could not be started and wait to be tried again, by name.
    pub retries: &'a BTreeMap<String, Mono>,
    /// Now.
    pub now: Mono,
}

/// Key of a container's crash back-off; another image starts afresh.
pub fn back_off_key(container: &Container) -> String {
    format!("{}/{}", container.name, container_hash(container))
}

/// Decides.
pub fn plan(situation: &Situation<'_>) -> Plan {
    match &situation.observed.sandbox {
        Some(sandbox) if sandbox.ready => situation.converge(),
        sandbox => situation.without_sandbox(sandbox.is_some()),
    }
}

impl Situation<'_> {
    fn without_sandbox(&self, again: bool) -> Plan {
        let desired = self.desired;
        let mains = || desired.containers().filter(|(role, _)| *role == Role::Main);
        let began = desired.containers().any(|(_, container)| self.known(container) != Known::Never);
        let wanted = if desired.restart_policy() == RestartPolicy::Never && began {
            // What ran without its sandbox is over, and nothing is run twice.
            false
        } else {
            let initialized = mains().any(|(_, container)| self.known(container) != Known::Never);
            !initialized
                || mains().any(|(role, container)| self.wanted(role, container, &self.known(container)))
        };
        if wanted { Plan::Sandbox { again } } else { Plan::Finish }
    }

    fn converge(&self) -> Plan {
        let mut todo = Convergence::default();
        let initialized = self
            .desired
            .containers()
            .any(|(role, container)| role == Role::Main && self.observed.newest(&container.name).is_some());
        let inits: Vec<(Role, &Container)> = self.desired.init_containers().collect();
        // A completed init container may have been removed by somebody; a later one proves that it completed.
        let newest_init =
            inits.iter().rposition(|(_, container)| self.observed.newest(&container.name).is_some());
        let mut ready_for_mains = true;
        for (position, (role, container)) in inits.iter().enumerate() {
            let known = self.observed_state(container);
            match (role, &known) {
                (Role::Init, _) if initialized => {}
                (Role::Init, Known::Never) if newest_init.is_some_and(|newest| newest > position) => {}
                (Role::Init, Known::Ended { exit_code: 0, .. }) => {}
                (Role::Init, Known::Ended { exit_code, .. })
                    if !self.desired.restart_policy_of(*role, container).restarts(*exit_code) =>
                {
                    return Plan::Finish;
                }
                (Role::Sidecar, Known::Running { .. }) => self.keep_or_replace(container, &known, &mut todo),
                (Role::Init, Known::Running { .. }) => {
                    self.keep_or_replace(container, &known, &mut todo);
                    ready_for_mains = false;
                }
                _ => {
                    self.start_or_wait(container, &known, &mut todo);
                    ready_for_mains = ready_for_mains && initialized;
                }
            }
            if !ready_for_mains && !initialized {
                return Plan::Converge(todo);
            }
        }
        let mut alive = false;
        for (role, container) in self.desired.containers().filter(|(role, _)| *role == Role::Main) {
            let known = self.known(container);
            if let Known::Running { .. } = known {
                alive = true;
                self.keep_or_replace(container, &known, &mut todo);
            } else if self.wanted(role, container, &known) {
                alive = true;
                self.start_or_wait(container, &known, &mut todo);
            }
        }
        if alive { Plan::Converge(todo) } else { Plan::Finish }
    }

    fn keep_or_replace(&self, container: &Container, known: &Known, todo: &mut Convergence) {
        if let Known::Running { id, hash: Some(hash) } = known
            && *hash != container_hash(container)
        {
            todo.replace.push(Replace { name: container.name.clone(), id: id.clone() });
        }
    }

    fn start_or_wait(&self, container: &Container, known: &Known, todo: &mut Convergence) {
        let mut look_at = |at: Mono| todo.wake = Some(todo.wake.map_or(at, |wake| wake.min(at)));
        if let Some(until) = self.retries.get(&container.name).filter(|until| **until > self.now) {
            look_at(*until);
            return;
        }
        if let Known::Ended { seen, .. } = known
            && let Some(held) = self.crashes.held_since(&back_off_key(container), *seen, self.now)
        {
            look_at(held.until);
            todo.crash_looping.push((container.name.clone(), held));
            return;
        }
        todo.start.push(container.name.clone());
    }

    fn wanted(&self, role: Role, container: &Container, known: &Known) -> bool {
        match known {
            Known::Never | Known::Unclear => true,
            // Asked only where the sandbox is gone: it goes with it, killed.
            Known::Running { .. } => self.desired.restart_policy_of(role, container).restarts(137),
            Known::Ended { exit_code, .. } => {
                self.desired.restart_policy_of(role, container).restarts(*exit_code)
            }
        }
    }

    fn observed_state(&self, container: &Container) -> Known {
        match self.observed.newest(&container.name) {
            None => Known::Never,
            Some(seen) => match &seen.state {
                ContainerState::Created | ContainerState::Unknown => Known::Unclear,
                ContainerState::Running { .. } => {
                    Known::Running { id: seen.id.clone(), hash: seen.labels.get(HASH_LABEL).cloned() }
                }
                ContainerState::Exited { exit_code, .. } => Known::Ended {
                    exit_code: *exit_code,
                    seen: self.endings.of(&seen.id).unwrap_or(self.now),
                },
            },
        }
    }

    /// As [`Self::observed_state`]; a main container that the runtime does not know any more is judged by its
    /// last status, so that what completed is not run again after a reboot.
    fn known(&self, container: &Container) -> Known {
        let known = self.observed_state(container);
        if known != Known::Never {
            return known;
        }
        let statuses = self.status.container_statuses.iter().flatten();
        let Some(last) = statuses.into_iter().find(|status| status.name == container.name) else {
            return Known::Never;
        };
        let ended = |state: &Option<ApiState>| {
            state.as_ref().and_then(|state| state.terminated.as_ref()).map(|ended| ended.exit_code)
        };
        let ran = last.state.as_ref().is_some_and(|state| state.running.is_some());
        match ended(&last.state).or_else(|| ended(&last.last_state)) {
            // It ran when last seen, and is gone.
            _ if ran => Known::Ended { exit_code: 137, seen: Mono(i64::MIN) },
            Some(exit_code) => Known::Ended { exit_code, seen: Mono(i64::MIN) },
            None => Known::Never,
        }
    }
}
