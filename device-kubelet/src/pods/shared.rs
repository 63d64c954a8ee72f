//! What all pods of a device share.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use fleet_wire::name::PodUid;
use tokio::sync::Notify;

use super::record::PodRecord;
use super::{
    Durability, PodsSettings, admitted::Admitted, clock::Clock, env::Surroundings, events::EventQueue,
    outbox::Outbox,
};
use crate::{images::Puller, logs::rotator::Rotator, runtime::Runtime, store::Store};

/// Handles that every pod's task needs.
pub struct Shared {
    /// Settings.
    pub settings: PodsSettings,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Pulls images.
    pub puller: Puller,
    /// Both times.
    pub clock: Clock,
    /// Statuses on their way up.
    pub outbox: Outbox,
    /// Events on their way up.
    pub events: EventQueue,
    /// Writes records down.
    pub saver: Saver,
    /// Who is let in.
    pub admitted: Admitted,
    /// Keeps logs from growing.
    pub rotator: Rotator,
}

impl Shared {
    /// The device's address.
    pub fn host_ip(&self) -> IpAddr {
        self.settings.host_ip.unwrap_or_else(default_route_address)
    }

    /// What the downward API can tell.
    pub fn surroundings(&self, pod_ips: &[String]) -> Surroundings {
        let info = rustix::system::sysinfo();
        Surroundings {
            node_name: self.settings.device.as_str().to_owned(),
            host_ip: self.host_ip().to_string(),
            pod_ips: pod_ips.to_vec(),
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)),
            oom_score_floor: oom_score_floor(),
        }
    }
}

/// Without `CAP_SYS_RESOURCE` the kernel lets nobody lower the score below his own, and a container that asks for it
/// does not start at all. Podman runs beside the agent, with the same rights.
fn oom_score_floor() -> i32 {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    if effective >> CAP_SYS_RESOURCE & 1 == 1 {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}

/// Source address of the default route. Nothing is sent; without a route it is the loopback address, so that pods
/// start without network.
fn default_route_address() -> IpAddr {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let probe = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        // An address reserved for documentation (RFC 5737).
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    probe().unwrap_or(loopback)
}

/// Changes of a record within this time are written once.
const GATHER: Duration = Duration::from_secs(1);
/// After a failed write (a full disk).
const RETRY: Duration = Duration::from_secs(30);

/// Writes records down, gathered.
pub struct Saver {
    store: Arc<Store>,
    durability: Durability,
    dirty: Mutex<BTreeMap<PodUid, PodRecord>>,
    /// Whose turn it is to change records on the disk: an older one must not be written over a newer one, nor over the
    /// place of one that was forgotten.
    turn: Arc<tokio::sync::Mutex<()>>,
    work: Notify,
}

impl Saver {
    /// A saver into this store.
    pub fn new(store: Arc<Store>, durability: Durability) -> Self {
        Self { store, durability, dirty: Mutex::default(), turn: Arc::default(), work: Notify::new() }
    }

    /// Soon.
    pub fn later(&self, record: &PodRecord) {
        if self.durability == Durability::Disk {
            self.dirty().insert(record.key.uid.clone(), record.clone());
            self.work.notify_one();
        }
    }

    /// Before this returns, or soon if it fails.
    pub async fn now(&self, record: &PodRecord) {
        self.later(record);
        self.flush().await;
    }

    /// The pod is forgotten.
    pub async fn forget(&self, uid: PodUid) {
        let turn = self.turn.clone().lock_owned().await;
        self.dirty().remove(&uid);
        let store = self.store.clone();
        let forget = move || {
            // Until it is done, also if nobody waits for it any more.
            let _turn = turn;
            store.forget_record(&uid)
        };
        let forgotten = tokio::task::spawn_blocking(forget).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(%error, "cannot forget a pod's record");
        }
    }

    /// Writes until the agent stops.
    pub async fn run(&self) {
        loop {
            self.work.notified().await;
            tokio::time::sleep(GATHER).await;
            if !self.flush().await {
                tokio::time::sleep(RETRY).await;
                self.work.notify_one();
            }
        }
    }

    /// Writes all that waits; whether it could be written.
    pub async fn flush(&self) -> bool {
        let turn = self.turn.clone().lock_owned().await;
        let records = std::mem::take(&mut *self.dirty());
        if records.is_empty() {
            return true;
        }
        let store = self.store.clone();
        let save = move || {
            let _turn = turn;
            let mut failed = Vec::new();
            for (uid, record) in records {
                if let Err(error) = store.save_record(&uid, &record) {
                    tracing::error!(pod = %record.key, %error, "cannot write down the pod's state; trying again");
                    failed.push((uid, record));
                }
            }
            failed
        };
        let failed = tokio::task::spawn_blocking(save).await.unwrap_or_default();
        let whole = failed.is_empty();
        let mut dirty = self.dirty();
        for (uid, record) in failed {
            dirty.entry(uid).or_insert(record);
        }
        whole
    }

    fn dirty(&self) -> std::sync::MutexGuard<'_, BTreeMap<PodUid, PodRecord>> {
        self.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use fleet_wire::name::PodKey;

    use super::*;

    #[tokio::test]
    async fn records_are_taken_when_it_is_their_turn_to_be_written() {
        let saver = Saver::new(Arc::new(Store::in_memory()), Durability::Disk);
        let key = PodKey {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: "u1".parse().unwrap(),
        };
        let record = |revision| PodRecord { revision, ..PodRecord::new(key.clone()) };
        // Somebody else writes.
        let turn = saver.turn.clone().lock_owned().await;
        saver.later(&record(1));
        let mut flush = std::pin::pin!(saver.flush());
        assert!(futures::poll!(&mut flush).is_pending());
        saver.later(&record(2));
        assert_eq!(saver.dirty()[&key.uid].revision, 2, "it would be written after the older one");
        drop(turn);
        assert!(flush.await);
        assert!(saver.dirty().is_empty());
    }
}
