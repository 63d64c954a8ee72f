//! What the task of one pod owns, and the verbs that its states share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fleet_wire::message::{NodeSettings, PodReport};
use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    NewEvent,
    backoff::BackOffs,
    clock::Mono,
    desired::{Desired, RestartPolicy},
    last_words,
    machine::{Phase, State},
    observed::{Endings, Observed, StartFailure},
    plan::Situation,
    record::{Ending, PodRecord},
    shared::Shared,
    status::{Verdict, View, Waiting},
};
use crate::{
    runtime::{ContainerId, ContainerState, RuntimeError},
    volumes::{Mounted, PodDirs},
};

/// What is wanted of a pod's task.
#[derive(Debug, Clone)]
pub struct Order {
    /// What the pod shall be.
    pub desired: Arc<Desired>,
    /// It is gone from the API: stop, clean, forget.
    pub removed: bool,
    /// What the Node's owner set.
    pub node: NodeSettings,
}

impl Order {
    /// Whether the pod is to end.
    pub fn departs(&self) -> bool {
        self.removed || self.desired.deleting()
    }
}

/// One instance of a container whose log may be asked for.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Its id.
    pub id: ContainerId,
    /// Its number.
    pub attempt: u32,
    /// Its log.
    pub log_path: std::path::PathBuf,
    /// True when it has ended.
    pub ended: watch::Receiver<bool>,
}

/// What others may see of a pod.
#[derive(Debug, Clone)]
pub struct PodView {
    /// What was last told.
    pub status: Arc<PodStatus>,
    /// Where its machine is.
    pub phase: Phase,
    /// Nothing of it is on the device any more.
    pub cleaned: bool,
    /// Addresses, also where they are not reported.
    pub ips: Vec<String>,
    /// Containers that the runtime knows, by name and instance.
    pub instances: Vec<(String, Instance)>,
    /// What the runtime listed, to be compared with what it lists next.
    pub listed: Arc<Observed>,
}

/// Wakes a pod's task.
#[derive(Debug, Default)]
pub struct Poke {
    notify: Notify,
    sandbox: AtomicBool,
}

impl Poke {
    /// A container changed; with `sandbox`, perhaps the sandbox too.
    pub fn poke(&self, sandbox: bool) {
        if sandbox {
            self.sandbox.store(true, Ordering::Relaxed);
        }
        self.notify.notify_one();
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// There is a new order; it is taken already.
    Order,
    /// Something changed at the runtime.
    Runtime,
    /// The deadline.
    Deadline,
    /// The agent stops.
    Stop,
}

/// What is not worth writing down.
#[derive(Default)]
pub struct Memory {
    /// Why containers wait, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// When what failed is tried again, by name.
    pub retries: BTreeMap<String, Mono>,
    /// Back-off of image pulls, by image.
    pub pulls: BackOffs,
    /// Why the last pull failed, by image.
    pub pull_errors: BTreeMap<String, String>,
    /// Crash back-off.
    pub crashes: BackOffs,
    /// When containers ended.
    pub endings: Endings,
    /// Starts that failed.
    pub start_failures: BTreeMap<ContainerId, StartFailure>,
    /// Termination messages.
    pub last_words: BTreeMap<ContainerId, String>,
    instances: BTreeMap<ContainerId, watch::Sender<bool>>,
    /// `status.startTime` on the clock that only runs forward.
    started: Option<Mono>,
}

/// Everything of one pod.
pub struct PodContext {
    /// What all pods share.
    pub shared: Arc<Shared>,
    /// What it shall be.
    pub desired: Arc<Desired>,
    /// What is seen of it.
    pub observed: Observed,
    /// What is written down.
    pub record: PodRecord,
    /// What is not.
    pub memory: Memory,
    /// Its directories.
    pub dirs: PodDirs,
    /// Its volumes, once they are set up.
    pub volumes: BTreeMap<String, Mounted>,
    /// Pods of the same name that must be gone first.
    pub predecessors: Vec<watch::Receiver<PodView>>,
    orders: watch::Receiver<Order>,
    poke: Arc<Poke>,
    view: watch::Sender<PodView>,
    listed: Arc<Observed>,
    untold: bool,
}

/// Grace for pods that are gone from the API: whoever deleted them did not want to wait.
const FORCED_GRACE_SECONDS: u64 = 2;
/// The pod ran longer than it may.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

impl PodContext {
    /// A context for a pod, with what is seen of it.
    pub fn new(
        shared: Arc<Shared>,
        mut orders: watch::Receiver<Order>,
        poke: Arc<Poke>,
        view: watch::Sender<PodView>,
        record: PodRecord,
        observed: Observed,
        predecessors: Vec<watch::Receiver<PodView>>,
    ) -> Self {
        let desired = orders.borrow_and_update().desired.clone();
        let memory = Memory { crashes: record.back_offs(&shared.clock), ..Memory::default() };
        let dirs = PodDirs::new(&shared.settings.data_dir, &desired.key);
        let listed = Arc::new(observed.clone());
        let mut pod = Self {
            shared,
            desired,
            observed,
            record,
            memory,
            dirs,
            volumes: BTreeMap::new(),
            predecessors,
            orders,
            poke,
            view,
            listed,
            // After a restart everything is told again.
            untold: true,
        };
        pod.digest_observation();
        pod
    }

