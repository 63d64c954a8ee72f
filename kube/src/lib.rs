//! How processes on the cluster's side talk to the API server.
//!
//! ```text
//! kubeconfig, or the pod's account ─► client ─► Api ─► Watch ─► events, or whole lists ─► whoever keeps them
//!                                                        └─► pauses after failures, readiness
//! ```
//!
//! | module | question it answers |
//! |---|---|
//! | [`client`](mod@client) | how is the API server reached, and as whom? |
//! | [`watch`] | what is there and what changes, for ever; is that known right now? |
//!
//! What is done with the objects is not known here, and nothing of them is kept. The agent of a device has no client
//! of Kubernetes, and does not depend on this crate.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod client;
pub mod watch;

pub use self::{
    client::{ClientError, client},
    watch::{News, Readiness, Watch, WholeLists},
};
