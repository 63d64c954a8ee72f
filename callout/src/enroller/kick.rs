//! Ends connections of devices that are members no more, and those made with keys that were replaced.
//!
//! nats-server calls the user of a connection that the callout let in by the name in the user's JWT
//! (`device:<name>`): CONNZ shows it as `authorized_user` and filters by it, over all servers of a cluster.
//! KICK takes the number of a connection, at the server that has it. An authorization may race the
//! deletion, so it is swept until nothing was found twice, and not before the time that an authorization
//! may take is over. Now and then, and at the start, all connections are compared with the records: a kick
//! that a crash forgot is made up for there.

mod connz;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fleet_daemon::shutdown::Shutdown;
use fleet_wire::{name::DeviceName, permissions::Identity};
use futures::StreamExt as _;
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use super::{metrics::Metrics, view::View};
use connz::{Connection, Page};

/// Account of devices and the cluster side.
pub const ACCOUNT: &str = "FLEET";
/// How long after a deletion the first sweep waits: the cluster side tells the device first, over the very
/// connection.
const COURTESY: Duration = Duration::from_secs(1);
/// How long after a deletion a connection may still come that was authorized before: nats-server gives an
/// authorization 2 s (3 s with TLS).
const RACE: Duration = Duration::from_millis(3200);
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// How long an order stands when no server answers. After that the comparison finds what is left.
const GIVE_UP: Duration = Duration::from_secs(300);
/// How long servers may take to answer.
const ANSWERS: Duration = Duration::from_millis(400);
/// All connections are compared with the records so often.
const COMPARE_EVERY: Duration = Duration::from_secs(300);
/// A connection that looks wrong may be newer than what the watches saw: it is looked at again.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// Beyond so many devices, all connections are listed at once.
const SINGLY: usize = 16;
/// Kicks that wait for their answer at a time.
const AT_A_TIME: usize = 32;
/// Connections in one answer of a server.
const PAGE: usize = 1024;

/// Whose connections have to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kick {
    device: DeviceName,
    /// Since when.
    from: Instant,
    /// Only connections that began before this; `None`: all.
    before: Option<Instant>,
}

impl Kick {
    /// All of a device that was revoked at `at`.
    pub fn all(device: DeviceName, at: Instant) -> Self {
        Self { device, from: at, before: None }
    }

    /// Those of a device that began before its keys were replaced at `at`. An old key may have been let in a
    /// moment later by a callout that had not heard of it: a second counts as before.
    pub fn made_before(device: DeviceName, at: Instant) -> Self {
        Self { device, from: at, before: Some(at + Duration::from_secs(1)) }
    }
}

/// The orders that stand.
#[derive(Debug, Default)]
struct Orders(HashMap<DeviceName, Order>);

#[derive(Debug)]
struct Order {
    from: Instant,
    before: Option<Instant>,
    /// Sweeps in a row that found nothing.
    quiet: u8,
}

impl Orders {
    /// Of two orders for a device the one that ends more stands.
    fn add(&mut self, kick: Kick) {
        let order =
            self.0.entry(kick.device).or_insert(Order { from: kick.from, before: kick.before, quiet: 0 });
        order.from = order.from.max(kick.from);
        order.before = match (order.before, kick.before) {
            (Some(one), Some(other)) => Some(one.max(other)),
            _ => None,
        };
        order.quiet = 0;
    }

    fn due(&self, now: Instant) -> Vec<DeviceName> {
        let due = |order: &Order| now >= order.from + COURTESY;
        self.0.iter().filter(|(_, order)| due(order)).map(|(device, _)| device.clone()).collect()
    }

    /// Whether an order wants this connection ended.
    fn wants(&self, connection: &Connection, now: Instant) -> bool {
        let Some(order) = connection.device.as_ref().and_then(|device| self.0.get(device)) else {
            return false;
        };
        match order.before {
            None => true,
            Some(before) => {
                connection.age.is_none_or(|age| now.checked_sub(age).is_none_or(|began| began < before))
            }
        }
    }

    /// A sweep of `due` is over; these of them were found. Without an answer nothing is known.
    fn swept(&mut self, due: &[DeviceName], found: &[DeviceName], answered: bool, now: Instant) {
        for device in due {
            let Some(order) = self.0.get_mut(device) else { continue };
            order.quiet = match (answered, found.contains(device)) {
                (true, false) => order.quiet.saturating_add(1),
                _ => 0,
            };
            let over = order.quiet >= 2 && now >= order.from + RACE;
            if over || now >= order.from + GIVE_UP {
                if !over {
                    tracing::error!(%device, "its connections could not be ended: no NATS server answers the kicker");
                }
                self.0.remove(device);
            }
        }
    }
}

/// Ends connections until the shutdown.
#[derive(Debug)]
pub struct Kicker {
    client: async_nats::Client,
    view: View,
    metrics: Arc<Metrics>,
    orders: Orders,
}

/// What servers answered.
#[derive(Debug, Default)]
struct Sighting {
    connections: Vec<Connection>,
    answered: bool,
}

impl Kicker {
    /// With a client in the system account.
    pub fn new(client: async_nats::Client, view: View, metrics: Arc<Metrics>) -> Self {
        Self { client, view, metrics, orders: Orders::default() }
    }

