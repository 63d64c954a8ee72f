//! Who owns the fleet: one Lease, and an epoch that grows with every owner.
//!
//! ```text
//! start ─► claim ──(free, expired, or ours)──► epoch + 1, with resourceVersion ─► own ─► renew every third
//!            ▲                                        │ conflict                    │
//!            └──── wait, somebody else renews ◄───────┘                             └► cannot renew → lost
//! ```
//!
//! An owner that cannot renew stops sending before its lease expires: everything that goes out asks
//! [`Tenure::holds`] first, and the answer depends on a deadline, not on a task that might hang. While the
//! API server is away nobody else can take the Lease either, so the owner keeps trying; if nobody wrote it
//! meanwhile (resourceVersion), it goes on where it was. It ends when somebody did, or after
//! [`GIVE_UP_AFTER`]. One owner has all shards for now; with several, the same Lease will hold the
//! membership.

mod claim;

use std::time::Duration;

use fleet_wire::name::OwnerEpoch;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio::{sync::watch, time::Instant};

use claim::{Claim, Sighting, decide};

/// Name of the Lease in the fleet's namespace.
pub const LEASE_NAME: &str = "vk-nats";
/// How long an owner is believed to live after its last renewal.
pub const LEASE_DURATION: Duration = Duration::from_secs(30);
/// How long before its lease expires an owner stops sending.
const MARGIN: Duration = Duration::from_secs(5);
/// How long an owner that does not send any more tries to renew.
pub const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
const RENEW_EVERY: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the API server may take for a claim. One that was taken although its answer did not come is one's own.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why the fleet cannot be owned (any more).
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// Somebody else has it.
    #[error("the lease {LEASE_NAME} was taken by {holder:?}; this process stops")]
    Taken {
        /// The new holder.
        holder: String,
    },
    /// It could not be renewed in time.
    #[error("the lease {LEASE_NAME} could not be renewed in time: {message}")]
    Expired {
        /// What the last attempt met.
        message: String,
    },
}

/// Whether this process may send. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tenure(watch::Receiver<Instant>);

impl Tenure {
    /// Whether it still may.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.0.borrow()
    }

    /// One that ends at a given time, for tests.
    #[cfg(test)]
    pub fn until(deadline: Instant) -> Self {
        Self(watch::channel(deadline).1)
    }
}

/// The claim to the fleet's Lease.
#[derive(Debug)]
pub struct Ownership {
    leases: Api<Lease>,
    identity: String,
    held: Lease,
    /// The incarnation of the cluster side that this process is.
    pub epoch: OwnerEpoch,
    deadline: watch::Sender<Instant>,
}

