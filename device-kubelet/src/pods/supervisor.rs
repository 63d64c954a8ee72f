//! Keeps one task per pod, routes news of the runtime to them, and stops what belongs to no pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fleet_wire::name::{PodKey, PodUid};
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::{
    NewEvent,
    context::{Order, PodContext, PodView, Poke},
    desired::Desired,
    machine::{End, Phase, drive},
    observed::Observed,
    record::PodRecord,
    shared::Shared,
    states::UNSUPPORTED,
};
use crate::{
    runtime::{Container, RuntimeError, RuntimeEvent, Sandbox, SandboxId},
    volumes::PodDirs,
};

/// Everything is looked at once in so long, in case an event was lost.
const RELIST: Duration = Duration::from_secs(60);
/// How often a pod asks a runtime that has not answered since the agent started.
const UNSEEN_RETRY: Duration = Duration::from_secs(2);
/// Grace for containers of pods that nobody knows.
const STRAY_GRACE: Duration = Duration::from_secs(2);

/// One pod's task, seen from outside.
struct Worker {
    key: PodKey,
    orders: watch::Sender<Order>,
    poke: Arc<Poke>,
    view: watch::Receiver<PodView>,
}

/// The supervisor.
pub struct Supervisor {
    shared: Arc<Shared>,
    workers: Mutex<BTreeMap<PodUid, Worker>>,
    /// Records of pods that have no bundle. Until the desired set is whole, it may have been lost (a broken disk), and
    /// they count on when they are wanted again; then they are of pods that the agent did not live to clean up.
    left_over: Mutex<BTreeMap<PodUid, PodRecord>>,
    /// Pods of the desired set that this agent cannot read: no task keeps them, and what runs of them stays.
    unread: Mutex<BTreeSet<PodUid>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The desired set is known to be whole: what is not in it is unwanted.
    whole: AtomicBool,
    /// The runtime has not said yet what it has.
    unseen: AtomicBool,
}

/// What the runtime has, by pod.
pub type Inventory = BTreeMap<PodUid, (PodKey, Observed)>;

