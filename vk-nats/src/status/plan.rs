//! What has to be written for a reported pod status.
//!
//! The patch is a strategic merge: conditions are merged by type, so those that others own (readiness
//! gates, `DisruptionTarget`, `PodScheduled`) stay; fields that kubelets own are replaced, and taken away
//! when the device no longer reports them.

use fleet_wire::{
    message::{Refusal, RefusalCode},
    name::PodUid,
};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use serde_json::{Map, Value, json};

/// Conditions that a kubelet writes, and may take away.
const OWN_CONDITIONS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// Fields of the status that a kubelet owns. Absent in a report means: take it away.
const OWN_FIELDS: [&str; 10] = [
    "phase",
    "message",
    "reason",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

/// What to do about a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// The API has it already.
    Nothing,
    /// It must not be written.
    Refuse(Refusal),
    /// Write this.
    Patch(Value),
}

/// Plans the write of `report` over `pod` as the API has it.
///
/// `observed` says whether what is known of the pod is what the API has: only then an equal status need
/// not be written.
pub fn plan(pod: &Pod, uid: &PodUid, report: &PodStatus, observed: bool) -> Plan {
    let empty = PodStatus::default();
    let current = pod.status.as_ref().unwrap_or(&empty);
    if let Some(refusal) = moves_back(current, report) {
        return Plan::Refuse(refusal);
    }
    if observed && stands(current, report) {
        return Plan::Nothing;
    }
    // Kubernetes types serialize without error.
    let mut status = match serde_json::to_value(report) {
        Ok(Value::Object(status)) => status,
        _ => Map::new(),
    };
    // Not a device's to say.
    for foreign in ["nominatedNodeName", "resourceClaimStatuses", "qosClass"] {
        status.remove(foreign);
    }
    for field in OWN_FIELDS {
        status.entry(field).or_insert(Value::Null);
    }
    for list in ["podIPs", "hostIPs"] {
        // Merged by address otherwise: old addresses would stay.
        if let Some(Value::Array(items)) = status.get_mut(list) {
            items.insert(0, json!({ "$patch": "replace" }));
        }
    }
    status.insert("conditions".to_owned(), Value::Array(conditions(current, report)));
    Plan::Patch(json!({ "metadata": { "uid": uid }, "status": status }))
}

/// Whether the report changes what others wait for: the phase, or readiness. Such a change is written at
/// once, everything else at most once a second.
pub fn is_transition(current: Option<&PodStatus>, report: &PodStatus) -> bool {
    let ready = |status: &PodStatus| {
        condition(status, "Ready").map(|condition| condition.status.clone()).unwrap_or_default()
    };
    current.is_none_or(|current| current.phase != report.phase || ready(current) != ready(report))
}

fn conditions(current: &PodStatus, report: &PodStatus) -> Vec<Value> {
    let mut patch: Vec<Value> = report
        .conditions
        .iter()
        .flatten()
        .map(|condition| {
            let mut condition = json!(condition);
            for field in ["reason", "message"] {
                // A merge keeps what is not named: a pod would be ready because its containers are not.
                if condition.get(field).is_none() {
                    condition[field] = Value::Null;
                }
            }
            condition
        })
        .collect();
    for type_ in OWN_CONDITIONS {
        if condition(current, type_).is_some() && condition(report, type_).is_none() {
            patch.push(json!({ "type": type_, "$patch": "delete" }));
        }
    }
    patch
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// A pod that has ended does not come back to life, whatever an old or restored device says.
fn moves_back(current: &PodStatus, report: &PodStatus) -> Option<Refusal> {
    let now = current.phase.as_deref().filter(|phase| matches!(*phase, "Succeeded" | "Failed"))?;
    let wanted = report.phase.as_deref().unwrap_or_default();
    (wanted != now).then(|| {
        Refusal::new(
            RefusalCode::BadRequest,
            format!("the pod has ended as {now}, it cannot become {wanted:?} again"),
        )
    })
}

/// Whether the API has all of the report, and nothing that the report took away.
fn stands(current: &PodStatus, report: &PodStatus) -> bool {
    let some = |text: &Option<String>| text.clone().unwrap_or_default();
    let own = |status: &PodStatus| -> Vec<PodCondition> {
        let mut own: Vec<PodCondition> = status
            .conditions
            .iter()
            .flatten()
            .filter(|found| {
                OWN_CONDITIONS.contains(&found.type_.as_str()) || condition(report, &found.type_).is_some()
            })
            .cloned()
            .collect();
        own.sort_by(|a, b| a.type_.cmp(&b.type_));
        own
    };
    current.phase == report.phase
        && some(&current.message) == some(&report.message)
        && some(&current.reason) == some(&report.reason)
        && current.host_ip == report.host_ip
        && current.host_ips == report.host_ips
        && current.pod_ip == report.pod_ip
        && current.pod_ips == report.pod_ips
        && current.start_time == report.start_time
        && current.observed_generation == report.observed_generation
        && list(&current.container_statuses) == list(&report.container_statuses)
        && list(&current.init_container_statuses) == list(&report.init_container_statuses)
        && list(&current.ephemeral_container_statuses) == list(&report.ephemeral_container_statuses)
        && own(current) == own(report)
}

fn list<T>(items: &Option<Vec<T>>) -> &[T] {
    items.as_deref().unwrap_or_default()
}

#[cfg(test)]
#[path = "tests/plan.rs"]
mod tests;
