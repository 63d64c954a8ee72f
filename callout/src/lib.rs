//! Who may connect to NATS, and how a device becomes a member of the fleet.
//!
//! ```text
//! nats-server ─ sealed request ─► service ─► authorize ── claims ─► login ─► decide ─► claims ─► sealed answer
//!                                                │                    │        ▲
//!                                 limits, audit, │                    │        └─ registry ◄─ records, Nodes
//!                                 metrics ◄──────┘                    └─ tokens ─► oidc, TokenReview
//! ```
//!
//! | module | question it answers |
//! |---|---|
//! | [`claims`] | what does a server ask, and what does it accept as an answer? |
//! | [`login`] | what does the client claim to be? |
//! | [`oidc`] | is a token of an identity provider genuine? |
//! | [`tokens`] | whom does its bearer token name? |
//! | [`registry`] | which devices are there? |
//! | [`decide`] | may it connect, and as whom? |
//! | [`limits`] | did it try too often? |
//! | [`authorize`] | all of it, for one request |
//! | [`service`] | where do requests come from? |
//! | [`explain`] | what may an identity do? |
//! | [`enroller`] | the other binary: who becomes a member, and who is thrown out? |

pub mod audit;
pub mod authorize;
pub mod claims;
pub mod decide;
pub mod enroller;
pub mod explain;
pub mod limits;
pub mod login;
pub mod metrics;
pub mod oidc;
pub mod registry;
pub mod run;
pub mod servers;
pub mod service;
pub mod settings;
pub mod tokens;

#[cfg(test)]
#[path = "tests/fixtures.rs"]
mod fixtures;
