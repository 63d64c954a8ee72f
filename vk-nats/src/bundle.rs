//! From a pod and what it refers to, to the bytes that a device gets.
//!
//! ```text
//! pod ─► references::of ─► resolved? ─► service_env (once) ─► build ─► bytes + digest ─► DesiredSet
//! ```
//!
//! `build` and `service_env` are pure; `assembly` is the task that joins the watches and publishes each
//! device's [`DesiredSet`].

mod assembly;
mod build;
mod service_env;
mod set;

pub use assembly::{Assembly, Inputs};
pub use build::{BuildError, Built, build};
pub use service_env::service_env;
pub use set::{DesiredSet, DesiredSets, SetReceiver};