    /// Follows orders.
    pub async fn run(mut self, mut kicks: mpsc::UnboundedReceiver<Kick>, shutdown: Shutdown) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut compared: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                kick = kicks.recv() => match kick {
                    Some(kick) => self.orders.add(kick),
                    None => return,
                },
                _ = sweep.tick() => {
                    self.sweep().await;
                    let due = compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY);
                    if due && self.view.is_synced() && self.orders.0.is_empty() && self.compare().await {
                        compared = Some(Instant::now());
                    }
                }
            }
        }
    }

    async fn sweep(&mut self) {
        let due = self.orders.due(Instant::now());
        if due.is_empty() {
            return;
        }
        let mut seen = Sighting::default();
        if due.len() > SINGLY {
            seen = self.look(None).await;
        } else {
            seen.answered = true;
            let looks = due.iter().map(|device| self.look(Some(device)));
            for one in futures::future::join_all(looks).await {
                seen.answered &= one.answered;
                seen.connections.extend(one.connections);
            }
        }
        let now = Instant::now();
        seen.connections.retain(|connection| self.orders.wants(connection, now));
        let found: Vec<DeviceName> =
            seen.connections.iter().filter_map(|connection| connection.device.clone()).collect();
        self.kick_all(&seen.connections).await;
        self.orders.swept(&due, &found, seen.answered, now);
    }

    /// Ends connections of devices that are none. Whether it could be done.
    async fn compare(&mut self) -> bool {
        let first = self.look(None).await;
        let stranger = |connection: &&Connection| {
            connection.device.as_ref().is_some_and(|device| !self.view.is_member(device))
        };
        let suspects: Vec<Connection> = first.connections.iter().filter(stranger).cloned().collect();
        if !suspects.is_empty() {
            tokio::time::sleep(SECOND_LOOK).await;
            let strangers: Vec<Connection> = suspects.iter().filter(stranger).cloned().collect();
            self.kick_all(&strangers).await;
        }
        first.answered
    }

    /// Connections of a device, or of all, at all servers.
    async fn look(&self, device: Option<&DeviceName>) -> Sighting {
        let mut query = json!({ "auth": true, "acc": ACCOUNT, "limit": PAGE });
        if let Some(device) = device {
            query["user"] = Identity::Device(device.clone()).to_string().into();
        }
        let mut seen = Sighting::default();
        let mut more = Vec::new();
        for page in self.pages("$SYS.REQ.SERVER.PING.CONNZ", &query).await {
            seen.answered = true;
            if page.is_full(PAGE) {
                more.push(page.server.clone());
            }
            seen.connections.extend(page.connections);
        }
        for server in more {
            let mut offset = PAGE;
            loop {
                query["offset"] = offset.into();
                let subject = format!("$SYS.REQ.SERVER.{server}.CONNZ");
                let Some(page) = self.pages(&subject, &query).await.pop() else {
                    seen.answered = false;
                    break;
                };
                let full = page.is_full(PAGE);
                seen.connections.extend(page.connections);
                if !full {
                    break;
                }
                offset += PAGE;
            }
        }
        seen
    }

    /// One question, and the answers that come in time. How many servers there are nobody says.
    async fn pages(&self, subject: &str, query: &serde_json::Value) -> Vec<Page> {
        let inbox = self.client.new_inbox();
        let Ok(mut answers) = self.client.subscribe(inbox.clone()).await else { return Vec::new() };
        let asked = self.client.publish_with_reply(subject.to_owned(), inbox, Bytes::from(query.to_string()));
        if asked.await.is_err() {
            return Vec::new();
        }
        let single = !subject.contains(".PING.");
        let until = Instant::now() + ANSWERS;
        let mut pages = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout_at(until, answers.next()).await {
            match Page::read(&answer.payload) {
                Ok(page) => pages.push(page),
                Err(error) => tracing::warn!(%error, "a NATS server's list of connections cannot be used"),
            }
            if single {
                break;
            }
        }
        pages
    }

    async fn kick_all(&self, connections: &[Connection]) {
        futures::stream::iter(connections)
            .for_each_concurrent(AT_A_TIME, |connection| self.kick(connection))
            .await;
    }

    async fn kick(&self, connection: &Connection) {
        let Connection { server, id, device, address, .. } = connection;
        let subject = format!("$SYS.REQ.SERVER.{server}.KICK");
        let request = self.client.request(subject, Bytes::from(json!({ "cid": id }).to_string()));
        let device = device.as_ref().map(ToString::to_string).unwrap_or_default();
        match tokio::time::timeout(Duration::from_secs(2), request).await {
            // What the server says is about a connection that may be gone already: the next sweep sees it.
            Ok(Ok(_)) => {
                self.metrics.kicks.inc();
                tracing::info!(target: "audit", event = "kicked", device, connection = id, server, address, "connection ended");
            }
            Ok(Err(error)) => tracing::warn!(device, connection = id, server, %error, "not kicked"),
            Err(_) => {
                tracing::warn!(device, connection = id, server, "not kicked: the NATS server did not answer")
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/kick.rs"]
mod tests;
