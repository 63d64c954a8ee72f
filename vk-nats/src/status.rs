//! From a device's report to `pods/status`, as the node.
//!
//! ```text
//! report ─► turn (one at a time for each pod, newest wins) ─► plan ─► patch ─► deletion? ─► outcome
//! ```
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
pub use turn::{Turn, Turns};
pub use write::{reconcile, write};
