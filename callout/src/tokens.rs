//! Whom a bearer token names. The token's issuer chooses the verifier, and the verifier fixes the kind: no
//! token of one kind passes as another.
//!
//! | file | verifies |
//! |---|---|
//! | `service_account` | the cluster's tokens, by asking the API server (TokenReview), with a memory |
//! | `verifier` | chooses: identity providers' tokens go to [`crate::oidc`], others to the API server |
//!
//! Issuers are believed only after the verifier that they chose has checked the signature.

mod service_account;
mod verifier;

pub use self::{
    service_account::{KubeReviews, ReviewError, ServiceAccounts, TokenReviews},
    verifier::{Oidc, OidcVerifier, Tokens},
};
