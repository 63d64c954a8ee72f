//! May a pod be deleted from the API now?

use fleet_wire::message::PodReport;
use k8s_openapi::api::core::v1::Pod;

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It stays.
    Keep,
    /// It goes, once its last status was written.
    Delete,
}

/// A pod goes when somebody asked for it *and* the device has confirmed that nothing of it is left.
pub fn decide(pod: &Pod, report: &PodReport) -> Deletion {
    if report.stopped && pod.metadata.deletion_timestamp.is_some() {
        Deletion::Delete
    } else {
        Deletion::Keep
    }
}

#[cfg(test)]
#[path = "tests/deletion.rs"]
mod tests;
