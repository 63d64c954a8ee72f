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
pub struct Endings(BTreeMap<ContainerId, Mono>);

impl Endings {
    /// Notes new endings and forgets containers that are gone. `at` tells the moment of a wall time, for
    /// endings that happened while nobody looked.
    pub fn note(&mut self, observed: &Observed, at: impl Fn(Timestamp) -> Mono) {
        self.0.retain(|id, _| observed.all().any(|container| container.id == *id));
        for container in observed.all() {
            if let ContainerState::Exited { finished_at, .. } = container.state {
                self.0.entry(container.id.clone()).or_insert_with(|| at(finished_at));
            }
        }
    }

    /// When this container was seen dead.
    pub fn of(&self, id: &ContainerId) -> Option<Mono> {
        self.0.get(id).copied()
    }
}

/// How long the machine waits before it tries again what failed for reasons of the device.
pub const RETRY: Duration = Duration::from_secs(10);
