//! What goes wrong in a command: a text for people, the next step, and an exit code for scripts.
//!
//! The library's texts already say what to do. Never contains a value.

use std::io;

use harmony_config::{
    ConfigError, ModelError, SourceError,
    database::{BackupError, DatabaseError},
    key::BadKey,
    keyring::KeyringError,
    last_known_good::LkgError,
    updates::UpdatesError,
};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument cannot be used.
    #[error("{what}")]
    Usage {
        /// Which, and why.
        what: String,
        /// What to write instead.
        next: String,
    },
    /// What was named does not exist.
    #[error("{what}")]
    NotFound {
        /// What is missing.
        what: String,
        /// Where to look.
        next: String,
    },
    /// It would be wrong to do it, or a check does not hold.
    #[error("{what}")]
    Refused {
        /// What stands against it.
        what: String,
        /// What to do.
        next: String,
    },
    /// A file or stream.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Not a key.
    #[error(transparent)]
    Key(#[from] BadKey),
    /// Not a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The chain of sources. Boxed: errors are returned by value.
    #[error("{0}")]
    Config(Box<ConfigError>),
    /// The keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The last-known-good file.
    #[error(transparent)]
    LastKnownGood(#[from] LkgError),
    /// The last accepted update.
    #[error(transparent)]
    Updates(#[from] UpdatesError),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl Error {
    /// What to do, where the text does not say so itself.
    pub fn next(&self) -> Option<&str> {
        match self {
            Self::Usage { next, .. } | Self::NotFound { next, .. } | Self::Refused { next, .. } => Some(next),
            _ => None,
        }
    }

    /// 1 failed, 2 wrong usage, 3 not found, 4 refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Key(_) => 2,
            Self::NotFound { .. } => 3,
            Self::Refused { .. } | Self::Model(_) => 4,
            Self::Io { .. } | Self::Updates(_) => 1,
            Self::Database(error) => of_database(error),
            Self::Config(error) => of_config(error),
            Self::Keyring(error) => of_keyring(error),
            // Whatever is wrong with it, it is not used.
            Self::LastKnownGood(LkgError::File(_)) => 4,
            Self::LastKnownGood(_) => 1,
        }
    }
}

fn of_database(error: &DatabaseError) -> u8 {
    match error {
        DatabaseError::Service { .. } => 2,
        DatabaseError::Missing { .. }
        | DatabaseError::Forgotten { .. }
        | DatabaseError::Backup(BackupError::Empty { .. } | BackupError::TooEarly { .. }) => 3,
        DatabaseError::Conflict { .. }
        | DatabaseError::TooLarge { .. }
        | DatabaseError::Tampered { .. }
        | DatabaseError::RolledBack { .. }
        | DatabaseError::Headless { .. }
        | DatabaseError::Foreign { .. }
        | DatabaseError::NoFile { .. }
        | DatabaseError::Corrupt { .. }
        | DatabaseError::Audit { .. }
        | DatabaseError::Backup(_) => 4,
        DatabaseError::Keys { source, .. } => of_keyring(source),
        _ => 1,
    }
}

fn of_config(error: &ConfigError) -> u8 {
    match error {
        ConfigError::NoSuchModel { .. } => 3,
        ConfigError::Unfit(_)
        | ConfigError::Import { .. }
        | ConfigError::Model(_)
        | ConfigError::Migration { .. } => 4,
        ConfigError::Several(errors) => errors.iter().map(of_config).max().unwrap_or(1),
        ConfigError::Source { error, .. } => match error {
            SourceError::Unavailable { .. } => 1,
            _ => 4,
        },
        _ => 1,
    }
}

fn of_keyring(error: &KeyringError) -> u8 {
    match error {
        KeyringError::NoVersion { .. }
        | KeyringError::Unopenable { .. }
        | KeyringError::WrongMac
        | KeyringError::Missing { .. }
        | KeyringError::Damaged { .. } => 4,
        _ => 1,
    }
}
