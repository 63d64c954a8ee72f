//! What every long-running process of the fleet does alike.
//!
//! | module | question it answers |
//! |---|---|
//! | [`settings`] | which value has this setting, and who said so wrongly? |
//! | [`telemetry`] | where do log lines go? |
//! | [`credential`] | who connects, and how is that proved? |
//! | [`nats`] | how does the process reach NATS, and is it connected right now? |
//! | [`oidc`] (feature) | which token shows that a machine is who it says? |
//! | [`health`] | is it alive, is it ready, what does it count? |
//! | [`shutdown`] | when does it end, and what must have ended before? |
//!
//! A `main` uses them in this order: settings, telemetry, [`nats::install_crypto_provider`], then [`shutdown::live`] with
//! what builds and starts the tasks. The crate knows nothing of pods or Kubernetes, and it is linked into the agent of
//! small machines: each dependency has to earn its place.

pub mod credential;
pub mod health;
pub mod nats;
#[cfg(feature = "oidc")]
pub mod oidc;
pub mod settings;
pub mod shutdown;
pub mod telemetry;

pub use nats::install_crypto_provider;