impl Ownership {
    /// Waits until the Lease is free and takes it.
    pub async fn acquire(client: kube::Client, namespace: &str, identity: &str) -> Self {
        let leases: Api<Lease> = Api::namespaced(client, namespace);
        let mut sighting: Option<Sighting> = None;
        let mut told = None;
        loop {
            // A connection that died in silence would be waited for without an end.
            let asked = attempt(&leases, identity, &mut sighting);
            let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
            match answer.unwrap_or_else(|_| Err(ClaimError::Silence)) {
                Ok(Ok((held, epoch, since))) => {
                    tracing::info!(%epoch, identity, "owns the fleet");
                    let deadline = watch::channel(since + LEASE_DURATION - MARGIN).0;
                    return Self { leases, identity: identity.to_owned(), held, epoch, deadline };
                }
                Ok(Err(holder)) => {
                    if told.as_deref() != Some(holder.as_str()) {
                        tracing::info!(holder, "waiting: the fleet has a live owner");
                        told = Some(holder);
                    }
                }
                Err(error) => tracing::warn!(%error, "the lease {LEASE_NAME} cannot be claimed yet"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether this process may send, as others see it.
    pub fn tenure(&self) -> Tenure {
        Tenure(self.deadline.subscribe())
    }

    /// Renews until the shutdown, then gives the Lease back.
    ///
    /// # Errors
    /// When the Lease is lost.
    pub async fn keep(
        mut self,
        shutdown: fleet_daemon::shutdown::Shutdown,
        check: fleet_daemon::health::CheckHandle,
    ) -> Result<(), OwnershipError> {
        let mut last_error = String::new();
        check.ready();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            let began = Instant::now();
            match tokio::time::timeout(RENEW_EVERY, self.renew()).await {
                Ok(Ok(())) => {
                    self.deadline.send_replace(began + LEASE_DURATION - MARGIN);
                    check.ready();
                }
                Ok(Err(RenewError::Taken(holder))) => {
                    self.deadline.send_replace(began);
                    return Err(OwnershipError::Taken { holder });
                }
                Ok(Err(RenewError::Api(error))) => last_error = error.to_string(),
                Err(_) => last_error = "the API server did not answer".to_owned(),
            }
            let expired = Instant::now().saturating_duration_since(*self.deadline.borrow());
            if expired >= GIVE_UP_AFTER {
                return Err(OwnershipError::Expired { message: last_error });
            }
            if !expired.is_zero() {
                check
                    .not_ready(format!("the owner's Lease cannot be renewed, nothing is sent: {last_error}"));
            }
        }
    }

    async fn renew(&mut self) -> Result<(), RenewError> {
        let mut next = self.held.clone();
        if let Some(spec) = &mut next.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match self.leases.replace(LEASE_NAME, &PostParams::default(), &next).await {
            Ok(held) => {
                self.held = held;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                // Our own earlier write may have arrived although its answer did not.
                let current = self.leases.get(LEASE_NAME).await?;
                let holder = claim::holder(&current);
                if holder == self.identity && claim::epoch(&current) == self.epoch {
                    self.held = current;
                    Ok(())
                } else {
                    Err(RenewError::Taken(holder))
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn release(mut self) {
        self.deadline.send_replace(Instant::now());
        if let Some(spec) = &mut self.held.spec {
            spec.holder_identity = Some(String::new());
        }
        let parameters = PostParams::default();
        let write = self.leases.replace(LEASE_NAME, &parameters, &self.held);
        match tokio::time::timeout(RENEW_EVERY, write).await {
            Ok(Ok(_)) => tracing::info!("gave the lease {LEASE_NAME} back"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease {LEASE_NAME} was not given back; it expires"),
            Err(_) => tracing::warn!("the lease {LEASE_NAME} was not given back in time; it expires"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("taken by {0:?}")]
    Taken(String),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {ANSWER_WITHIN:?}")]
    Silence,
}

type Held = (Lease, OwnerEpoch, Instant);

/// One look at the Lease: ours from now on, or somebody's.
async fn attempt(
    leases: &Api<Lease>,
    identity: &str,
    sighting: &mut Option<Sighting>,
) -> Result<Result<Held, String>, ClaimError> {
    let current = leases.get_opt(LEASE_NAME).await?;
    let now = Instant::now();
    // Seconds since 1970; 1 with a clock that is before that.
    let least = OwnerEpoch(u64::try_from(Timestamp::now().as_second()).unwrap_or(0).max(1));
    match decide(current.as_ref(), identity, sighting, now, least) {
        Claim::Wait { holder } => Ok(Err(holder)),
        Claim::Take { epoch } => {
            let wanted = owned(current, identity, epoch);
            let held = if wanted.metadata.resource_version.is_none() {
                leases.create(&PostParams::default(), &wanted).await?
            } else {
                leases.replace(LEASE_NAME, &PostParams::default(), &wanted).await?
            };
            Ok(Ok((held, epoch, now)))
        }
    }
}

fn owned(current: Option<Lease>, identity: &str, epoch: OwnerEpoch) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = current.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    lease.metadata.managed_fields = None;
    lease
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(claim::EPOCH_ANNOTATION.to_owned(), epoch.to_string());
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions + 1),
        ..LeaseSpec::default()
    });
    lease
}

#[cfg(test)]
#[path = "tests/ownership.rs"]
mod tests;
