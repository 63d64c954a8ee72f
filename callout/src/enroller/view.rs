//! Which records and Nodes there are, in memory: what the watches saw and what was written here since.
//!
//! Decisions start from it; what is written is checked once more against the API server. It never writes.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use fleet_wire::{
    enrollment::{
        CURVE_KEY, FINGERPRINT, IDENTITY_KEY, PROVIDER, RECORD_TYPE, Record, RecordState, UNDELETE,
    },
    keys::IdentityKey,
    name::DeviceName,
};
use k8s_openapi::api::core::v1::{Node, Secret};
use tokio::sync::watch;

use super::pkcs10::{Applicant, Verdict};

/// A record as it stands at the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it says.
    pub record: Record,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// Whether an operator asks to take the revocation back.
    pub undelete: bool,
}

impl Held {
    /// Reads a Secret; `None` when it is no record, or a damaged one (with a line in the log).
    pub fn parse(secret: &Secret) -> Option<Self> {
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        if secret.type_.as_deref() != Some(RECORD_TYPE) {
            return None;
        }
        match Record::parse(secret) {
            Ok(record) => Some(Self {
                record,
                version: secret.metadata.resource_version.clone().unwrap_or_default(),
                undelete: secret.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(UNDELETE)),
            }),
            Err(error) => {
                tracing::error!(secret = name, %error, "this enrollment record is damaged; nothing is done with it");
                None
            }
        }
    }
}

/// What matters here of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// `metadata.uid`.
    pub uid: String,
    /// Its deletion was asked for, and something still holds it.
    pub terminating: bool,
    /// Annotation with the identity key.
    pub identity_key: Option<String>,
    /// Annotation with the curve key.
    pub curve_key: Option<String>,
    /// Annotation with the fingerprint of both.
    pub fingerprint: Option<String>,
    /// Whether `spec.providerID` is that of the device of this name.
    pub of_this_fleet: bool,
}

impl From<&Node> for NodeSeen {
    fn from(node: &Node) -> Self {
        let annotation = |key: &str| node.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref());
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            terminating: node.metadata.deletion_timestamp.is_some(),
            identity_key: annotation(IDENTITY_KEY),
            curve_key: annotation(CURVE_KEY),
            fingerprint: annotation(FINGERPRINT),
            of_this_fleet: provider.and_then(|id| id.strip_prefix(PROVIDER)) == Some(name),
        }
    }
}

/// What is known of an identity key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// Whose record names it.
    pub device: DeviceName,
    /// Whether it is that device's key now; otherwise it is dead for ever.
    pub live: bool,
}

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<DeviceName, Held>,
    keys: HashMap<IdentityKey, KeyUse>,
    nodes: HashMap<DeviceName, NodeSeen>,
    applicants: HashMap<String, Applicant>,
}

/// Records and Nodes. Cheap to clone; written by the watches, and by whoever wrote an object.
#[derive(Debug, Clone)]
pub struct View {
    inner: Arc<RwLock<Inner>>,
    /// Records, Nodes.
    synced: watch::Sender<(bool, bool)>,
}

impl Default for View {
    fn default() -> Self {
        Self { inner: Arc::default(), synced: watch::channel((false, false)).0 }
    }
}

impl View {
    /// Waits until records and Nodes were listed completely once.
    pub async fn synced(&self) {
        // The sender lives in `self`.
        let _ = self.synced.subscribe().wait_for(|(records, nodes)| *records && *nodes).await;
    }

    /// Whether they were.
    pub fn is_synced(&self) -> bool {
        let (records, nodes) = *self.synced.borrow();
        records && nodes
    }

    /// The record of a device.
    pub fn record(&self, device: &DeviceName) -> Option<Held> {
        self.read().records.get(device).cloned()
    }

    /// The Node of a device.
    pub fn node(&self, device: &DeviceName) -> Option<NodeSeen> {
        self.read().nodes.get(device).cloned()
    }

    /// What is known of an identity key.
    pub fn key_use(&self, key: &IdentityKey) -> Option<KeyUse> {
        self.read().keys.get(key).cloned()
    }

    /// Whether the device exists: enrolled, with the very Node of its record.
    pub fn is_member(&self, device: &DeviceName) -> bool {
        let inner = self.read();
        inner.records.get(device).is_some_and(|held| {
            inner.nodes.get(device).is_some_and(|node| held.record.admits(&node.uid) && !node.terminating)
        })
    }

    /// Names of all records.
    pub fn devices(&self) -> Vec<DeviceName> {
        self.read().records.keys().cloned().collect()
    }

