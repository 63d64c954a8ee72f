//! How the database fails, and what a person does then.

use std::{io, path::PathBuf, time::Duration};

use super::backup::BackupError;
use crate::{key::Key, keyring::KeyringError, source::SourceError};

/// Why the database gave or kept nothing. Never shows a value.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Somebody else writes, or keeps the file locked.
    #[error(
        "the database {path} was locked by another process for {waited:?}. Look for it with `fuser -v {path}`; nothing \
         was written"
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// For how long this process waited.
        waited: Duration,
    },
    /// It is no database any more.
    #[error(
        "the database {path} is damaged: {why}. Nothing of it is used. Move it aside and restore a backup with \
         `harmony-config restore`, or start with an empty one"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        why: String,
    },
    /// Something else than a file.
    #[error(
        "{path} is {found}, where the database of settings should be a file: it is left as it is. Name another path, or \
         move it aside"
    )]
    NoFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// An SQLite database of somebody else.
    #[error("{path} is a database, but not one of settings: it is left as it is. Choose another path")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by a later version of this library.
    #[error(
        "the database {path} has form {found}, and this program knows forms up to {known}: update the program"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its form.
        found: i64,
        /// The newest form that this library knows.
        known: i64,
    },
    /// It cannot be written.
    #[error(
        "the database {path} cannot be written: {why}. The file, its -wal and -shm and the folder have to belong to \
         the user who runs this program; nothing was written"
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// No space.
    #[error(
        "no space for {path}: {why}. Free some and repeat; nothing was written, and what was there is unharmed"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// It cannot be opened at all.
    #[error("the database {path} cannot be opened: {why}. Is the folder there, and may this user read it?")]
    Unopened {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Anything else that SQLite reports.
    #[error("the database {path} failed: {why}. `harmony-config verify` tells more")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite reports.
        why: String,
    },
    /// A file beside the database.
    #[error("{path} cannot be {doing}: {source}. Nothing was written to the database")]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else wrote in between.
    #[error(
        "item {key} was written by somebody else: this change was made for revision {expected}, and it is at {found}. \
         Read it again and repeat the change"
    )]
    Conflict {
        /// The item.
        key: Key,
        /// What the change replaces.
        expected: u64,
        /// What is there; 0 for nothing.
        found: u64,
    },
    /// More than one item may have.
    #[error(
        "item {key} would have {size} bytes, and at most {limit} are kept. Keep large files elsewhere and their path \
         here"
    )]
    TooLarge {
        /// The item.
        key: Key,
        /// Bytes of the values as they would be stored.
        size: usize,
        /// Most bytes.
        limit: usize,
    },
    /// A row does not fit the log.
    #[error(
        "{place} was changed outside of this library, or belongs to other keys: {why}. It is not used. Look at \
         `harmony-config verify`, and restore a backup or set the value again"
    )]
    Tampered {
        /// The row or file.
        place: String,
        /// Which check failed.
        why: String,
    },
    /// An older copy was put in place of the database, or the end of its log was cut off.
    #[error(
        "the database {path} is older than what this machine has seen: its log ends at line {found}, and line {expected} \
         was written (kept in {head}). An older copy was put in its place, or lines were removed. If you restored it on \
         purpose, accept it with `harmony-config restore --accept`; else restore a newer backup"
    )]
    RolledBack {
        /// The file.
        path: PathBuf,
        /// Last line of its log.
        found: u64,
        /// Last line that is known to have been written.
        expected: u64,
        /// Where that is kept.
        head: PathBuf,
    },
    /// Nothing tells how far the log went.
    #[error(
        "{head} is missing, which tells how far the log of {path} goes: the database comes from another machine, its \
         keys folder is another, or the file was removed. If you moved it here on purpose, accept it with \
         `harmony-config restore --accept`"
    )]
    Headless {
        /// The file.
        path: PathBuf,
        /// What is missing.
        head: PathBuf,
    },
    /// A key is missing or wrong.
    #[error("the keys of the database {path} do not serve: {source}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What the keyring says.
        #[source]
        source: KeyringError,
    },
    /// The line of the audit log could not be written.
    #[error("nothing was done, since its line in the audit log could not be written: {why}")]
    Audit {
        /// What happened.
        #[source]
        why: Box<DatabaseError>,
    },
    /// There is no such thing.
    #[error("{what}. `harmony-config history` shows what there is")]
    Missing {
        /// What was asked for.
        what: String,
    },
    /// The values of that time are not kept any more.
    #[error(
        "the values of {key} at revision {revision} are not kept any more; the oldest that are have revision {oldest}. \
         A backup may have them: `harmony-config restore --to`"
    )]
    Forgotten {
        /// The item.
        key: Key,
        /// What was asked for.
        revision: u64,
        /// The oldest that is there.
        oldest: u64,
    },
    /// Not a service's name.
    #[error(
        "{name:?} is no name of a service: 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    )]
    Service {
        /// What was given.
        name: String,
    },
    /// The backup.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The thread of the connection ended.
    #[error(
        "the connection to the database {path} has ended; this is a fault of the library. Start the program again"
    )]
    Ended {
        /// The file.
        path: PathBuf,
    },
}

