//! The cluster side of Harmony Fleet: many Nodes in one process.
//!
//! ```text
//! Nodes ──► nodes ─┐                        ┌─ hello, sync, heartbeat ◄── device
//! Pods ───► pods ──┼─► bundle ─► devices ───┼─ changed ─────────────────► device
//! refs ───► references                      ├─ status ──► pods/status, nodes/status (as the node)
//! Services ► services                       └─ events ──► Events             (as the node)
//! kube-apiserver ──HTTPS──► kubelet_api ─► devices.open_stream / request ──► device
//! ```
//!
//! `vk-nats` keeps no state of its own: the API server holds what is wanted and what was last said, a
//! device holds a cache of what is wanted. Both are compared by digests, so a restart disturbs nothing.

pub mod devices;
pub mod nodes;
pub mod pods;
