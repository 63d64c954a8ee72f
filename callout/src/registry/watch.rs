//! Follows records and Nodes at the API server. An interruption changes nothing in the index.

use std::collections::{HashMap, HashSet};

use fleet_daemon::health::CheckHandle;
use fleet_wire::enrollment::{DEVICE_LABEL, RECORD_TYPE, Record, record_name};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};

use super::Registry;
use crate::api_watch::Pauses;

/// Follows the records for ever. `check` is ready once all were seen, and stays so.
pub async fn watch_records(client: kube::Client, namespace: &str, registry: Registry, check: CheckHandle) {
    let config = watcher::Config::default().fields(&format!("type={RECORD_TYPE}"));
    let stream = watcher(Api::<Secret>::namespaced(client, namespace), config).backoff(Pauses::default());
    let mut stream = std::pin::pin!(stream);
    let mut records = Records { registry, listing: None, complaints: HashMap::new() };
    let mut interruption = Interruption::new("enrollment records");
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let done = matches!(event, Event::InitDone);
                records.take(event);
                interruption.over();
                if done {
                    interruption.listed = true;
                    records.registry.records_listed();
                    check.ready();
                }
            }
            Err(error) => interruption.tell(&error, &check),
        }
    }
}

/// Follows the Nodes of devices for ever, their metadata only. `check` as in [`watch_records`].
pub async fn watch_nodes(client: kube::Client, registry: Registry, check: CheckHandle) {
    let config = watcher::Config::default().labels(&format!("{DEVICE_LABEL}=true"));
    let stream = watcher(Api::<PartialObjectMeta<Node>>::all(client), config).backoff(Pauses::default());
    let mut stream = std::pin::pin!(stream);
    let mut nodes = Nodes { registry, listing: None };
    let mut interruption = Interruption::new("Nodes");
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let done = matches!(event, Event::InitDone);
                nodes.take(event);
                interruption.over();
                if done {
                    interruption.listed = true;
                    nodes.registry.nodes_listed();
                    check.ready();
                }
            }
            Err(error) => interruption.tell(&error, &check),
        }
    }
}

/// One line for an interruption, not for each attempt. Once all was seen readiness is not touched, since
/// devices are admitted from memory.
struct Interruption {
    what: &'static str,
    told: bool,
    listed: bool,
}

impl Interruption {
    fn new(what: &'static str) -> Self {
        Self { what, told: false, listed: false }
    }

    fn tell(&mut self, error: &watcher::Error, check: &CheckHandle) {
        if !self.listed {
            check.not_ready(format!("{} cannot be listed: {error}", self.what));
        } else if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(what = self.what, %error, "the watch is interrupted; going on from memory");
        }
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.told) {
            tracing::info!(what = self.what, "the watch goes on");
        }
    }
}

struct Records {
    registry: Registry,
    /// Names in a list that is not complete yet.
    listing: Option<HashSet<String>>,
    complaints: HashMap<String, String>,
}

impl Records {
    fn take(&mut self, event: Event<Secret>) {
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::InitApply(secret) => {
                if let (Some(listing), Some(name)) = (&mut self.listing, &secret.metadata.name) {
                    listing.insert(name.clone());
                }
                self.apply(&secret);
            }
            Event::InitDone => {
                let present = self.listing.take().unwrap_or_default();
                let mut index = self.registry.update();
                index.retain_records(&present);
                tracing::info!(records = index.records(), "enrollment records are known");
            }
            Event::Apply(secret) => self.apply(&secret),
            Event::Delete(secret) => {
                let name = secret.metadata.name.unwrap_or_default();
                self.complaints.remove(&name);
                self.registry.update().remove_record(&name);
            }
        }
    }

    fn apply(&mut self, secret: &Secret) {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let parsed = match Record::parse(secret) {
            Ok(record) if record_name(&record.enrollment.device) == name => Ok(record),
            Ok(record) => Err(format!("it is that of {}, under another name", record.enrollment.device)),
            Err(error) => Err(error.to_string()),
        };
        match parsed {
            Ok(record) => {
                self.complaints.remove(&name);
                self.registry.update().put_record(record);
            }
            Err(reason) => {
                // What cannot be read admits nobody.
                self.registry.update().remove_record(&name);
                if self.complaints.get(&name) != Some(&reason) {
                    tracing::error!(secret = name, reason, "this enrollment record cannot be used");
                    self.complaints.insert(name, reason);
                }
            }
        }
    }
}

struct Nodes {
    registry: Registry,
    listing: Option<HashSet<String>>,
}

impl Nodes {
    fn take(&mut self, event: Event<PartialObjectMeta<Node>>) {
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::InitApply(node) => {
                if let (Some(listing), Some(name)) = (&mut self.listing, &node.metadata.name) {
                    listing.insert(name.clone());
                }
                self.apply(node);
            }
            Event::InitDone => {
                let present = self.listing.take().unwrap_or_default();
                let mut index = self.registry.update();
                index.retain_nodes(&present);
                tracing::info!(nodes = index.nodes(), "Nodes are known");
            }
            Event::Apply(node) => self.apply(node),
            Event::Delete(node) => {
                if let (Some(name), Some(uid)) = (node.metadata.name, node.metadata.uid) {
                    self.registry.update().remove_node(&name, &uid);
                }
            }
        }
    }

    fn apply(&mut self, node: PartialObjectMeta<Node>) {
        let metadata = node.metadata;
        let (Some(name), Some(uid)) = (metadata.name, metadata.uid) else { return };
        let mut index = self.registry.update();
        // Being deleted is being revoked, whatever finalizers wait for.
        if metadata.deletion_timestamp.is_some() {
            index.remove_node(&name, &uid);
        } else {
            index.put_node(name, uid);
        }
    }
}
