//! Pods of devices, from one cluster-wide watch.

mod store;

pub use store::Pods;
