//! Why there is no token.

use std::path::PathBuf;

use super::http::HttpError;

/// Why a machine got no token. The text never holds a secret, whatever the provider answers.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The settings contradict themselves.
    #[error("the token settings cannot be used: {0}")]
    Settings(String),
    /// The file with the machine's key cannot be used.
    #[error(
        "the key file {file} cannot be used: {reason}; expected the JSON file that Zitadel gives for a \
         service user's key, with `userId`, `keyId` and `key`", file = file.display()
    )]
    KeyFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with the client's secret cannot be used.
    #[error("the client secret file {file} cannot be used: {reason}", file = file.display())]
    SecretFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The provider could not be asked.
    #[error("no token from the identity provider: {0}")]
    Http(#[from] HttpError),
    /// The whole took too long.
    #[error("no token from the identity provider {issuer} within {seconds} s; trying again later")]
    TimedOut {
        /// The issuer.
        issuer: String,
        /// How long it had, in seconds.
        seconds: u64,
    },
    /// What came is not what the protocol says.
    #[error("the answer of {endpoint} is none of an identity provider: {reason}; check the setting `issuer`")]
    Answer {
        /// The URL.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The provider says no.
    #[error("the identity provider refused a token at {endpoint} (HTTP {status}): {said}; {hint}")]
    Refused {
        /// The URL.
        endpoint: String,
        /// The HTTP status.
        status: u16,
        /// `error` and `error_description` of the answer, without control characters and shortened.
        said: String,
        /// What to look at.
        hint: &'static str,
    },
}
