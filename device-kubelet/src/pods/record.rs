//! What a pod's machine remembers across restarts of the agent and the device.

use std::collections::{BTreeMap, BTreeSet};

use fleet_wire::name::PodKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use serde::{Deserialize, Serialize};

use super::{
    backoff::{BackOff, BackOffs},
    clock::Clock,
    machine::Phase,
    observed::Observed,
    status::Verdict,
};

/// Why a pod ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ending {
    /// Its containers ended, and none is started again.
    Completed,
    /// The device ended it.
    Verdict(Verdict),
    /// The API server wants it to end.
    Deleted,
    /// It is gone from the API.
    Removed,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRecord {
    /// Which pod.
    pub key: PodKey,
    /// Where its machine is.
    pub phase: Phase,
    /// What was last told: start time, transition times, restart counts, last states.
    pub status: PodStatus,
    /// Number of that status.
    pub revision: u64,
    /// Number of each container's next instance.
    #[serde(default)]
    pub attempts: BTreeMap<String, u32>,
    /// Crash back-off.
    #[serde(default)]
    pub crashes: Vec<RecordedBackOff>,
    /// There was room for it on the device: it is not asked again.
    #[serde(default)]
    pub admitted: bool,
    /// There was none.
    #[serde(default)]
    pub rejected: bool,
    /// Why it ends, once it does.
    #[serde(default)]
    pub ending: Option<Ending>,
    /// Everything of it was removed from the device.
    #[serde(default)]
    pub cleaned: bool,
    /// Events that are told once in a pod's life.
    #[serde(default)]
    pub announced: BTreeSet<String>,
}

/// A back-off in wall time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedBackOff {
    key: String,
    seconds: u64,
    updated: Timestamp,
}

impl PodRecord {
    /// Of a pod that is new on this device.
    pub fn new(key: PodKey) -> Self {
        Self {
            key,
            phase: Phase::default(),
            status: PodStatus::default(),
            revision: 0,
            attempts: BTreeMap::new(),
            crashes: Vec::new(),
            admitted: false,
            rejected: false,
            ending: None,
            cleaned: false,
            announced: BTreeSet::new(),
        }
    }

    /// Whether it was let in and is not over: something of it may run.
    pub fn holds_room(&self, observed: &Observed) -> bool {
        let is_there = observed.sandbox.is_some() || observed.all().next().is_some();
        (self.admitted || is_there) && !(self.ending.is_some() && self.phase == Phase::Finished)
    }

    /// Takes the back-offs in.
    pub fn remember(&mut self, back_offs: &BackOffs, clock: &Clock) {
        self.crashes = back_offs
            .entries()
            .map(|(key, entry)| RecordedBackOff {
                key: key.clone(),
                seconds: entry.delay.as_secs(),
                updated: clock.wall_of(entry.updated),
            })
            .collect();
    }

    /// Gives the back-offs out.
    pub fn back_offs(&self, clock: &Clock) -> BackOffs {
        let mut back_offs = BackOffs::default();
        for entry in &self.crashes {
            let delay = std::time::Duration::from_secs(entry.seconds);
            back_offs.restore(entry.key.clone(), BackOff { delay, updated: clock.mono_of(entry.updated) });
        }
        back_offs
    }
}
