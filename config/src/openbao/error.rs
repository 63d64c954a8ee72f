//! Why the store was not used, and what to do about it. No text holds a token, a password or a value.

use std::path::PathBuf;

use super::settings::OpenBaoSettings;
use crate::{key::FieldPath, source::SourceError};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A variable cannot be used.
    #[error("the variable {name} cannot be used: {why}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong, never its value.
        why: &'static str,
    },
    /// The file of the settings cannot be used.
    #[error("the file {file} cannot be used: {why}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nothing says which server.
    #[error("no server is named. Set{}", OpenBaoSettings::ways(&["url"]))]
    NoServer,
    /// Nothing says how to log in.
    #[error("nothing says how to log in. These can be set:{}", OpenBaoSettings::ways(&[]))]
    NoLogin,
    /// A login lacks something.
    #[error("the login {method} lacks something. Set{}", OpenBaoSettings::ways(missing))]
    Incomplete {
        /// The login method.
        method: &'static str,
        /// The settings, one of which is missing.
        missing: &'static [&'static str],
    },
    /// A setting has a form that cannot be used.
    #[error("the setting {name} cannot be used: {why}")]
    Value {
        /// Its key in the file.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenBaoError {
    /// No connection, no TLS, or the answer broke off.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {seconds} s{}", if *.writing { ", so it may have been written or not: read it again" } else { "" })]
    TimedOut {
        /// Seconds.
        seconds: f32,
        /// Whether a write was under way.
        writing: bool,
    },
    /// It was away a moment ago, and is not asked again yet.
    #[error("it did not answer a moment ago, and is asked again soon")]
    Resting,
    /// It waits for its unseal keys.
    #[error("it is sealed")]
    Sealed,
    /// It answers with an error of its own.
    #[error("it answers HTTP {status}: {said}")]
    Failing {
        /// HTTP status.
        status: u16,
        /// Its words, shortened.
        said: String,
    },
    /// It sends elsewhere.
    #[error("it redirects to {to}, which is not followed: the token is for this server only")]
    Redirected {
        /// The other server.
        to: String,
    },
    /// The token is good, and may not do that.
    #[error("the login {method} may not do that: {said}")]
    Denied {
        /// How we are logged in.
        method: &'static str,
        /// Its words, shortened.
        said: String,
    },
    /// It refuses the login.
    #[error("the login {method} at {mount} is refused: {said}")]
    LoginRefused {
        /// How we tried to log in.
        method: &'static str,
        /// Where.
        mount: String,
        /// Its words, shortened.
        said: String,
    },
    /// What is needed for a login cannot be had.
    #[error("the login {method} cannot be tried: {why}")]
    NoCredential {
        /// How we tried to log in.
        method: &'static str,
        /// What is missing.
        why: String,
    },
    /// There is no key-value engine of version 2.
    #[error("there is no key-value engine of version 2 at {mount}: {said}")]
    NoMount {
        /// The mount.
        mount: String,
        /// Its words.
        said: String,
    },
    /// A namespace is set, and this server has none.
    #[error("the setting `namespace` is for OpenBao only, and this is {product}, which has no namespaces")]
    NoNamespaces {
        /// What it says that it is.
        product: String,
    },
    /// The answer is none of a store.
    #[error("the answer makes no sense: {0}")]
    Malformed(String),
    /// Somebody else wrote in between.
    #[error("somebody else wrote in between")]
    Conflict {
        /// What the change replaces.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// More than it takes.
    #[error("{size} bytes are too large")]
    TooLarge {
        /// Bytes.
        size: usize,
        /// Bytes.
        limit: usize,
    },
    /// The store would change a number.
    #[error("the number at {0} lies beyond 2^53, where stores round numbers")]
    Number(FieldPath),
    /// The metadata cannot be kept.
    #[error("the metadata cannot be kept: {0}")]
    Metadata(String),
}

impl OpenBaoError {
    /// Whether the same call may do better a moment later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_))
            || matches!(self, Self::Failing { status, .. } if *status == 429 || *status >= 500)
    }

    /// What to look at.
    fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::TimedOut { .. } | Self::Resting | Self::Failing { .. } => {
                "Check the setting `url` (OPENBAO_URL), the network and the server"
            }
            Self::Sealed => "Unseal it: `bao operator unseal`",
            Self::Redirected { .. } => {
                "Set `url` (OPENBAO_URL) to the server that it names, if that one is yours"
            }
            Self::Denied { .. } => {
                "Check the policies of the login against docs/src/configuration/openbao.md"
            }
            Self::LoginRefused { .. } => "Check the login's settings, and `auth-mount` (OPENBAO_AUTH_MOUNT)",
            Self::NoCredential { .. } => "Log in again, or set another login",
            Self::NoMount { .. } => {
                "Check the setting `kv-mount` (OPENBAO_KV_MOUNT), or enable it: `bao secrets enable -path=… -version=2 kv`"
            }
            Self::NoNamespaces { .. } => {
                "Remove the setting `namespace` (OPENBAO_NAMESPACE, VAULT_NAMESPACE)"
            }
            Self::Malformed(_) => "Look at it with `bao kv get`, and check that `url` is a store",
            Self::Conflict { .. } => "Read it again and repeat the change",
            Self::Number(_) => "Keep it as a text",
            Self::TooLarge { .. } | Self::Metadata(_) => "Keep large things elsewhere and their path here",
        }
    }

    /// As a source says it.
    pub(super) fn into_source(self, place: String) -> SourceError {
        let (why, hint) = (self.to_string(), self.hint().to_owned());
        let name = super::NAME.to_owned();
        match self {
            Self::Denied { .. } | Self::LoginRefused { .. } | Self::NoCredential { .. } => {
                SourceError::Denied { name, place, why, hint }
            }
            Self::Malformed(_) | Self::Metadata(_) | Self::Number(_) => {
                SourceError::Malformed { place, why, hint }
            }
            Self::Conflict { expected, found } => SourceError::Conflict { place, expected, found },
            Self::TooLarge { size, limit } => SourceError::TooLarge { place, size, limit },
            _ => SourceError::Unavailable { name: place, why, hint },
        }
    }
}

/// A stranger's text for a line of a log: one line, not long.
pub(super) fn shortened(text: &str) -> String {
    const MAX: usize = 240;
    let mut short: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.trim().to_owned()
}

/// Down to the cause: reqwest's own text is `error sending request`.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    shortened(&text)
}