impl Supervisor {
    /// Without pods.
    pub fn new(shared: Arc<Shared>, stop: CancellationToken) -> Arc<Self> {
        let (workers, left_over, unread) = Default::default();
        let (whole, unseen) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { shared, workers, left_over, unread, tasks: TaskTracker::new(), stop, whole, unseen })
    }

    fn workers(&self) -> MutexGuard<'_, BTreeMap<PodUid, Worker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These have no bundle now, and may get one.
    pub fn keep_records(&self, records: BTreeMap<PodUid, PodRecord>) {
        *self.left_over() = records;
    }

    fn left_over(&self) -> MutexGuard<'_, BTreeMap<PodUid, PodRecord>> {
        self.left_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unread(&self) -> MutexGuard<'_, BTreeSet<PodUid>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a bundle. One that nobody can read is said, not run: it stays in the desired set (its digest is right, so
    /// asking again does not help), and what runs of its pod stays as it is; a pod that is to end can be ended.
    pub fn read(&self, uid: &PodUid, json: &str) -> Option<Desired> {
        match Desired::parse(uid, json) {
            Ok(desired) => Some(desired),
            Err(problem) => {
                tracing::error!(pod = %uid, problem, "the cluster sent a pod that this agent cannot read");
                let outline = Desired::outline(uid, json);
                if outline.as_ref().is_some_and(Desired::deleting) {
                    return outline;
                }
                self.unread().insert(uid.clone());
                self.shared.events.record(unreadable(uid, outline.map(|pod| pod.key), &problem));
                None
            }
        }
    }

    /// From now on, what belongs to no pod is stopped.
    pub fn desired_set_is_whole(&self) {
        if !self.whole.swap(true, Ordering::Relaxed) {
            tracing::debug!("the desired set is whole");
        }
    }

    /// The runtime does not answer yet: pods that start now look first, and wait for it as long as that takes.
    pub fn runtime_is_unseen(&self) {
        self.unseen.store(true, Ordering::Relaxed);
    }

    /// Hands an order to a pod's task; starts the task if there is none.
    pub fn order(self: &Arc<Self>, order: Order, found: Option<(PodRecord, Observed)>) {
        let key = order.desired.key.clone();
        let mut workers = self.workers();
        let unread = self.unread().remove(&key.uid);
        if let Some(worker) = workers.get(&key.uid) {
            worker.orders.send_replace(order);
            return;
        }
        let predecessors = workers
            .values()
            .filter(|other| other.key.namespace == key.namespace && other.key.name == key.name)
            .map(|other| other.view.clone())
            .collect();
        let left_over = self.left_over().remove(&key.uid);
        let counts_on = unread || !self.whole.load(Ordering::Relaxed);
        let left_over = left_over.filter(|_| found.is_none() && counts_on);
        // Nothing is known of what it runs by now.
        let look_first = unread || left_over.is_some() || self.unseen.load(Ordering::Relaxed);
        let (record, observed) = found.unwrap_or_else(|| {
            (left_over.unwrap_or_else(|| PodRecord::new(key.clone())), Observed::default())
        });
        let (orders, poke) = (watch::channel(order).0, Arc::<Poke>::default());
        let view = watch::channel(PodView {
            status: Arc::new(record.status.clone()),
            phase: Phase::default(),
            cleaned: false,
            ips: Vec::new(),
            instances: Vec::new(),
            listed: Arc::new(observed.clone()),
        });
        let pod = PodContext::new(
            self.shared.clone(),
            orders.subscribe(),
            poke.clone(),
            view.0,
            record,
            observed,
            predecessors,
        );
        workers.insert(key.uid.clone(), Worker { key: key.clone(), orders, poke, view: view.1 });
        drop(workers);
        let span = tracing::info_span!("pod", namespace = %key.namespace, name = %key.name, uid = %key.uid);
        self.tasks.spawn(self.clone().run(key, pod, look_first).instrument(span));
    }

    /// The pod is gone from the API.
    pub fn remove(&self, uid: &PodUid) {
        self.unread().remove(uid);
        if let Some(worker) = self.workers().get(uid) {
            worker.orders.send_modify(|order| order.removed = true);
        }
        // Who deletes by force has made room, as far as the cluster knows; what still runs is gone in a moment.
        self.shared.admitted.release(uid);
    }

    /// Changes all orders alike.
    pub fn modify_orders(&self, change: impl Fn(&mut Order) -> bool) {
        for worker in self.workers().values() {
            worker.orders.send_if_modified(&change);
        }
    }

    /// What runs already must be known before anything is decided. `false` if the agent stops.
    async fn look_first(&self, pod: &mut PodContext) -> bool {
        while let Err(error) = pod.observe(true).await {
            tracing::warn!(%error, "waiting for the container runtime");
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep(UNSEEN_RETRY) => {}
            }
        }
        true
    }

    async fn run(self: Arc<Self>, key: PodKey, pod: PodContext, look_first: bool) {
        let mut pod = Box::new(pod);
        if look_first && !self.look_first(&mut pod).await {
            return;
        }
        let end = drive(&mut pod, &self.stop).await;
        drop(pod);
        if end == End::Stopped {
            return;
        }
        self.shared.outbox.forget(&key.uid);
        self.shared.saver.forget(key.uid.clone()).await;
        let order = self.workers().remove(&key.uid).map(|worker| worker.orders.borrow().clone());
        // It was wanted again while its last remains were removed.
        if let Some(order) = order.filter(|order| !order.removed) {
            self.order(order, None);
        }
    }

    /// What is seen of each pod by others.
    pub fn views(&self) -> Vec<(PodKey, PodView)> {
        self.workers().values().map(|worker| (worker.key.clone(), worker.view.borrow().clone())).collect()
    }

    /// What each pod shall be.
    pub fn orders(&self) -> BTreeMap<PodUid, Order> {
        self.workers().iter().map(|(uid, worker)| (uid.clone(), worker.orders.borrow().clone())).collect()
    }

    /// Waits for all tasks to end after the stop token was cancelled.
    pub async fn drain(&self, grace: Duration) {
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "tasks of pods did not end in time");
        }
        self.shared.saver.flush().await;
    }

    /// Spawns a task that ends with the agent.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let until_stop = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        };
        self.tasks.spawn(until_stop.instrument(tracing::info_span!("pods", task = name)));
    }

    /// Routes the runtime's news until the agent stops.
    pub async fn watch_runtime(self: Arc<Self>) {
        let mut events = self.shared.runtime.events();
        let mut relist = tokio::time::interval(RELIST);
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick comes at once: between the first listing and the subscription something may have happened.
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _ = relist.tick() => Some(RuntimeEvent::Resync),
            };
            match event {
                Some(RuntimeEvent::PodChanged(uid)) => {
                    if let Some(worker) = self.workers().get(&uid) {
                        worker.poke.poke(false);
                    }
                }
                Some(RuntimeEvent::Resync) => self.look_at_everything().await,
                None => {
                    tracing::warn!("the container runtime has no more events; looking once a minute");
                    events = futures::stream::pending().boxed();
                }
            }
        }
    }

    async fn look_at_everything(self: &Arc<Self>) {
        let inventory = match inventory(&self.shared).await {
            Ok(inventory) => inventory,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the containers of this device");
                return;
            }
        };
        let mut strays = Vec::new();
        self.unseen.store(false, Ordering::Relaxed);
        {
            let workers = self.workers();
            let unread = self.unread();
            for (uid, (key, observed)) in &inventory {
                match workers.get(uid) {
                    Some(worker) if *worker.view.borrow().listed != *observed => worker.poke.poke(true),
                    Some(_) => {}
                    None if unread.contains(uid) => {}
                    None => strays.push((key.clone(), observed.clone())),
                }
            }
            let gone = |worker: &Worker| !inventory.contains_key(&worker.key.uid);
            for worker in workers.values().filter(|worker| gone(worker)) {
                let view = worker.view.borrow();
                if view.listed.sandbox.is_some() || view.listed.all().next().is_some() {
                    worker.poke.poke(true);
                }
            }
        }
        if self.whole.load(Ordering::Relaxed) {
            for (key, observed) in strays {
                self.stop_stray(&key, &observed).await;
            }
            let left_over = {
                let mut records = self.left_over();
                let unread = self.unread();
                let all = std::mem::take(&mut *records).into_iter();
                let (kept, gone) = all.partition(|(uid, _)| unread.contains(uid));
                *records = kept;
                gone
            };
            for (uid, PodRecord { key, .. }) in left_over {
                if !inventory.contains_key(&uid) && !self.workers().contains_key(&uid) {
                    self.forget_stray(&key).await;
                }
            }
        }
    }

    /// Stops and removes what belongs to no pod of the desired set.
    async fn stop_stray(&self, key: &PodKey, observed: &Observed) {
        tracing::info!(pod = %key, "stopping a pod that is not in the desired set");
        let runtime = &self.shared.runtime;
        let stops = observed.running().map(|seen| runtime.stop_container(&seen.id, STRAY_GRACE));
        let stopped: Result<Vec<()>, RuntimeError> =
            futures::future::join_all(stops).await.into_iter().collect();
        let removed = match (stopped, &observed.sandbox) {
            (Ok(_), Some(Sandbox { id, .. })) => runtime.remove_sandbox(id).await,
            (Ok(_), None) => {
                let mut result = Ok(());
                for container in observed.all() {
                    result = result.and(runtime.remove_container(&container.id).await);
                }
                result
            }
            (Err(error), _) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(pod = %key, %error, "cannot remove it yet; trying again in a minute");
            return;
        }
        self.forget_stray(key).await;
    }

    /// Removes what is left of it on the disk. If that fails, its record has the next agent try again.
    async fn forget_stray(&self, key: &PodKey) {
        let dirs = PodDirs::new(&self.shared.settings.data_dir, key);
        let cleaned = tokio::task::spawn_blocking(move || dirs.remove()).await;
        if let Ok(Err(error)) = cleaned {
            tracing::warn!(pod = %key, %error, "cannot remove its directories");
            return;
        }
        self.shared.saver.forget(key.uid.clone()).await;
    }
}