    /// The newest order.
    pub fn order(&self) -> Order {
        self.orders.borrow().clone()
    }

    /// A receiver of orders, for a wait beside other work.
    pub fn orders(&self) -> watch::Receiver<Order> {
        self.orders.clone()
    }

    /// Why the pod must end now, if it must.
    pub fn must_end(&mut self) -> Option<Ending> {
        self.take_order();
        let order = self.orders.borrow();
        if order.removed {
            return Some(Ending::Removed);
        }
        if order.desired.deleting() {
            return Some(Ending::Deleted);
        }
        drop(order);
        let deadline = self.active_deadline()?;
        (self.shared.clock.mono() >= deadline).then(|| {
            Ending::Verdict(Verdict {
                reason: DEADLINE_EXCEEDED.to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            })
        })
    }

    /// When `activeDeadlineSeconds` is over.
    pub fn active_deadline(&self) -> Option<Mono> {
        let seconds = u64::try_from(self.desired.spec.active_deadline_seconds?).ok()?;
        Some(self.memory.started?.after(std::time::Duration::from_secs(seconds)))
    }

    /// When to look again at the latest: then, or when `activeDeadlineSeconds` is over.
    pub fn by(&self, at: Mono) -> Mono {
        self.active_deadline().map_or(at, |deadline| deadline.min(at))
    }

    /// Time between the stop signal and the kill.
    pub fn grace(&self) -> std::time::Duration {
        let grace = self.desired.grace_seconds();
        let removed = self.orders.borrow().removed;
        std::time::Duration::from_secs(if removed { grace.min(FORCED_GRACE_SECONDS) } else { grace })
    }

    fn take_order(&mut self) -> bool {
        if !self.orders.has_changed().unwrap_or(false) {
            return false;
        }
        self.desired = self.orders.borrow_and_update().desired.clone();
        // What failed for want of a reference may succeed now.
        self.memory.retries.clear();
        true
    }

