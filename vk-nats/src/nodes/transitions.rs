//! What a kubelet records as Events of its Node when something of it changes. Pure.
//!
//! The API's Node is compared with what the device reports, so that a device that comes back after the node
//! controller gave it up says so, and a restart of this process says nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::NodeStatus;
use tokio::time::Instant;

use super::DeviceNode;

/// The watch may lag behind an own write by so much: what is found again within it was told already.
const SETTLES: Duration = Duration::from_secs(10);

/// Something to be told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// An Event of type `Warning`.
    pub warning: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl Transition {
    /// A kubelet's words for a Node's state.
    fn now(node: &DeviceNode, reason: &'static str) -> Self {
        let message = format!("Node {} status is now: {reason}", node.device);
        Self { warning: false, reason, message }
    }

    /// The Node was cordoned, or is not any more.
    pub fn schedulable(node: &DeviceNode) -> Self {
        Self::now(node, if node.unschedulable { "NodeNotSchedulable" } else { "NodeSchedulable" })
    }
}

/// What changes with this report.
pub fn transitions(node: &DeviceNode, report: &NodeStatus) -> Vec<Transition> {
    let mut all = Vec::new();
    let observed = node.observed.get().unwrap_or_default();
    let booted = |status: &NodeStatus| {
        status.node_info.as_ref().map(|info| info.boot_id.clone()).filter(|id| !id.is_empty())
    };
    if let (Some(before), Some(boot_id)) = (booted(&observed.status), booted(report))
        && before != boot_id
    {
        let message = format!("Node {} has been rebooted, boot id: {boot_id}", node.device);
        all.push(Transition { warning: true, reason: "Rebooted", message });
    }
    for condition in report.conditions.iter().flatten() {
        let before = observed.condition(&condition.type_).map(|observed| observed.status.as_str());
        let reason = match (condition.type_.as_str(), condition.status == "True") {
            _ if before == Some(&condition.status) => continue,
            ("MemoryPressure", true) => "NodeHasInsufficientMemory",
            ("MemoryPressure", false) => "NodeHasSufficientMemory",
            ("DiskPressure", true) => "NodeHasDiskPressure",
            ("DiskPressure", false) => "NodeHasNoDiskPressure",
            ("PIDPressure", true) => "NodeHasInsufficientPID",
            ("PIDPressure", false) => "NodeHasSufficientPID",
            ("Ready", true) => "NodeReady",
            ("Ready", false) => "NodeNotReady",
            _ => continue,
        };
        all.push(Transition::now(node, reason));
    }
    all
}

/// What was told lately.
#[derive(Debug, Default)]
pub struct Told(Vec<(&'static str, Instant)>);

impl Told {
    /// Those that are news; they count as told.
    pub fn news(&mut self, found: Vec<Transition>, now: Instant) -> Vec<Transition> {
        self.0.retain(|(_, at)| now.saturating_duration_since(*at) < SETTLES);
        let news: Vec<Transition> = found
            .into_iter()
            .filter(|transition| self.0.iter().all(|(reason, _)| *reason != transition.reason))
            .collect();
        self.0.extend(news.iter().map(|transition| (transition.reason, now)));
        news
    }
}

#[cfg(test)]
#[path = "tests/transitions.rs"]
mod tests;
