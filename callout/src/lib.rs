//! Who may connect to NATS, and how a device becomes a member of the fleet.

pub mod oidc;