impl DatabaseError {
    /// What the chain of sources makes of it. What cannot be reached or read at all is an absence, for which the last
    /// known good values step in; what was changed behind the library's back stops the chain.
    pub(crate) fn into_source_error(self, name: &str) -> SourceError {
        let name = name.to_owned();
        let place = |path: &PathBuf| format!("database {}", path.display());
        match self {
            Self::ReadOnly { path, why } => SourceError::Denied {
                name,
                place: place(&path),
                why,
                hint: "The file, its -wal and -shm and the folder have to belong to the user who runs this program"
                    .to_owned(),
            },
            Self::Foreign { path } => SourceError::Malformed {
                place: place(&path),
                why: "it is a database, but not one of settings".to_owned(),
                hint: "It is left as it is. Choose another path".to_owned(),
            },
            Self::TooNew { path, found, known } => SourceError::Malformed {
                place: place(&path),
                why: format!("it has form {found}, and this program knows forms up to {known}"),
                hint: "Update the program".to_owned(),
            },
            Self::Conflict { key, expected, found } => {
                SourceError::Conflict { place: format!("item {key}"), expected, found }
            }
            Self::TooLarge { key, size, limit } => {
                SourceError::TooLarge { place: format!("item {key}"), size, limit }
            }
            Self::Tampered { place, why } => SourceError::Tampered {
                place,
                why,
                hint: "Look at `harmony-config verify`, and restore a backup or set the value again".to_owned(),
            },
            Self::RolledBack { path, found, expected, .. } => SourceError::Tampered {
                place: place(&path),
                why: format!("its log ends at line {found}, and line {expected} was written"),
                hint: "If an older copy was restored on purpose, accept it with `harmony-config restore --accept`"
                    .to_owned(),
            },
            Self::Headless { path, head } => SourceError::Tampered {
                place: place(&path),
                why: format!("{} is missing", head.display()),
                hint: "If it was moved here on purpose, accept it with `harmony-config restore --accept`".to_owned(),
            },
            Self::Keys {
                path,
                source:
                    source @ (KeyringError::NoVersion { .. }
                    | KeyringError::WrongMac
                    | KeyringError::Unopenable { .. }),
            } => SourceError::Tampered {
                place: place(&path),
                why: format!("its keys do not serve: {source}"),
                hint: "Put the keys folder back that belongs to it".to_owned(),
            },
            Self::Keys { path, source } => SourceError::Malformed {
                place: place(&path),
                why: format!("its keys do not serve: {source}"),
                hint: "They are in a folder of their own, `keys` beside the database by default".to_owned(),
            },
            Self::Audit { why } => SourceError::Audit { why: why.to_string(), hint: String::new() },
            other => SourceError::Unavailable {
                name,
                why: other.to_string(),
                hint: "`harmony-config doctor` tells more".to_owned(),
            },
        }
    }
}

/// A failure inside, before it is known to which file it belongs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error(transparent)]
    Keys(#[from] KeyringError),
    #[error(transparent)]
    Known(#[from] DatabaseError),
}

impl From<BackupError> for Fault {
    fn from(error: BackupError) -> Self {
        DatabaseError::Backup(error).into()
    }
}

impl Fault {
    pub(crate) fn at(self, path: &std::path::Path, waited: Duration) -> DatabaseError {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        let error = match self {
            Self::Known(error) => return error,
            Self::Keys(source) => return DatabaseError::Keys { path, source },
            Self::Sqlite(error) => error,
        };
        let why = error.to_string();
        match error.sqlite_error_code() {
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => DatabaseError::Busy { path, waited },
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => DatabaseError::Corrupt { path, why },
            Some(Code::ReadOnly | Code::PermissionDenied | Code::AuthorizationForStatementDenied) => {
                DatabaseError::ReadOnly { path, why }
            }
            Some(Code::DiskFull) => DatabaseError::Full { path, why },
            Some(Code::CannotOpen) => DatabaseError::Unopened { path, why },
            _ => DatabaseError::Sqlite { path, why },
        }
    }
}

/// A failure of a file beside the database.
pub(crate) fn file_error(path: &std::path::Path, doing: &'static str, source: io::Error) -> DatabaseError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            DatabaseError::Full { path: path.to_owned(), why: source.to_string() }
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if doing != "read" => {
            DatabaseError::ReadOnly { path: path.to_owned(), why: source.to_string() }
        }
        _ => DatabaseError::File { path: path.to_owned(), doing, source },
    }
}
