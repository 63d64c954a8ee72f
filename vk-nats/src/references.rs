//! ConfigMaps and Secrets that pods refer to: each watched once, however many devices use it.
//!
//! ```text
//! which ──► what does this pod refer to?            (pure)
//! count ──► who uses it; open, hand over, or close? (pure)
//! follow ─► one watch, or jittered reads, as the node of one of its users
//! ```
//!
//! A watch is opened as the node of one of the referring pods, so the Node authorizer decides whether it
//! may be read at all. When that pod goes and others stay, it is opened again as another's node. Beyond a
//! cap of watches (each is a connection) objects are read now and then instead.

mod count;
mod follow;
mod which;

pub use count::{Action, RefKey, RefState, References, Resolved};
pub use follow::{Arrival, Follower};
pub use which::{Kind, Need, of};
