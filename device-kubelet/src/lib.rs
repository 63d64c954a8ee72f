//! The device side of Harmony Fleet: runs the pods that the cluster wants on this device, offline first.

pub mod pods;
pub mod runtime;
