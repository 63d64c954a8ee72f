//! Whom a bearer token names. The token's issuer chooses the verifier, and the verifier fixes the kind: no
//! token of one kind passes as another.
//!
//! | file | verifies |
//! |---|---|
//! | `service_account` | the cluster's tokens, by asking the API server (TokenReview), with a memory |
//! | `verifier` | what is common: the trait, and the choice |
//!
//! Issuers are believed only after the verifier that they chose has checked the signature.

mod service_account;
mod verifier;

pub use self::{
    service_account::{KubeReviews, ReviewError, ServiceAccounts, TokenReviews},
    verifier::{Oidc, OidcVerifier, Tokens, VerifiedToken, VerifyError},
};
