//! What is seen of a pod at the runtime.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::clock::Mono;
use crate::runtime::{Container, ContainerId, ContainerState, Sandbox};

/// Label of a container with [`super::desired::container_hash`] of what it was made from.
pub const HASH_LABEL: &str = "fleet.harmony.io/container-hash";

/// A pod's sandbox and containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// The sandbox, if there is one.
    pub sandbox: Option<Sandbox>,
    /// Containers by name, newest first.
    containers: BTreeMap<String, Vec<Container>>,
}

impl Observed {
    /// Sorts what the runtime listed.
    pub fn new(sandbox: Option<Sandbox>, listed: Vec<Container>) -> Self {
        let mut observed = Self { sandbox, containers: BTreeMap::new() };
        observed.replace_containers(listed);
        observed
    }

    /// Takes a new list of containers.
    pub fn replace_containers(&mut self, listed: Vec<Container>) {
        self.containers.clear();
        for container in listed {
            self.containers.entry(container.name.as_str().to_owned()).or_default().push(container);
        }
        for containers in self.containers.values_mut() {
            containers.sort_by_key(|container| std::cmp::Reverse((container.attempt, container.created_at)));
        }
    }

    /// The newest container of this name.
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.get(name).and_then(|containers| containers.first())
    }

    /// The container before the newest of this name.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.get(name).and_then(|containers| containers.get(1))
    }

    /// All containers.
    pub fn all(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().flatten()
    }

    /// Containers that run.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.all().filter(|container| matches!(container.state, ContainerState::Running { .. }))
    }

    /// Marks a container as one that could not be started, if the runtime shows it as merely made.
    pub fn overlay_start_failures(&mut self, failures: &BTreeMap<ContainerId, StartFailure>) {
        for container in self.containers.values_mut().flatten() {
            if let (ContainerState::Created | ContainerState::Unknown, Some(failure)) =
                (&container.state, failures.get(&container.id))
            {
                container.state = ContainerState::Exited {
                    started_at: None,
                    finished_at: failure.at,
                    exit_code: START_ERROR_EXIT_CODE,
                    oom_killed: false,
                    message: failure.message.clone(),
                };
            }
        }
    }
}

/// Exit code of a container that could not be started, as containerd reports it.
pub const START_ERROR_EXIT_CODE: i32 = 128;

/// A start that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// When.
    pub at: Timestamp,
    /// What the runtime said.
    pub message: String,
}

/// When containers were first seen dead: delays count from there, not from a clock that may jump.
#[derive(Debug, Clone, Default)]
pub struct Endings {
    seen: BTreeMap<ContainerId, Mono>,
    looked: bool,
}

impl Endings {
    /// Notes new endings and forgets containers that are gone. What is new since the last look ended just now;
    /// only for endings before the first one, while nobody looked, `at` tells the moment of a wall time.
    pub fn note(&mut self, observed: &Observed, now: Mono, at: impl Fn(Timestamp) -> Mono) {
        self.seen.retain(|id, _| observed.all().any(|container| container.id == *id));
        for container in observed.all() {
            if let ContainerState::Exited { finished_at, .. } = container.state {
                let looked = self.looked;
                let ended = || if looked { now } else { at(finished_at) };
                self.seen.entry(container.id.clone()).or_insert_with(ended);
            }
        }
        self.looked = true;
    }

    /// When this container was seen dead.
    pub fn of(&self, id: &ContainerId) -> Option<Mono> {
        self.seen.get(id).copied()
    }
}

/// How long the machine waits before it tries again what failed for reasons of the device.
pub const RETRY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fleet_wire::name::PodKey;

    use super::*;

    fn exited(id: &str, finished_at: Timestamp) -> Container {
        let pod = PodKey {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: "u1".parse().unwrap(),
        };
        Container {
            id: ContainerId(id.to_owned()),
            pod,
            name: "web".parse().unwrap(),
            attempt: 0,
            image: String::new(),
            image_id: String::new(),
            state: ContainerState::Exited {
                started_at: None,
                finished_at,
                exit_code: 1,
                oom_killed: false,
                message: String::new(),
            },
            created_at: finished_at,
            log_path: Default::default(),
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn an_ending_between_two_looks_is_new_whatever_the_clocks_say() {
        // The runtime's clock stands in 1970: for the agent, everything there ended a day ago.
        let long_ago = |_| Mono(-86_400_000);
        let mut endings = Endings::default();
        let observed = |ids: &[&str]| {
            Observed::new(None, ids.iter().map(|id| exited(id, Timestamp::UNIX_EPOCH)).collect())
        };
        endings.note(&observed(&["old"]), Mono(1_000), long_ago);
        endings.note(&observed(&["old", "new"]), Mono(2_000), long_ago);
        endings.note(&observed(&["old", "new"]), Mono(3_000), long_ago);
        assert_eq!(endings.of(&ContainerId("old".to_owned())), Some(Mono(-86_400_000)));
        assert_eq!(endings.of(&ContainerId("new".to_owned())), Some(Mono(2_000)));
    }
}
