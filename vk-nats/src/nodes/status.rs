//! What has to be written into a Node for its device.
//!
//! Conditions follow the kubelet's rules: `lastHeartbeatTime` moves with every write,
//! `lastTransitionTime` only when `status` changes, and conditions that others own are left alone. Times
//! are the cluster's, never the device's, whose clock may be anywhere.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use fleet_wire::enrollment::{INCARNATION, KEY_VERSION};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{NodeCondition, NodeStatus},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use serde_json::{Map, Value, json};

use super::{DeviceNode, Observed};

/// How often a status is written although nothing changed.
pub const REFRESH_EVERY: Duration = Duration::from_secs(300);
/// Condition that tells of a cloned or restored disk.
pub const IDENTITY_CONFLICT: &str = "IdentityConflict";

/// What the cluster side adds to a device's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Additions {
    /// Where the kubelet API of all Nodes listens.
    pub address: IpAddr,
    /// This Node's port there.
    pub port: u16,
    /// Token to be kept in the Node.
    pub incarnation: Option<String>,
    /// Whether the last hello showed an old token.
    pub identity_conflict: bool,
    /// Version of the fleet's key in the device's session, if it has one.
    pub key_version: Option<String>,
}

/// The strategic merge patch for `nodes/status`, or `None` when the API has all of it already.
///
/// `written` is the report that the API server took last: it normalizes quantities, so that what it shows
/// may look different for ever. `refresh` asks for a patch in any case.
pub fn patch(
    node: &DeviceNode,
    report: &NodeStatus,
    written: Option<&NodeStatus>,
    additions: &Additions,
    now: Timestamp,
    refresh: bool,
) -> Option<Value> {
    let observed = node.observed.get().unwrap_or_default();
    let conditions = conditions(&observed, report, additions, now);
    let labels = labels(report);
    let stale = refresh
        || conditions.iter().any(|condition| !stands(&observed, condition))
        || labels.iter().any(|(key, value)| observed.labels.get(*key) != Some(value))
        || additions.incarnation.is_some() && node.incarnation != additions.incarnation
        || additions.key_version.is_some() && node.key_version != additions.key_version
        || node.published_port != Some(additions.port)
        || !address_stands(&observed, additions)
        || written.map_or_else(|| differs(&observed.status, report), |written| written != report);
    if !stale {
        return None;
    }

    let mut metadata = Map::new();
    if !labels.is_empty() {
        metadata.insert("labels".to_owned(), json!(labels));
    }
    let annotations: BTreeMap<&str, &String> =
        [(INCARNATION, &additions.incarnation), (KEY_VERSION, &additions.key_version)]
            .into_iter()
            .filter_map(|(key, value)| value.as_ref().map(|value| (key, value)))
            .collect();
    if !annotations.is_empty() {
        metadata.insert("annotations".to_owned(), json!(annotations));
    }
    let mut status = Map::new();
    status.insert("conditions".to_owned(), json!(conditions));
    status.insert(
        "addresses".to_owned(),
        json!([
            { "$patch": "replace" },
            { "type": "Hostname", "address": additions.address.to_string() },
        ]),
    );
    status.insert("daemonEndpoints".to_owned(), json!({ "kubeletEndpoint": { "Port": additions.port } }));
    status.insert("capacity".to_owned(), quantities(&observed.status.capacity, &report.capacity));
    status.insert("allocatable".to_owned(), quantities(&observed.status.allocatable, &report.allocatable));
    if let Some(info) = &report.node_info {
        status.insert("nodeInfo".to_owned(), json!(info));
    }
    if let Some(images) = &report.images {
        status.insert("images".to_owned(), json!(images));
    }
    // A Node deleted and made again under the same name is another one.
    metadata.insert("uid".to_owned(), json!(node.uid));
    Some(json!({ "metadata": metadata, "status": status }))
}

fn differs(observed: &NodeStatus, report: &NodeStatus) -> bool {
    observed.capacity != report.capacity
        || observed.allocatable != report.allocatable
        || report.node_info.is_some() && observed.node_info != report.node_info
}

