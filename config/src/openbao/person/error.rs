//! Why a person is not logged in, with what to do where a store is set up.

use harmony_login::PersonError;

/// Why a person is not logged in. The text never holds a token.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The settings are for another kind of login.
    #[error(
        "the login {0} is for no person, so there is nothing to confirm; set `auth` (OPENBAO_AUTH) to oidc"
    )]
    NoPerson(&'static str),
    /// Nobody has logged in on this account of the machine.
    #[error("nobody is logged in at the identity provider; log in first")]
    NotLoggedIn,
    /// At the identity provider, or in the login's file.
    #[error("{0}{next}", next = next(.0))]
    Person(PersonError),
}

impl From<PersonError> for ProviderError {
    fn from(error: PersonError) -> Self {
        Self::Person(error)
    }
}

/// What to do with these settings.
fn next(error: &PersonError) -> &'static str {
    match error {
        PersonError::Ended(_) | PersonError::Expired => "; log in again",
        PersonError::Discovery { .. } => "; check `oidc-issuer` (OPENBAO_OIDC_ISSUER)",
        PersonError::Exposed { .. } => ", or remove it and log in again",
        PersonError::Damaged { .. } => "; remove it and log in again",
        _ => "",
    }
}
