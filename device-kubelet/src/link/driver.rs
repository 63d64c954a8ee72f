//! Keeps the session open and the desired set up to date. One task, one thing at a time: a delta that
//! arrives while the device syncs waits, and is then found to be older or is applied on top.
//!
//! ```text
//! hello ──► digests differ? ──► sync ──► fetch what is large ──► apply ──┐
//!             │ no                ▲                                     │ digest of the set differs
//!             ▼                   └──────────── (later each time) ◄─────┘
//!          deltas, heartbeats
//! ```

use std::{sync::Arc, time::Duration};

use fleet_daemon::nats::LinkState;
use fleet_wire::{
    digest::Digest,
    keys::SignedKeyStatement,
    message::{Delta, DesiredVersion, HelloRequest, NodeSettings, PROTOCOL, SyncRequest},
    subject::UpVerb,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeStatus;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    backoff::Backoff,
    bundles,
    channel::{Channel, RequestError},
    incarnation::Incarnation,
    opening::{Event, Opening},
    revocation,
    standing::Standing,
    upload::ReportedNode,
};
use crate::pods::{Pods, PodsError};

const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds of the heartbeat's interval, whatever the cluster side says.
const HEARTBEAT: std::ops::RangeInclusive<u32> = 1..=300;

/// What others tell the driver.
#[derive(Debug)]
pub enum Command {
    /// `down.changed`
    Changed(Delta),
    /// The cluster side has no session with this device: from `rehello`, or a refusal.
    SessionUnknown(String),
    /// `down.revoked`
    Revoked(String),
    /// `down.rotate`
    Rotate(String),
}

/// What the link looks like to the rest of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// The cluster side has accepted the hello.
    pub open: bool,
    /// The desired set is being compared.
    pub syncing: bool,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Since when it is open.
    pub since: Option<Timestamp>,
    /// Version of the cluster side's program.
    pub cluster_version: Option<String>,
    /// What went wrong last, in one line; `None` when all is well.
    pub problem: Option<String>,
}

impl SessionView {
    /// No session yet.
    pub fn closed(heartbeat: Duration) -> Self {
        Self { open: false, syncing: false, heartbeat, since: None, cluster_version: None, problem: None }
    }
}

/// The task's state.
pub struct Driver {
    /// The way to the cluster side.
    pub channel: Channel,
    /// The pods.
    pub pods: Pods,
    /// The token of continuity.
    pub incarnation: Incarnation,
    /// Membership and trust.
    pub standing: Standing,
    /// Whether pods go on although the device was revoked.
    pub keep_on_revoke: bool,
    /// Who changes the device's keys.
    pub rotations: mpsc::Sender<Option<String>>,
    /// The device as a Node.
    pub node: watch::Receiver<Option<NodeStatus>>,
    /// What of it the cluster side has.
    pub reported_node: ReportedNode,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// What others tell.
    pub commands: mpsc::Receiver<Command>,
    /// A delta was dropped because too many waited: sync.
    pub overflow: Arc<Notify>,
    /// What the rest of the agent sees.
    pub view: watch::Sender<SessionView>,
}

/// After an incarnation token could not be written (a full disk).
const STORE_TOKEN_AGAIN: Duration = Duration::from_secs(30);

/// After the pods of a revoked device could not be erased (a full disk).
const ERASE_AGAIN: Duration = Duration::from_secs(30);

/// When to sync next.
struct SyncPlan {
    due: Option<Instant>,
    tried: bool,
    backoff: Backoff,
}

impl SyncPlan {
    fn new() -> Self {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        Self { due: None, tried: false, backoff }
    }

    /// At once, unless that was tried since the sets were last the same.
    fn soon(&mut self) {
        if self.tried {
            self.due.get_or_insert_with(|| Instant::now() + self.backoff.next(rand::random()));
        } else {
            self.due = Some(Instant::now());
        }
    }

    /// It is being tried; the next time comes later, unless it works.
    fn trying(&mut self) {
        self.tried = true;
        self.due = Some(Instant::now() + self.backoff.next(rand::random()));
    }

    fn done(&mut self) {
        self.due = None;
        self.tried = false;
        self.backoff.reset();
    }
}

