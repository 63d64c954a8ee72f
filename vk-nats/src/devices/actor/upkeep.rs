//! Lease and Node status of the device, and when it counts as silent.

use std::{sync::Arc, time::Duration};

use fleet_wire::message::{EventRecord, EventType, RefusalCode};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::NodeStatus;
use tokio::time::Instant;

use super::{Actor, Done};
use crate::{
    devices::directory::Settings,
    events,
    identity::{ApiError, Call, Lane, NodeClient, STRATEGIC_MERGE_PATCH},
    nodes::{
        self, lease, status,
        transitions::{Told, Transition, transitions},
    },
    packed::Packed,
};

/// Writes of one Node's status are at least this far apart: what the watch shows lags behind the last.
const STATUS_PACE: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// First Leases and Events of Nodes give way to what makes Nodes ready: for each device of the fleet, connected yet or
/// not, they wait up to so much longer.
const SPREAD: Duration = Duration::from_millis(15);

/// What is due when.
#[derive(Debug)]
pub(super) struct Upkeep {
    heard: Option<Instant>,
    alive: bool,
    /// The device's last report, and the one that the API server took last: nearly always the same.
    report: Option<Arc<Packed<NodeStatus>>>,
    written: Option<Arc<Packed<NodeStatus>>>,
    status_due: Option<Instant>,
    refresh_at: Option<Instant>,
    wrote_at: Option<Instant>,
    writing: bool,
    retry: Duration,
    lease_due: Option<Instant>,
    leasing: bool,
    /// What the write on its way changes, to be told when it was taken.
    news: Vec<Transition>,
    told: Told,
    unschedulable: bool,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        Self {
            heard: None,
            alive: false,
            report: None,
            written: None,
            status_due: None,
            refresh_at: None,
            wrote_at: None,
            writing: false,
            retry: FIRST_RETRY,
            lease_due: None,
            leasing: false,
            news: Vec::new(),
            told: Told::default(),
            unschedulable: false,
        }
    }

    /// The device gave a sign of life.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
        self.alive = true;
    }

    /// The device had been silent, and Kubernetes may have given it up: something says otherwise at once. `lease`
    /// is when the Lease has its turn.
    fn returned(&mut self, now: Instant, lease: Instant) {
        self.heard(now);
        self.lease_due = Some(lease);
        self.due_status(now);
    }

    /// The device reported its own status.
    pub(super) fn reported(&mut self, report: &NodeStatus, now: Instant) {
        let report = Packed::new(report);
        if self.report.as_deref() != Some(&report) {
            self.report = Some(Arc::new(report));
        }
        self.due_status(now);
    }

    fn due_status(&mut self, now: Instant) {
        let due = self.wrote_at.map_or(now, |wrote| now.max(wrote + STATUS_PACE));
        self.status_due = Some(self.status_due.map_or(due, |known| known.min(due)));
    }

    pub(super) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        if !self.alive {
            return None;
        }
        let silent = self.heard.map(|heard| heard + lease::silence_limit(settings.heartbeat_interval));
        let status = [self.status_due, self.refresh_at].into_iter().flatten().min().filter(|_| !self.writing);
        let lease = self.lease_due.filter(|_| !self.leasing);
        [silent, status, lease].into_iter().flatten().min()
    }
}

impl Actor {
    /// The watch shows another state of the Node: others may have changed what is ours.
    pub(super) fn node_changed(&mut self) {
        let (node, _) = {
            let node = self.node.borrow_and_update();
            (Arc::clone(&node.0), node.1)
        };
        let now = Instant::now();
        // After a fresh start of the actor the Node may be newer than what it began with.
        if self.token.is_none() {
            self.token = node.incarnation.as_deref().and_then(crate::devices::incarnation::Token::parse);
        }
        if self.upkeep.alive {
            self.upkeep.due_status(now);
            self.look_at_cordon(&node);
        }
        self.keys.look(node.rotate.as_deref(), now);
        // The owner's settings travel with the desired set.
        if self.push_due.is_none() {
            self.push_due = Some(now);
        }
    }

    /// The device is there again after a silence, or for the first time.
    ///
    /// A Node that is not ready in the API gets a new status, which the lifecycle controller takes for a sign of life
    /// as well as a Lease. In a large fleet the Lease waits for the device's own point of the interval then: where
    /// all are switched on together none is in the way of a Node's becoming ready, or renewed right after it was made.
    pub(super) fn returned(&mut self, now: Instant) {
        let lease = if self.node().0.is_ready() {
            now
        } else {
            lease::next_renewal(&self.device, self.context.started, now).min(now + self.spread())
        };
        self.upkeep.returned(now, lease);
    }

    /// How long at most what gives way waits.
    fn spread(&self) -> Duration {
        SPREAD * u32::try_from(self.context.metrics.devices_enrolled.get()).unwrap_or(0)
    }

