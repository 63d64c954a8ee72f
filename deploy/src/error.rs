//! What goes wrong in a command: a text for people, the next step, and an exit code for scripts.
//!
//! Never contains key material or tokens.

use std::{io, path::PathBuf};

use fleet_wire::{enrollment::RecordError, keys::KeyError, name::NameError};

use crate::login::LoginError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// An argument cannot be used.
    #[error("{what}")]
    Usage {
        /// Which, and why.
        what: String,
        /// What to write instead.
        next: String,
    },
    /// A name is out of its grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What was named does not exist.
    #[error("{what}")]
    NotFound {
        /// What is missing.
        what: String,
        /// Where to look.
        next: String,
    },
    /// It would be wrong to do it, or somebody else was faster.
    #[error("{what}")]
    Refused {
        /// What stands against it.
        what: String,
        /// What to do.
        next: String,
    },
    /// The API server does not let this user.
    #[error("no right to {verb} {resource}{place}: {message}")]
    Forbidden {
        /// The verb that the roles lack.
        verb: &'static str,
        /// The resource.
        resource: &'static str,
        /// ` in namespace …`, or nothing.
        place: String,
        /// The API server's own words.
        message: String,
    },
    /// The API server answered with an error.
    #[error("could not {verb} {resource}{place}: {message}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        resource: &'static str,
        /// ` in namespace …`, or nothing.
        place: String,
        /// The API server's own words.
        message: String,
    },
    /// There was no answer from the API server.
    #[error("the API server does not answer ({verb} {resource}): {source}")]
    Unreachable {
        /// What was tried.
        verb: &'static str,
        /// On what.
        resource: &'static str,
        /// What the client said.
        #[source]
        source: Box<kube::Error>,
    },
    /// There is no usable kubeconfig.
    #[error("no access to a cluster: {0}")]
    Kubeconfig(String),
    /// A file could not be read or written.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// `read`, `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Output could not be written.
    #[error("could not write the output: {0}")]
    Output(#[from] io::Error),
    /// A key is none, or signs something else.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An object of the fleet is damaged.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// `Secret harmony-fleet/…`.
        object: String,
        /// What is wrong; no values.
        reason: String,
    },
    /// It did not happen in time.
    #[error("{what} did not happen within {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// Where to look.
        next: String,
    },
    /// Nobody could be logged in.
    #[error(transparent)]
    Login(LoginError),
    /// Something could not be turned into text.
    #[error("could not render the output: {0}")]
    Render(String),
}

impl FleetError {
    /// A usage error.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), next: next.into() }
    }

    /// Something does not exist.
    pub fn not_found(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), next: next.into() }
    }

    /// Something stands against it.
    pub fn refused(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), next: next.into() }
    }

    /// A record that cannot be read.
    pub fn damaged_record(object: String, error: &RecordError) -> Self {
        Self::Damaged { object, reason: error.to_string() }
    }

    /// The exit code: 1 failed, 2 usage, 3 not found, 4 refused or conflict.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Name(_) => 2,
            Self::NotFound { .. } => 3,
            Self::Refused { .. } => 4,
            _ => 1,
        }
    }

    /// What to do about it.
    pub fn next(&self) -> Option<String> {
        match self {
            Self::Usage { next, .. }
            | Self::NotFound { next, .. }
            | Self::Refused { next, .. }
            | Self::Timeout { next, .. } => Some(next.clone()),
            Self::Name(_) => Some("choose another name".to_owned()),
            Self::Forbidden { verb, resource, place, .. } => Some(format!(
                "ask for a role that allows `{verb}` on `{resource}`{place}; `fleet-viewer`, `fleet-operator` and \
                 `fleet-keeper` of deploy/rbac.yaml have what each command needs"
            )),
            Self::Api { .. } | Self::Unreachable { .. } => {
                Some("try again; `kubectl cluster-info` tells whether the API server is up".to_owned())
            }
            Self::Kubeconfig(_) => {
                Some("name one with --kubeconfig FILE or KUBECONFIG, and --context NAME".to_owned())
            }
            Self::File { .. } | Self::Output(_) | Self::Render(_) | Self::Login(_) => None,
            Self::Key(_) => Some("check that the file belongs to this fleet: `fleet keys show`".to_owned()),
            Self::Damaged { .. } => {
                Some("restore the object from a backup, or delete it and do the step again".to_owned())
            }
        }
    }
}
