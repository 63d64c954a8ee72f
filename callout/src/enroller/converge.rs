//! What a record and its Node still lack: the next step, from what stands at the API server. Pure.
//!
//! ```text
//!           (no UID)              (Node as recorded)
//! claimed ───────────► CreateNode/Adopt ─► enrolled ─► Annotate, when the Node's copy of the keys differs
//!    ▲                                        │ Node gone, or another one of its name
//!    └──────────── Undelete ◄── revoked ◄── Revoke
//!                                  └─ after the retention ─► Forget
//! ```

use std::time::Duration;

use fleet_wire::{
    enrollment::{Record, RecordState},
    keys::fingerprint,
};
use k8s_openapi::jiff::Timestamp;

use super::{
    decide::is_node_of,
    view::{Held, NodeSeen},
};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Settled,
    /// The Node has to be created.
    CreateNode,
    /// The Node was created for this record, which has to name its UID.
    Adopt(String),
    /// Something else has the name, or the Node is being deleted: nothing can be done now.
    Blocked,
    /// The Node's copy of the keys has to follow the record.
    Annotate,
    /// The Node is gone: the device is no member any more.
    Revoke,
    /// An operator takes the revocation back.
    Undelete,
    /// The record was kept long enough.
    Forget,
}

/// The next step.
pub fn next(held: &Held, node: Option<&NodeSeen>, now: Timestamp, retention: Duration) -> Step {
    let record = &held.record;
    match record.state {
        // A Node that never was cannot have been deleted.
        RecordState::Enrolled if record.node_uid.is_empty() => match node {
            None => Step::CreateNode,
            Some(node) if is_node_of(node, &record.enrollment.identity_key) => Step::Adopt(node.uid.clone()),
            Some(_) => Step::Blocked,
        },
        RecordState::Enrolled => {
            match node {
                Some(node) if node.uid == record.node_uid && !node.terminating => {
                    if shows_keys_of(node, record) { Step::Settled } else { Step::Annotate }
                }
                _ => Step::Revoke,
            }
        }
        RecordState::Revoked(at) => {
            let kept = now.duration_since(at).unsigned_abs();
            match (kept > retention && now > at, held.undelete) {
                (true, _) => Step::Forget,
                (false, true) => Step::Undelete,
                (false, false) => Step::Settled,
            }
        }
    }
}

fn shows_keys_of(node: &NodeSeen, Record { enrollment, .. }: &Record) -> bool {
    node.identity_key.as_deref() == Some(enrollment.identity_key.as_str())
        && node.curve_key.as_deref() == Some(enrollment.curve_key.as_str())
        && node.fingerprint.as_deref()
            == Some(fingerprint(&enrollment.identity_key, &enrollment.curve_key).as_str())
}

#[cfg(test)]
#[path = "tests/converge.rs"]
mod tests;