/// What people see of a pod that this agent cannot read; of the Node, if not even the pod's name can be read.
fn unreadable(uid: &PodUid, pod: Option<PodKey>, problem: &str) -> NewEvent {
    NewEvent {
        pod,
        container: None,
        warning: true,
        reason: UNSUPPORTED.to_owned(),
        message: format!(
            "the agent on this device cannot read the pod {uid}: {problem}. What runs of it is left as it is; update \
             the agent, or change the pod"
        ),
    }
}

/// Lists everything on the device.
pub async fn inventory(shared: &Shared) -> Result<Inventory, RuntimeError> {
    let sandboxes = shared.runtime.list_sandboxes().await?;
    let containers = shared.runtime.list_containers(None).await?;
    let mut keys: BTreeMap<PodUid, PodKey> = BTreeMap::new();
    let mut by_pod: BTreeMap<PodUid, (Vec<Sandbox>, Vec<Container>)> = BTreeMap::new();
    for sandbox in sandboxes {
        keys.entry(sandbox.pod.uid.clone()).or_insert_with(|| sandbox.pod.clone());
        by_pod.entry(sandbox.pod.uid.clone()).or_default().0.push(sandbox);
    }
    for container in containers {
        keys.entry(container.pod.uid.clone()).or_insert_with(|| container.pod.clone());
        by_pod.entry(container.pod.uid.clone()).or_default().1.push(container);
    }
    let doubled: BTreeSet<&SandboxId> = by_pod
        .values()
        .flat_map(|(sandboxes, _)| sandboxes.iter().skip(1))
        .map(|sandbox| &sandbox.id)
        .collect();
    if !doubled.is_empty() {
        tracing::warn!(?doubled, "more than one sandbox for a pod");
    }
    Ok(keys
        .into_iter()
        .map(|(uid, key)| {
            let (sandboxes, containers) = by_pod.remove(&uid).unwrap_or_default();
            (uid, (key, Observed::new(sandboxes.into_iter().next(), containers)))
        })
        .collect())
}
