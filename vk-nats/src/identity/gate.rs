//! How fast, and how many at once, requests go to the API server.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Requests in a lane wait for each other, not for those of another lane: a flood of pod statuses cannot
/// make leases expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Renewals of Leases, and Node statuses.
    Node,
    /// First Leases. A Node is ready by its status, and the lifecycle controller counts from that: where a whole fleet
    /// is switched on at once, they wait rather than the statuses.
    NewLease,
    /// Pod statuses, deletions and reads for pods.
    Pod,
    /// Events, which may wait: they go behind what waits in the lane of Nodes.
    Event,
}

/// A bucket that fills at a steady rate.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: u32, capacity: u32, now: Instant) -> Self {
        Self {
            capacity: f64::from(capacity),
            per_second: f64::from(per_second),
            tokens: f64::from(capacity),
            at: now,
        }
    }

    /// Takes a token and says how long to wait until it is there. Waiting takers line up, since the
    /// bucket goes below zero.
    pub fn take(&mut self, now: Instant) -> Duration {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.capacity) - 1.0;
        self.at = self.at.max(now);
        if self.tokens >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-self.tokens / self.per_second)
        }
    }
}

/// The one gate to the API server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Arc<Semaphore>,
    new_lease: Arc<Semaphore>,
    pod: Arc<Semaphore>,
    event: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: TokenBucket,
    paused_until: Instant,
}

/// A place in a lane, given back when dropped.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl Gate {
    /// `per_second` requests in the long run, `burst` at once after a pause.
    pub fn new(per_second: u32, burst: u32) -> Self {
        let now = Instant::now();
        Self(Arc::new(Inner {
            // Each place is at most one HTTP/1.1 connection, with buffers here and work over there: enough
            // for a thousand pod requests a second at 20 ms each. Events compete with statuses for the same
            // API server; but fewer places than this, and a rollout's take longer than a device waits for an
            // answer, which sends all of them again.
            node: Arc::new(Semaphore::new(16)),
            new_lease: Arc::new(Semaphore::new(4)),
            pod: Arc::new(Semaphore::new(24)),
            event: Arc::new(Semaphore::new(8)),
            state: Mutex::new(State { bucket: TokenBucket::new(per_second, burst, now), paused_until: now }),
        }))
    }

    /// Waits for a place, for a token, and until a pause is over. Leases and Node statuses need no token.
    pub async fn enter(&self, lane: Lane) -> Place {
        let semaphore = match lane {
            Lane::Node => &self.0.node,
            Lane::NewLease => &self.0.new_lease,
            Lane::Pod => &self.0.pod,
            Lane::Event => &self.0.event,
        };
        // The semaphore is never closed.
        let permit = Arc::clone(semaphore).acquire_owned().await.ok();
        if lane == Lane::Event {
            // Through the queue of the Nodes, without staying in their lane: what waits there already goes first.
            drop(self.0.node.acquire().await.ok());
        }
        let wait = {
            let mut state = self.state();
            let now = Instant::now();
            let paused = state.paused_until.saturating_duration_since(now);
            let token = match lane {
                Lane::Node | Lane::NewLease => Duration::ZERO,
                Lane::Pod | Lane::Event => state.bucket.take(now),
            };
            paused.max(token)
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Place(permit)
    }

    /// The API server asked everyone to wait.
    pub fn pause(&self, after: Duration) {
        let mut state = self.state();
        state.paused_until = state.paused_until.max(Instant::now() + after);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
