//! One actor for each device: its session, its desired set, its answers.
//!
//! ```text
//! NATS ─► the device's own subscription, bounded ─► actor ─┬─ hello      session, incarnation
//!                                                          ├─ desired    sync, fetch, changed
//!                                                          ├─ reports    status, events (worked on beside it)
//!                                                          └─ down       requests and streams of the kubelet API
//! ```
//!
//! An actor owns all mutable state of its device and never waits for the API server: that happens in
//! tasks beside it, whose results come back to it to be sealed. [`Devices`] is the handle for everyone
//! else.

mod actor;
mod complaints;
mod courier;
mod desired;
mod directory;
mod down;
mod ear;
mod fleet;
mod incarnation;
mod stream;

#[cfg(test)]
#[path = "devices/tests/bench.rs"]
mod bench;

pub use courier::{Courier, Publisher};
pub use directory::{Context, Settings, run};
pub use down::{Devices, DownError};
pub use ear::{Arrivals, Inbound, QUEUE, Subscriber};
pub use fleet::{Fleet, FleetError, FleetFiles, follow as follow_fleet};
pub use stream::DeviceStream;
