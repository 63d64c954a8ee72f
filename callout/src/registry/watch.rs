//! Follows records and Nodes at the API server. An interruption changes nothing in the index.

use std::collections::{HashMap, HashSet};

use fleet_daemon::health::CheckHandle;
use fleet_kube::{Readiness, Watch};
use fleet_wire::enrollment::{DEVICE_LABEL, RECORD_TYPE, Record, record_name};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::watcher::{Config, Event},
};

use super::Registry;

/// Follows the records for ever. `check` is ready once all were seen, and stays so.
pub async fn watch_records(client: kube::Client, namespace: &str, registry: Registry, check: CheckHandle) {
    let config = Config::default().fields(&format!("type={RECORD_TYPE}"));
    let api = Api::<Secret>::namespaced(client, namespace);
    let mut watch = Watch::new(api, config, "enrollment records", Readiness::Complete(check));
    let mut records = Records { registry, listing: None, complaints: HashMap::new() };
    while let Some(event) = watch.event().await {
        records.take(event);
    }
}

/// Follows the Nodes of devices for ever, their metadata only. `check` as in [`watch_records`].
pub async fn watch_nodes(client: kube::Client, registry: Registry, check: CheckHandle) {
    let config = Config::default().labels(&format!("{DEVICE_LABEL}=true"));
    let api = Api::<PartialObjectMeta<Node>>::all(client);
    let mut watch = Watch::new(api, config, "Nodes", Readiness::Complete(check));
    let mut nodes = Nodes { registry, listing: None };
    while let Some(event) = watch.event().await {
        nodes.take(event);
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
                drop(index);
                self.registry.records_listed();
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
                drop(index);
                self.registry.nodes_listed();
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