    /// Waits for something to happen, until the deadline.
    pub async fn wait(&mut self, deadline: Option<Mono>, stop: &CancellationToken) -> Wake {
        if self.take_order() {
            return Wake::Order;
        }
        let clock = self.shared.clock;
        let sleep = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
                None => std::future::pending().await,
            }
        };
        let wake = tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            changed = self.orders.changed() => if changed.is_ok() { Wake::Order } else { Wake::Stop },
            () = self.poke.notify.notified() => Wake::Runtime,
            () = sleep => Wake::Deadline,
        };
        if wake == Wake::Order {
            self.orders.mark_changed();
            self.take_order();
        }
        wake
    }

    /// Looks at the runtime; at the sandbox only where it may have changed.
    pub async fn observe(&mut self, sandbox: bool) -> Result<(), RuntimeError> {
        let uid = self.desired.key.uid.clone();
        let runtime = self.shared.runtime.clone();
        let asked = self.poke.sandbox.swap(false, Ordering::Relaxed);
        let asked_again = |_: &RuntimeError| self.poke.sandbox.store(true, Ordering::Relaxed);
        let listed = runtime.list_containers(Some(&uid)).await;
        let mut seen = Observed::new(self.observed.sandbox.clone(), listed.inspect_err(asked_again)?);
        let before: BTreeSet<ContainerId> = self.observed.running().map(|seen| seen.id.clone()).collect();
        let after: BTreeSet<ContainerId> = seen.running().map(|seen| seen.id.clone()).collect();
        // When all containers are as they were, it is the sandbox that changed.
        if sandbox || asked || !before.is_subset(&after) || seen == *self.listed {
            let sandboxes = runtime.list_sandboxes().await.inspect_err(asked_again)?;
            seen.sandbox = sandboxes.into_iter().find(|sandbox| sandbox.pod.uid == uid);
        }
        self.observed = seen;
        self.listed = Arc::new(self.observed.clone());
        self.digest_observation();
        Ok(())
    }

    /// The sandbox is known without looking.
    pub fn set_sandbox(&mut self, sandbox: Option<crate::runtime::Sandbox>) {
        if sandbox.is_none() {
            self.observed.replace_containers(Vec::new());
        }
        self.observed.sandbox = sandbox;
        self.listed = Arc::new(self.observed.clone());
        self.digest_observation();
    }

    fn digest_observation(&mut self) {
        let clock = self.shared.clock;
        self.observed.overlay_start_failures(&self.memory.start_failures);
        self.memory.endings.note(&self.observed, clock.mono(), |wall| clock.mono_of(wall));
        for seen in self.observed.all() {
            let next = seen.attempt.saturating_add(1);
            let known = self.record.attempts.entry(seen.name.as_str().to_owned()).or_default();
            // One that was made and never started is made again under its number.
            let next = if seen.state == ContainerState::Created { seen.attempt } else { next };
            *known = next.max(*known);
            let ended = matches!(seen.state, ContainerState::Exited { .. });
            let fresh = !self.memory.instances.contains_key(&seen.id);
            let instance =
                self.memory.instances.entry(seen.id.clone()).or_insert_with(|| watch::channel(false).0);
            instance.send_if_modified(|known| std::mem::replace(known, ended) != ended);
            if fresh || matches!(seen.state, ContainerState::Running { .. }) {
                self.shared.rotator.watch(&seen.id, &seen.log_path, instance.subscribe());
            }
            if ended && !self.memory.last_words.contains_key(&seen.id) {
                let words = last_words::read(&self.desired, &self.dirs, seen);
                self.memory.last_words.insert(seen.id.clone(), words);
            }
        }
        let observed = &self.observed;
        let gone = |id: &ContainerId| !observed.all().any(|seen| seen.id == *id);
        // A dropped sender tells those who follow a log that it has ended.
        self.memory.instances.retain(|id, _| !gone(id));
        self.memory.last_words.retain(|id, _| !gone(id));
        self.memory.start_failures.retain(|id, _| !gone(id));
    }

    /// For the pure decision.
    pub fn situation(&self) -> Situation<'_> {
        Situation {
            desired: &self.desired,
            observed: &self.observed,
            status: &self.record.status,
            endings: &self.memory.endings,
            crashes: &self.memory.crashes,
            retries: &self.memory.retries,
            now: self.shared.clock.mono(),
        }
    }

    /// A state was entered.
    pub fn enter<S: State>(&mut self) {
        if self.record.phase != S::PHASE {
            tracing::debug!(pod = %self.desired.key, from = self.record.phase.as_str(), to = S::PHASE.as_str());
            self.record.phase = S::PHASE;
            self.save_later();
        }
    }

    /// Computes the status and tells it, if it changed.
    pub fn publish<S: State>(&mut self) {
        self.compute::<S>();
        let told_stopped = self.view.borrow().cleaned;
        if std::mem::take(&mut self.untold) || self.record.cleaned != told_stopped {
            // Never smaller than before, even if the record was lost.
            let millis = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
            self.record.revision = millis.max(self.record.revision + 1);
            self.save_later();
            self.offer();
        }
        self.show();
    }

    /// Computes the status; it is told by the next [`Self::publish`].
    pub fn compute<S: State>(&mut self) {
        let verdict = match &self.record.ending {
            Some(Ending::Verdict(verdict)) => Some(verdict),
            _ => None,
        };
        let report_pod_ip = self.orders.borrow().node.report_pod_ip;
        let host_ip = report_pod_ip.then(|| self.shared.host_ip().to_string());
        let status = S::status(&View {
            desired: &self.desired,
            observed: &self.observed,
            previous: &self.record.status,
            waiting: &self.memory.waiting,
            last_words: &self.memory.last_words,
            report_pod_ip,
            host_ip: host_ip.as_deref(),
            now: self.shared.clock.wall(),
            ending: S::PHASE.is_ending(),
            ended: S::PHASE.is_ended(),
            verdict,
            rejected: self.record.rejected,
        });
        self.record.phase = S::PHASE;
        self.untold |= status != self.record.status;
        self.record.status = status;
        let start = self.record.status.start_time.as_ref().map(|start| start.0);
        self.memory.started = self.memory.started.or(start.map(|start| self.shared.clock.mono_of(start)));
    }

    fn offer(&self) {
        // Nobody asks for a pod that is gone from the API.
        if !self.orders.borrow().removed {
            let status = self.record.status.clone();
            // On the way to Running, or to the end: the next status says it better, and one in between
            // would be written a second before it.
            let on_its_way = match status.phase.as_deref() {
                Some("Pending") if !self.record.phase.is_ending() => self.memory.waiting.is_empty(),
                Some("Pending" | "Running") => self.record.phase.is_ending() && !self.record.cleaned,
                _ => false,
            };
            let report = PodReport {
                key: self.desired.key.clone(),
                revision: self.record.revision,
                status,
                stopped: self.record.cleaned,
            };
            self.shared.outbox.offer(report, on_its_way);
        }
    }

    /// Lets others see the pod as it is.
    pub fn show(&self) {
        let instances = self.observed.all().filter_map(|seen| {
            let ended = self.memory.instances.get(&seen.id)?.subscribe();
            let instance = Instance {
                id: seen.id.clone(),
                attempt: seen.attempt,
                log_path: seen.log_path.clone(),
                ended,
            };
            Some((seen.name.as_str().to_owned(), instance))
        });
        self.view.send_replace(PodView {
            status: Arc::new(self.record.status.clone()),
            phase: self.record.phase,
            cleaned: self.record.cleaned,
            ips: self.observed.sandbox.as_ref().map(|sandbox| sandbox.ips.clone()).unwrap_or_default(),
            instances: instances.collect(),
            listed: self.listed.clone(),
        });
    }

    /// The record will be written down soon.
    pub fn save_later(&mut self) {
        self.record.remember(&self.memory.crashes, &self.shared.clock);
        self.shared.saver.later(&self.record);
    }

    /// The record is written down now.
    pub async fn save_now(&mut self) {
        self.record.remember(&self.memory.crashes, &self.shared.clock);
        self.shared.saver.now(&self.record).await;
    }

    /// Queues an Event about the pod or one of its containers.
    pub fn event(&self, container: Option<&str>, warning: bool, reason: &str, message: impl Into<String>) {
        self.shared.events.record(NewEvent {
            pod: Some(self.desired.key.clone()),
            container: container.and_then(|name| name.parse().ok()),
            warning,
            reason: reason.to_owned(),
            message: message.into(),
        });
    }

    /// Queues an Event that is told once in a pod's life.
    pub fn event_once(&mut self, warning: bool, reason: &str, message: impl Into<String>) {
        if self.record.announced.insert(reason.to_owned()) {
            self.event(None, warning, reason, message);
        }
    }

    /// The pod ends for this reason.
    pub fn end(&mut self, ending: Ending) {
        let finished = matches!(self.record.ending, Some(Ending::Verdict(_)));
        // A verdict stays in the status when the pod is deleted later; the order says that it is deleted.
        if !finished {
            if let Ending::Verdict(verdict) = &ending
                && verdict.reason == DEADLINE_EXCEEDED
            {
                self.event_once(false, DEADLINE_EXCEEDED, verdict.message.clone());
            }
            self.record.ending = Some(ending);
        }
        self.save_later();
    }

    /// Whether everything of the pod is to be removed, its logs too.
    pub fn is_unwanted(&self) -> bool {
        self.orders.borrow().departs()
    }

    /// Whether containers are ever started again.
    pub fn restarts(&self) -> bool {
        self.desired.restart_policy() != RestartPolicy::Never
    }
}
