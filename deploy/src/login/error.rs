//! Why nobody is logged in.

use std::path::PathBuf;

use fleet_daemon::{credential::CredentialError, oidc::http::HttpError};

/// Why a login failed. The text never holds a token.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody has logged in on this account of the machine.
    #[error("nobody is logged in; run `fleet login`")]
    NotLoggedIn,
    /// The session ended and cannot be renewed.
    #[error("the login ended and cannot be renewed ({0}); run `fleet login`")]
    Ended(String),
    /// The settings cannot be used.
    #[error("the login settings cannot be used: {0}")]
    Settings(String),
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] HttpError),
    /// The provider's description of itself could not be had.
    #[error(
        "the identity provider {issuer} cannot be used: {reason}; check the issuer's URL, and that it can be reached"
    )]
    Discovery {
        /// The issuer.
        issuer: String,
        /// What failed.
        reason: String,
    },
    /// The provider has no device flow.
    #[error(
        "the identity provider {issuer} offers no login by a code (device authorization grant, RFC 8628)"
    )]
    NoDeviceFlow {
        /// The issuer.
        issuer: String,
    },
    /// The person said no.
    #[error("the login was denied at the identity provider")]
    Denied,
    /// The person was too slow.
    #[error("the code was not confirmed in time; run `fleet login` again")]
    Expired,
    /// The provider refused, or its answer makes no sense.
    #[error("the identity provider refused: {0}; check that the client is allowed this kind of login")]
    Refused(String),
    /// The ID token is not genuine.
    #[error("the identity provider's ID token cannot be believed: {0}")]
    IdToken(String),
    /// There is no folder for it.
    #[error("there is no folder for the login: HOME is not set")]
    Folder,
    /// The file of the session could not be read or written.
    #[error("the login's file {file}: {source}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The credential for NATS could not be made.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Others may read the file.
    #[error("others may read the login's file {file}; run `chmod 600` on it, or `fleet login` again", file = file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
    },
    /// The file has something else.
    #[error("the login's file {file} cannot be read; run `fleet login` again", file = file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
    },
}