    /// Does what is due.
    pub(super) fn keep_up(&mut self, now: Instant) {
        if !self.upkeep.alive {
            return;
        }
        let limit = lease::silence_limit(self.context.settings.heartbeat_interval);
        if self.upkeep.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= limit) {
            tracing::info!(device = %self.device, silent_for = ?limit, "silent: its Lease is no longer renewed");
            self.upkeep.alive = false;
            self.disconnect();
            return;
        }
        if !self.upkeep.leasing && self.upkeep.lease_due.is_some_and(|due| due <= now) {
            self.renew_lease(now);
        }
        let refresh = self.upkeep.refresh_at.is_some_and(|at| at <= now);
        if !self.upkeep.writing && (refresh || self.upkeep.status_due.is_some_and(|due| due <= now)) {
            self.write_status(now, refresh);
        }
    }

    fn renew_lease(&mut self, now: Instant) {
        self.upkeep.leasing = true;
        self.upkeep.lease_due = Some(lease::next_renewal(&self.device, self.context.started, now));
        let (node, _) = self.node();
        let client = self.context.client.clone();
        let duration = self.context.settings.node_lease_duration;
        self.work.spawn(async move { Done::Lease(lease::renew(&client, &node, duration).await) });
    }

    pub(super) fn lease_written(&mut self, result: &Result<(), ApiError>) {
        self.upkeep.leasing = false;
        if result.is_ok() && self.upkeep.alive {
            self.reconcile_pods();
        }
        if let Err(error) = result {
            tracing::warn!(device = %self.device, %error, "the Node's Lease was not renewed");
            self.upkeep.lease_due = Some(Instant::now() + Duration::from_secs(2));
        }
    }

    fn write_status(&mut self, now: Instant, refresh: bool) {
        self.upkeep.status_due = None;
        let Some(report) = &self.upkeep.report else { return };
        let Some(said) = report.get() else { return };
        let (node, port) = self.node();
        let additions = status::Additions {
            address: self.context.settings.node_address,
            port,
            incarnation: self.token.as_ref().map(ToString::to_string),
            identity_conflict: self.conflict,
            key_version: self.session.key_version().map(|version| version.0.to_string()),
        };
        let written = self.upkeep.written.as_ref().and_then(|written| written.get());
        let Some(patch) =
            status::patch(&node, &said, written.as_ref(), &additions, Timestamp::now(), refresh)
        else {
            if self.upkeep.refresh_at.is_none() {
                self.upkeep.refresh_at = Some(next_refresh(now));
            }
            return;
        };
        self.upkeep.writing = true;
        self.upkeep.wrote_at = Some(now);
        self.upkeep.news = transitions(&node, &said);
        let report = Arc::clone(report);
        let client = self.context.client.clone();
        self.work.spawn(async move {
            let result = patch_node(&client, &node, &patch).await;
            Done::Node { result, report }
        });
    }

    /// As a kubelet, which takes a Node for schedulable when it starts.
    fn look_at_cordon(&mut self, node: &nodes::DeviceNode) {
        if std::mem::replace(&mut self.upkeep.unschedulable, node.unschedulable) != node.unschedulable {
            self.tell(vec![Transition::schedulable(node)]);
        }
    }

    /// Records Events of the Node. One that cannot be written is lost, as with a kubelet.
    fn tell(&mut self, news: Vec<Transition>) {
        if news.is_empty() {
            return;
        }
        let (context, device) = (Arc::clone(&self.context), self.device.clone());
        let now = Timestamp::now().as_millisecond();
        let wait = self.spread().mul_f64(rand::random_range(0.0..1.0));
        self.paced.spawn(async move {
            tokio::time::sleep(wait).await;
            for (at, Transition { warning, reason, message }) in (now..).zip(news) {
                let record = EventRecord {
                    id: format!("{reason}-{at}"),
                    pod: None,
                    container: None,
                    type_: if warning { EventType::Warning } else { EventType::Normal },
                    reason: reason.to_owned(),
                    message,
                    count: 1,
                    first: at,
                    last: at,
                };
                let write = Box::pin(events::write_one(
                    &context.client,
                    &device,
                    &record,
                    events::CONTAINERS,
                    SignedDuration::ZERO,
                ));
                if let Err(error) = write.await {
                    tracing::debug!(%device, reason, %error, "an event of the Node was not written");
                }
            }
        });
    }

    pub(super) fn node_written(&mut self, result: Result<(), ApiError>, report: Arc<Packed<NodeStatus>>) {
        let now = Instant::now();
        self.upkeep.writing = false;
        let found = std::mem::take(&mut self.upkeep.news);
        if result.is_ok() {
            let news = self.upkeep.told.news(found, now);
            self.tell(news);
        }
        match result {
            Ok(()) => {
                self.upkeep.retry = FIRST_RETRY;
                self.upkeep.refresh_at = Some(next_refresh(now));
                if self.upkeep.report.as_deref() != Some(&*report) {
                    self.upkeep.due_status(now);
                }
                self.upkeep.written = Some(report);
                if self.upkeep.alive {
                    self.reconcile_pods();
                }
            }
            // The watch will tell.
            Err(ApiError::Gone { message }) => {
                tracing::debug!(device = %self.device, message, "the Node is gone");
                self.upkeep.refresh_at = None;
            }
            Err(error @ ApiError::Invalid { .. }) => {
                let kind = RefusalCode::BadRequest;
                self.complain(
                    "status",
                    kind.as_str(),
                    &format_args!("the Node's status was refused: {error}"),
                );
                self.upkeep.refresh_at = Some(next_refresh(now));
            }
            Err(error) => {
                tracing::warn!(device = %self.device, %error, "the Node's status was not written");
                self.upkeep.status_due = Some(now + self.upkeep.retry);
                self.upkeep.retry = (self.upkeep.retry * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn patch_node(
    client: &NodeClient,
    node: &nodes::DeviceNode,
    patch: &serde_json::Value,
) -> Result<(), ApiError> {
    let call = Call::new(
        "patch nodes/status",
        Lane::Node,
        http::Method::PATCH,
        format!("/api/v1/nodes/{}/status", node.device),
        STRATEGIC_MERGE_PATCH,
        patch,
    );
    client.send(&node.device, call).await.map(|_| ())
}

fn next_refresh(now: Instant) -> Instant {
    // Not all Nodes of a fleet that came back together in the same second, for ever.
    now + status::REFRESH_EVERY.mul_f64(rand::random_range(0.8..1.0))
}
