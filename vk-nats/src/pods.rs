//! Pods of devices, from one cluster-wide watch that is filtered in memory.
//!
//! A watch for each device would be thousands of connections. Pods of other nodes are remembered only as
//! a hash under their node's name, so that a Node whose pods were seen before it is noticed.

mod store;
mod watch;

pub use store::{Pods, Version};
pub use watch::{PodChange, watch};
