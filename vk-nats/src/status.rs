//! From a device's report to `pods/status`, as the node.
//!
//! ```text
//! report ─► turn (one at a time for each pod, newest wins) ─► plan ─► patch ─► deletion? ─► outcome
//!             └─ not urgent, and too soon after the last ─► waits in its lane; the device is told "later"
//! ```
//!
//! The pace of one pod delays no other: an answer never waits for it. The device is told "taken" when it asks
//! again, since only then is it known that the API server took the status.
//!
//! Level-triggered: while the device is there, the last report is compared with what the API has each time
//! its Lease is renewed, as a kubelet compares every ten seconds.
//!
//! `plan` and `deletion` are pure; `write` is the edge.

mod deletion;
mod plan;
mod turn;
mod write;

pub use deletion::{Deletion, decide};
pub use plan::{Plan, is_transition, plan};
pub use turn::{PACE, Turn, Turns};
pub use write::{Waiting, reconcile, write, write_waiting};