/// Conditions to write: those of the report, `Ready` if the report has none, and our own.
fn conditions(
    node: &Observed,
    report: &NodeStatus,
    additions: &Additions,
    now: Timestamp,
) -> Vec<NodeCondition> {
    // In the order of the report, which is a kubelet's; of a type that stands there twice, the last counts.
    let mut conditions: Vec<NodeCondition> = Vec::new();
    let mut want = |condition: NodeCondition| {
        conditions.retain(|other| other.type_ != condition.type_);
        conditions.push(condition);
    };
    report.conditions.iter().flatten().cloned().for_each(&mut want);
    if report.conditions.iter().flatten().all(|condition| condition.type_ != "Ready") {
        want(NodeCondition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: Some("KubeletReady".to_owned()),
            message: Some("device-kubelet is posting ready status".to_owned()),
            ..NodeCondition::default()
        });
    }
    // Written when it is true, and to take it back: a fleet without clones does not carry it around.
    if additions.identity_conflict || node.condition(IDENTITY_CONFLICT).is_some() {
        want(identity_conflict(additions.identity_conflict));
    }
    let now = Time(now);
    for condition in &mut conditions {
        let observed = node.condition(&condition.type_);
        condition.last_transition_time = match observed {
            Some(observed) if observed.status == condition.status => observed.last_transition_time.clone(),
            _ => None,
        }
        .or_else(|| Some(now.clone()));
        condition.last_heartbeat_time = Some(now.clone());
    }
    // `kubectl describe` shows them in order, and a kubelet has Ready last.
    conditions.sort_by_key(|condition| condition.type_ == "Ready");
    conditions
}

fn identity_conflict(found: bool) -> NodeCondition {
    let (status, reason, message) = if found {
        (
            "True",
            "OldIncarnation",
            "The device said hello with an old incarnation token: its disk was cloned or restored. If \
             another machine runs with the same keys, take it off the network and enroll it anew.",
        )
    } else {
        ("False", "NewestIncarnation", "The device showed the newest incarnation token.")
    };
    NodeCondition {
        type_: IDENTITY_CONFLICT.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    }
}

fn stands(node: &Observed, condition: &NodeCondition) -> bool {
    node.condition(&condition.type_).is_some_and(|observed| {
        observed.status == condition.status
            && observed.reason.as_deref().unwrap_or_default()
                == condition.reason.as_deref().unwrap_or_default()
            && observed.message.as_deref().unwrap_or_default()
                == condition.message.as_deref().unwrap_or_default()
    })
}

fn address_stands(node: &Observed, additions: &Additions) -> bool {
    let addresses = node.status.addresses.as_deref().unwrap_or_default();
    matches!(addresses, [one] if one.type_ == "Hostname" && one.address == additions.address.to_string())
}

/// Labels that a node may set for itself (NodeRestriction), from what the device says it is.
fn labels(report: &NodeStatus) -> BTreeMap<&'static str, String> {
    let mut labels = BTreeMap::new();
    if let Some(info) = &report.node_info {
        for (keys, value) in [
            (["kubernetes.io/arch", "beta.kubernetes.io/arch"], &info.architecture),
            (["kubernetes.io/os", "beta.kubernetes.io/os"], &info.operating_system),
        ] {
            // A label's value is at most 63 of these; the device is not trusted to know.
            let valid = !value.is_empty()
                && value.len() <= 63
                && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if valid {
                labels.extend(keys.map(|key| (key, value.clone())));
            }
        }
    }
    labels
}

/// Quantities as a merge patch: what is no longer reported is taken away.
fn quantities(
    observed: &Option<BTreeMap<String, Quantity>>,
    wanted: &Option<BTreeMap<String, Quantity>>,
) -> Value {
    let mut merged = Map::new();
    for key in observed.iter().flatten().map(|(key, _)| key) {
        merged.insert(key.clone(), Value::Null);
    }
    for (key, quantity) in wanted.iter().flatten() {
        merged.insert(key.clone(), json!(quantity));
    }
    Value::Object(merged)
}

#[cfg(test)]
#[path = "tests/status.rs"]
mod tests;
