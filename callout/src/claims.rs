//! NATS JWTs, version 2 (`alg: ed25519-nkey`): reads what a nats-server asks, writes what it accepts.
//!
//! | file | holds |
//! |---|---|
//! | `token` | the envelope: three parts of base64, one signature |
//! | `request` | the server's question: who wants to connect, and what did the client send? |
//! | `grant` | what a user may do, as JSON that is made once for each device |
//! | `answer` | the user's claims, and the answer around them |
//!
//! The official Go library made the vectors in `callout/tests/vectors`. Nothing here decides anything.

mod answer;
mod grant;
mod request;
mod token;

pub use answer::{Issuer, IssuerError};
pub use grant::Grant;
pub use request::{AuthorizationRequest, Client, ConnectOptions, RequestError, Secret, Server};
pub use token::{MAX_TOKEN, TokenError};

#[cfg(test)]
#[path = "claims/tests.rs"]
mod tests;