impl Driver {
    /// Runs for ever.
    pub async fn run(mut self) {
        // What a reboot or a full disk left of a revoked device's pods.
        let mut erase_due =
            if self.standing.membership().revoked.is_some() { self.erase().await } else { None };
        // The hello tells what the device has, so it waits until that is known.
        if self.node.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut connection = self.channel.connection().state.clone();
        connection.mark_changed();
        let mut opening = Opening::default();
        let mut sync = SyncPlan::new();
        let overflow = Arc::clone(&self.overflow);
        let mut token_due = None;
        loop {
            let hello_due = opening.due();
            let sync_due = sync.due.filter(|_| opening.is_open() && self.channel.is_connected());
            let mut event = None;
            tokio::select! {
                biased;
                changed = connection.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let connected = *connection.borrow_and_update() == LinkState::Connected;
                    self.channel.metrics().connected(connected);
                    event = Some(if connected { Event::Connected } else { Event::Disconnected });
                }
                command = self.commands.recv() => match command {
                    None => return,
                    Some(Command::Changed(delta)) => self.changed(delta, &mut sync).await,
                    Some(Command::SessionUnknown(reason)) => {
                        tracing::info!(reason, "the cluster side does not know the session");
                        event = Some(Event::Unknown);
                    }
                    Some(Command::Revoked(reason)) => {
                        tracing::warn!(reason, "this device was removed from the fleet");
                        self.problem(format!("removed from the fleet: {reason}"));
                        // First of all, so that a power cut does not bring the pods back.
                        revocation::note(&self.standing, &reason);
                        erase_due = self.erase().await;
                        event = Some(Event::Unknown);
                    }
                    Some(Command::Rotate(request)) => {
                        // One is enough: the cluster side asks again until the hello says that it was done.
                        let _ = self.rotations.try_send(Some(request));
                    }
                },
                () = overflow.notified() => sync.soon(),
                () = at(hello_due) => {
                    opening.on(&Event::Asked, Instant::now(), rand::random());
                    event = Some(self.hello(&mut sync, &mut token_due).await);
                }
                () = at(sync_due) => event = self.sync(&mut sync).await,
                () = at(erase_due) => erase_due = self.erase().await,
                () = at(token_due) => {
                    token_due = self.incarnation.store_again().is_err().then(|| Instant::now() + STORE_TOKEN_AGAIN);
                }
            }
            if let Some(event) = event {
                opening.on(&event, Instant::now(), rand::random());
                if event == Event::Accepted {
                    erase_due = None;
                    if self.channel.key_version() != self.standing.newest_key() {
                        tracing::info!("the fleet has a newer key: saying hello with it");
                        opening.on(&Event::Unknown, Instant::now(), rand::random());
                    }
                }
            }
            self.show(opening.is_open(), sync.due.is_some());
        }
    }

    async fn hello(&mut self, sync: &mut SyncPlan, token_due: &mut Option<Instant>) -> Event {
        let Some(node) = self.node.borrow().clone() else { return Event::Failed };
        let incarnation = match self.incarnation.load() {
            Ok(token) => token,
            Err(error) => {
                // Without the token the cluster side could take this device for a copy of itself.
                self.problem(format!("cannot read the incarnation token: {error}"));
                return Event::Failed;
            }
        };
        let held = self.pods.held();
        let request = HelloRequest {
            protocol: PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            capabilities: vec!["logs".to_owned()],
            incarnation,
            desired: held.version,
            set_digest: held.set_digest,
            key_statement: self.standing.statement(),
            rotated: self.standing.membership().rotated,
            node,
        };
        let reply = match self.channel.hello(&request, HELLO_TIMEOUT).await {
            Ok(reply) => reply,
            Err(error) => {
                let event = match &error {
                    RequestError::Refused { refusal, .. } => Event::Refused(refusal.code.clone()),
                    _ => Event::Failed,
                };
                self.failed(&error);
                return event;
            }
        };
        if let Err(error) = self.incarnation.store(&reply.incarnation) {
            // The session is good; after a restart of the agent the next one may be taken for that of a copy.
            tracing::error!(%error, "cannot write down the incarnation token; trying again");
            *token_due = Some(Instant::now() + STORE_TOKEN_AGAIN);
        }
        self.accepted(reply.keys.as_ref());
        self.reported_node.reported(request.node);
        // A new session is a new chance, whatever failed before.
        sync.done();
        if reply.set_digest != held.set_digest {
            sync.soon();
        }
        self.node_settings(reply.node_settings, sync).await;
        self.pods.offer_reports_again();
        let heartbeat = reply.heartbeat_interval_seconds.clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
        tracing::info!(
            session = self.channel.session_id().map(tracing::field::display),
            cluster = reply.cluster_version,
            epoch = reply.owner_epoch.0,
            sync = sync.due.is_some(),
            "the session is open"
        );
        self.view.send_modify(|view| {
            view.since = Some(Timestamp::now());
            view.heartbeat = Duration::from_secs(u64::from(heartbeat));
            view.cluster_version = Some(reply.cluster_version);
            view.problem = None;
        });
        Event::Accepted
    }

    /// The fleet took the device's hello: it is a member. `keys`: what the fleet says of its own.
    fn accepted(&self, keys: Option<&SignedKeyStatement>) {
        if self.standing.membership().revoked.is_some() {
            tracing::info!("this device is a member of the fleet again");
            if let Err(error) = self.standing.update(|membership| membership.revoked = None) {
                tracing::error!(
                    error = causes(&error),
                    "cannot write down that this device is a member again"
                );
            }
        }
        match keys.map(|keys| self.standing.offer(keys)) {
            Some(Ok(Some(fleet))) => {
                tracing::info!(
                    statement = self.standing.statement(),
                    version = fleet.newest().0.0,
                    "the fleet's keys have changed"
                );
                self.channel.set_fleet(fleet);
            }
            Some(Err(error)) => {
                tracing::error!(
                    error = causes(&error),
                    "what the cluster side says of the fleet's keys is refused"
                );
            }
            None | Some(Ok(None)) => {}
        }
    }

    /// Erases the pods of a revoked device; when to try again, if that failed.
    async fn erase(&self) -> Option<Instant> {
        if self.keep_on_revoke {
            tracing::warn!("pods and their secrets stay on this device: keep-on-revoke is set");
            return None;
        }
        match self.pods.erase().await {
            Ok(()) => {
                tracing::warn!("pods are being stopped; desired state and secrets were erased");
                None
            }
            Err(error) => {
                tracing::error!(error = causes(&error), "secrets of pods could not be erased, trying again");
                Some(Instant::now() + ERASE_AGAIN)
            }
        }
    }

    async fn sync(&mut self, sync: &mut SyncPlan) -> Option<Event> {
        let held = self.pods.held();
        let request = SyncRequest { have: held.bundles, desired: held.version };
        sync.trying();
        match self.channel.request::<_, Delta>(UpVerb::Sync, &request, SYNC_TIMEOUT).await {
            Ok(delta) => self.take(delta, sync).await,
            Err(error) => {
                self.failed(&error);
                error.is_unknown_session().then_some(Event::Unknown)
            }
        }
    }

    async fn changed(&mut self, delta: Delta, sync: &mut SyncPlan) {
        let held = self.pods.held();
        match judge(&delta, held.version, held.set_digest) {
            Verdict::Old => tracing::debug!(version = ?delta.version, "an older change was ignored"),
            Verdict::Sync => sync.soon(),
            Verdict::Known => {
                sync.done();
                self.node_settings(delta.node_settings, sync).await;
            }
            Verdict::Apply => {
                // An unknown session shows again with the next heartbeat.
                let _ = self.take(delta, sync).await;
            }
        }
    }

    async fn node_settings(&self, settings: NodeSettings, sync: &mut SyncPlan) {
        if let Err(error) = self.pods.apply_node_settings(settings).await {
            tracing::warn!(error = causes(&error), "cannot keep the Node's settings");
            sync.trying();
        }
    }

    /// Brings the pods to what a delta says.
    async fn take(&mut self, delta: Delta, sync: &mut SyncPlan) -> Option<Event> {
        let (version, expected) = (delta.version, delta.set_digest);
        let (change, errors) = bundles::complete(&self.channel, delta).await;
        let (upserted, removed) = (change.upsert.len(), change.remove.len());
        let applied = self.pods.apply(change).await;
        match &applied {
            Ok(()) => {
                self.channel.metrics().applied();
                tracing::info!(
                    epoch = version.epoch.0,
                    sequence = version.sequence,
                    upserted,
                    removed,
                    "desired pods changed"
                );
            }
            Err(error @ PodsError::Stale { .. }) => {
                tracing::warn!(%error, "the desired state was not taken");
            }
            Err(error) => {
                // Not persisted means not accepted: the digest of the next heartbeat says so, too.
                tracing::error!(error = causes(error), "the desired state was not taken, trying again later");
                self.problem(error.to_string());
            }
        }
        if applied.is_ok() && errors.is_empty() && self.pods.held().set_digest == expected {
            sync.done();
            return None;
        }
        for error in &errors {
            tracing::warn!(error = %causes(error), "a bundle was not taken");
        }
        sync.soon();
        let unknown = errors.iter().filter_map(|error| error.request()).any(RequestError::is_unknown_session);
        unknown.then_some(Event::Unknown)
    }

    fn failed(&self, error: &RequestError) {
        let text = causes(error);
        match error {
            RequestError::Disconnected { .. } => tracing::debug!(error = text),
            _ => self.problem(text),
        }
    }

    /// Logged when it is another one than before.
    fn problem(&self, problem: String) {
        self.view.send_if_modified(|view| {
            let new = view.problem.as_ref() != Some(&problem);
            if new {
                tracing::warn!(problem, "the link to the cluster side");
                view.problem = Some(problem);
            }
            new
        });
    }

    fn show(&self, open: bool, syncing: bool) {
        self.channel.metrics().session(open);
        self.view.send_if_modified(|view| {
            let changed = (view.open, view.syncing) != (open, syncing);
            (view.open, view.syncing) = (open, syncing);
            if !open {
                view.since = None;
            }
            changed
        });
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What to do with a delta that was pushed.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Something newer was applied already.
    Old,
    /// It says what the device holds.
    Known,
    /// It changes something.
    Apply,
    /// It brings nothing, but says that the device holds the wrong set.
    Sync,
}

fn judge(delta: &Delta, held: DesiredVersion, set: Digest) -> Verdict {
    let is_hint = delta.upsert.is_empty() && delta.remove.is_empty();
    match (is_hint, delta.set_digest == set) {
        (true, false) => Verdict::Sync,
        (true, true) if delta.version <= held => Verdict::Known,
        _ if delta.version < held => Verdict::Old,
        _ => Verdict::Apply,
    }
}

/// An error with its causes, in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
#[path = "tests/driver.rs"]
mod tests;
