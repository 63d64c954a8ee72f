//! The fleet's own keys: made, rotated, dropped, shown.
//!
//! ```text
//! root key (file of the operator, offline) ── signs ──► statement ──► ConfigMap fleet-info, devices
//!                                                          │ names
//!     Secret fleet-curve-keys (vk-nats) ◄──────────────────┤  every version that is in use
//!     Secret fleet-enroller-keys (enroller) ◄──────────────┘  the newest
//! Secret fleet-nats-auth (callout, enroller): the static logins that the auth callout itself needs
//! ```
//!
//! [`nats`] has the static keys, [`rotation`] the steps in which they are replaced.
//!
//! What is to be is computed by [`plan`]; [`store`] reads and writes it. A private key is in the Secret
//! before a statement names it, and leaves the Secret after the statement stopped naming it: whatever is
//! interrupted in between is put right by the next `fleet keys init`.

pub mod material;
pub mod nats;
pub mod plan;
pub mod rotation;
pub mod store;
pub mod verbs;
