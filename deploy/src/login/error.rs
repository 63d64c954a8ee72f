//! Why nobody is logged in.

use fleet_daemon::{credential::CredentialError, oidc::http::HttpError};
use harmony_login::PersonError;

/// Why a login failed. The text never holds a token.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody has logged in on this account of the machine.
    #[error("nobody is logged in; run `fleet login`")]
    NotLoggedIn,
    /// The settings cannot be used.
    #[error("the login settings cannot be used: {0}")]
    Settings(String),
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] HttpError),
    /// At the identity provider, or in the login's file.
    #[error("{0}{next}", next = next(.0))]
    Person(PersonError),
    /// There is no folder for it.
    #[error("there is no folder for the login: HOME is not set")]
    Folder,
    /// The credential for NATS could not be made.
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

impl From<PersonError> for LoginError {
    fn from(error: PersonError) -> Self {
        Self::Person(error)
    }
}

/// What to do with this command.
fn next(error: &PersonError) -> &'static str {
    match error {
        PersonError::Ended(_) => "; run `fleet login`",
        PersonError::Discovery { .. } => "; check the issuer's URL, and that it can be reached",
        PersonError::Expired | PersonError::Damaged { .. } => "; run `fleet login` again",
        PersonError::Exposed { .. } => ", or `fleet login` again",
        _ => "",
    }
}
