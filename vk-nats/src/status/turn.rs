//! One write at a time for each pod, and the newest report wins.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fleet_wire::{message::PodReport, name::PodUid};
use tokio::{
    sync::{Mutex, MutexGuard},
    time::Instant,
};

use crate::{packed::Packed, pods::Version};

/// How far apart writes of one pod are that change neither phase nor readiness.
pub const PACE: Duration = Duration::from_secs(1);

/// The queue of one pod.
#[derive(Debug, Default)]
pub struct Lane {
    newest: AtomicU64,
    state: Mutex<LaneState>,
}

/// What is remembered between two writes.
#[derive(Debug, Default)]
pub struct LaneState {
    /// When the last patch was sent.
    pub written_at: Option<Instant>,
    /// Digest of the last status that the API server took.
    pub written: Option<[u8; 32]>,
    /// The last report that the API server took: what others changed since is put right from it.
    pub told: Option<Told>,
    /// A report that is not urgent and came too soon after the last write. A newer one takes its place.
    pub waiting: Option<Box<PodReport>>,
}

/// A report that the API server has taken.
#[derive(Debug)]
pub struct Told {
    /// Whose it is.
    pub uid: PodUid,
    /// The report. It is read when the pod has changed in the API.
    pub report: Packed<PodReport>,
    /// The state of the pod in the API that was found to have all of it.
    pub stands_in: Version,
}

impl Told {
    /// It was taken just now.
    pub fn new(report: &PodReport) -> Self {
        Self { uid: report.key.uid.clone(), report: Packed::new(report), stands_in: None }
    }
}

impl Lane {
    /// Waits until nobody writes.
    pub async fn enter(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().await
    }

    /// The state, unless a report is being written right now.
    pub fn idle(&self) -> Option<MutexGuard<'_, LaneState>> {
        self.state.try_lock().ok()
    }
}

/// The place of one report in its pod's queue.
#[derive(Debug, Clone)]
pub struct Turn {
    lane: Arc<Lane>,
    number: u64,
}

impl Turn {
    /// Waits for its turn; `None` when a newer report of the pod has come meanwhile.
    pub async fn begin(&self) -> Option<MutexGuard<'_, LaneState>> {
        let state = self.lane.state.lock().await;
        self.is_newest().then_some(state)
    }

    /// The queue.
    pub fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn is_newest(&self) -> bool {
        self.lane.newest.load(Ordering::Acquire) == self.number
    }
}

/// The queues of a device's pods.
#[derive(Debug, Default)]
pub struct Turns {
    lanes: HashMap<PodUid, Arc<Lane>>,
    numbers: u64,
}

impl Turns {
    /// A report has come: it is the newest now.
    pub fn next(&mut self, uid: &PodUid) -> Turn {
        self.numbers += 1;
        let lane = Arc::clone(self.lanes.entry(uid.clone()).or_default());
        lane.newest.store(self.numbers, Ordering::Release);
        Turn { lane, number: self.numbers }
    }

    /// All queues.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.lanes.values().map(Arc::clone).collect()
    }

    /// Forgets pods that are no longer there.
    pub fn retain(&mut self, exists: impl Fn(&PodUid) -> bool) {
        self.lanes.retain(|uid, _| exists(uid));
    }
}
