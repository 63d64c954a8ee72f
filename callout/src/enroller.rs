//! The enroller: makes devices members of the fleet, and throws them out. The only component that may.
//!
//! ```text
//! NATS fleet.enroll.v1.> ─► requests ─► decide ─┐                      ┌─► Node, Events
//!                                               ├─► registrar ─────────┼─► record (Secret)
//! watches: records, Nodes, CSRs ─► view ────────┘   (converge)         └─► kick ─► $SYS.REQ.SERVER.….KICK
//!                                    └─► certificates (serving, device first)
//! ```
//!
//! | module | question it answers |
//! |---|---|
//! | [`decide`] | may these keys become (or stay) this device? |
//! | [`converge`] | what does a record and its Node still lack? |
//! | [`pkcs10`] | is this certificate request the device's own? |
//! | [`serving`] | is this the serving certificate of a running `vk-nats`? |
//! | [`view`] | which records, Nodes and requests are there? |
//! | [`registrar`] | how is a decision written? |
//! | [`requests`] | who asked, and what is answered? |
//! | [`certificates`] | which certificate requests were approved, or are to be? |
//! | [`kick`] | whose connections have to end? |
//!
//! All work follows from objects: a record without a Node's UID is one to finish, a record whose Node is
//! gone is one to revoke, an approved request is one to enroll. A process that ends anywhere goes on from
//! there at its next start. Two enrollers do not harm each other: each write names the version that it was
//! decided on, or creates a name that must not exist; the one that comes second decides anew.
//!
//! It never reads what devices say to the cluster side: its curve key is another one than the fleet's.

pub mod certificates;
pub mod converge;
pub mod decide;
pub mod kick;
pub mod metrics;
pub mod pkcs10;
pub mod registrar;
pub mod requests;
pub mod run;
pub mod serving;
pub mod settings;
pub mod telling;
pub mod view;
mod watches;