    /// How many records are enrolled, and how many are revoked.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.read();
        let enrolled =
            inner.records.values().filter(|held| held.record.state == RecordState::Enrolled).count();
        (enrolled, inner.records.len() - enrolled)
    }

    /// Takes a record as it stands now. Older news of it changes nothing: a watch may lag behind a write.
    pub fn note_record(&self, held: Held) {
        let mut inner = self.write();
        let device = held.record.enrollment.device.clone();
        if inner.records.get(&device).is_some_and(|known| older(&held.version, &known.version)) {
            return;
        }
        inner.forget_keys(&device);
        inner.learn_keys(&held.record);
        inner.records.insert(device, held);
    }

    /// A record is gone.
    pub fn drop_record(&self, device: &DeviceName) {
        let mut inner = self.write();
        inner.forget_keys(device);
        inner.records.remove(device);
    }

    /// A complete list of the records.
    pub fn set_records(&self, records: Vec<Held>) {
        {
            let mut inner = self.write();
            inner.keys.clear();
            inner.records.clear();
            for held in records {
                inner.learn_keys(&held.record);
                inner.records.insert(held.record.enrollment.device.clone(), held);
            }
        }
        self.synced.send_modify(|(records, _)| *records = true);
    }

    /// A Node is there.
    pub fn note_node(&self, device: DeviceName, node: NodeSeen) {
        self.write().nodes.insert(device, node);
    }

    /// A Node is gone.
    pub fn drop_node(&self, device: &DeviceName) {
        self.write().nodes.remove(device);
    }

    /// A complete list of the Nodes. Returns the names that were known and are not in it.
    pub fn set_nodes(&self, nodes: HashMap<DeviceName, NodeSeen>) -> HashSet<DeviceName> {
        let gone = {
            let mut inner = self.write();
            let gone = inner.nodes.keys().filter(|name| !nodes.contains_key(*name)).cloned().collect();
            inner.nodes = nodes;
            gone
        };
        self.synced.send_modify(|(_, nodes)| *nodes = true);
        gone
    }

    /// Devices that asked by themselves, by the name of their certificate request.
    pub fn set_applicants(&self, applicants: HashMap<String, Applicant>) {
        self.write().applicants = applicants;
    }

    /// One certificate request, as it is now; `None`: it is gone, or none of ours.
    pub fn note_applicant(&self, name: &str, applicant: Option<Applicant>) {
        let mut inner = self.write();
        match applicant {
            Some(applicant) => {
                inner.applicants.insert(name.to_owned(), applicant);
            }
            None => {
                inner.applicants.remove(name);
            }
        }
    }

    /// Applicants that somebody approved and whose key no record knows.
    pub fn approved_applicants(&self) -> Vec<Applicant> {
        let inner = self.read();
        let approved = |applicant: &&Applicant| {
            applicant.verdict == Verdict::Approved && !inner.keys.contains_key(&applicant.identity_key)
        };
        inner.applicants.values().filter(approved).cloned().collect()
    }

    /// How many applicants wait.
    pub fn waiting_applicants(&self) -> usize {
        self.read().applicants.values().filter(|applicant| applicant.verdict == Verdict::Pending).count()
    }

    /// Whether a certificate request with this key still stands.
    pub fn has_request_of(&self, key: &IdentityKey) -> bool {
        self.read().applicants.values().any(|applicant| applicant.identity_key == *key)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget_keys(&mut self, device: &DeviceName) {
        let Some(held) = self.records.get(device) else { return };
        let record = held.record.clone();
        for key in record.retired.iter().chain([&record.enrollment.identity_key]) {
            if self.keys.get(key).is_some_and(|known| known.device == *device) {
                self.keys.remove(key);
            }
        }
    }

    fn learn_keys(&mut self, record: &Record) {
        let device = &record.enrollment.device;
        for key in &record.retired {
            self.keys.insert(key.clone(), KeyUse { device: device.clone(), live: false });
        }
        let live = record.state == RecordState::Enrolled;
        self.keys.insert(record.enrollment.identity_key.clone(), KeyUse { device: device.clone(), live });
    }
}

/// Whether `version` came before `known`. Resource versions of one kind are numbers that grow (said so since
/// Kubernetes 1.35, and true of every version before); what is none is never called older.
fn older(version: &str, known: &str) -> bool {
    match (version.parse::<u64>(), known.parse::<u64>()) {
        (Ok(version), Ok(known)) => version < known,
        _ => false,
    }
}

#[cfg(test)]
#[path = "tests/view.rs"]
mod tests;
