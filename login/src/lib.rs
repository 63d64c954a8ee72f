//! A person's login at an OpenID provider, by a code that is confirmed in a browser anywhere (RFC 8628).
//!
//! ```text
//! log_in  ─► code, shown to the person ─► polls as the provider says ─► Tokens ─► PrivateFile (0600)
//! refresh ─► Tokens, by the refresh token of those before               ─► PrivateFile
//! ```
//!
//! It owns what is said to the provider, and how the file of a login is kept. What stands in that file, which HTTP
//! client is used and what a person may do is its callers' business: `fleet login`, and people who use a secret store.
//! Tokens never appear in errors, logs or `Debug`.

mod file;
mod provider;
mod secret;
mod token;

pub use file::{PrivateFile, replace};
pub use openidconnect::{HttpRequest, HttpResponse};
pub use provider::{Client, Http, HttpFailure, PersonError, Verification};
pub use secret::Secret;
pub use token::{Tokens, claims, is_fresh, roles};
