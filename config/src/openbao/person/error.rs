//! Why a person is not logged in, with what to do where a store is set up.

use std::path::Path;

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
    #[error("{}", said(.0))]
    Person(PersonError),
}

impl From<PersonError> for ProviderError {
    fn from(error: PersonError) -> Self {
        Self::Person(error)
    }
}

/// With what to do with these settings.
fn said(error: &PersonError) -> String {
    match error {
        PersonError::Ended(why) => {
            format!("the login at the identity provider ended and cannot be renewed ({why}); log in again")
        }
        PersonError::Discovery { .. } => format!("{error}; check `oidc-issuer` (OPENBAO_OIDC_ISSUER)"),
        PersonError::Expired => format!("{error}; log in again"),
        PersonError::File { file, source } => unusable(file, &source.to_string()),
        PersonError::Exposed { file } => {
            unusable(file, "others may read it; run `chmod 600` on it, or log in again after removing it")
        }
        PersonError::Damaged { file } => unusable(file, "it is damaged; remove it and log in again"),
        _ => error.to_string(),
    }
}

fn unusable(file: &Path, why: &str) -> String {
    format!("the login's file {} cannot be used: {why}", file.display())
}
