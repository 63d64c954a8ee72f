//! The device side of Harmony Fleet: runs the pods that the cluster wants on this device, offline first.

pub mod agent;
pub mod enroll;
pub mod images;
pub mod keys;
pub mod link;
pub mod local;
pub mod logs;
pub mod node;
pub mod pods;
pub mod runtime;
pub mod sealing;
pub mod settings;
pub mod store;
pub mod volumes;
