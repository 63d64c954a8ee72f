//! The cluster side of Harmony Fleet: many Nodes in one process.
//!
//! ```text
//! Nodes ──► nodes ─┐                        ┌─ hello, sync, heartbeat ◄── device
//! Pods ───► pods ──┼─► bundle ─► devices ───┼─ changed ─────────────────► device
//! refs ───► references                      ├─ status ──► pods/status, nodes/status (as the node)
//! Services ► services                       └─ events ──► Events             (as the node)
//! kube-apiserver ──HTTPS──► kubelet_api ─► devices.open_stream / request ──► device
//!       signer ─ CSR ─► serving_certificate ─┘
//! ```
//!
//! `vk-nats` keeps no state of its own: the API server holds what is wanted and what was last said, a
//! device holds a cache of what is wanted. Both are compared by digests, so a restart disturbs nothing.
//!
//! | module | question it answers |
//! |---|---|
//! | [`settings`] | how is this process set up? |
//! | [`ownership`] | may this process speak for the fleet? |
//! | [`identity`] | how is something read or written as a device's node? |
//! | [`nodes`] | which devices are there, and what do their Nodes say? |
//! | [`pods`], [`services`], [`references`] | what is wanted, and what does it refer to? |
//! | [`bundle`] | what does a device have to know of it? |
//! | [`devices`] | who is connected, and what do we say to each other? |
//! | [`status`], [`events`] | what did the device say, and does the API server have it? |
//! | [`kubelet_api`] | what does the API server want from a device right now? |
//! | [`serving_certificate`] | with which certificate is that served? |
//! | [`packed`] | how is an object kept that is seldom read? |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod bundle;
pub mod devices;
pub mod events;
pub mod identity;
pub mod kubelet_api;
pub mod metrics;
pub mod nodes;
pub mod ownership;
pub mod packed;
pub mod pods;
pub mod references;
pub mod run;
pub mod services;
pub mod serving_certificate;
pub mod settings;
pub mod status;
