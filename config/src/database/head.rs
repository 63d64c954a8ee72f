//! How far the log of a database goes, kept outside of it.
//!
//! A chain of hashes shows that no line in its middle was changed; that its end was cut off, or that the whole file was
//! exchanged for an older copy, it cannot show. So the last line's number and hash are kept in the folder of the keys,
//! `database-<id>.head`: who copies, restores or edits the database does not touch that folder, it is on the same
//! machine, it is private, and the MAC's key is there anyway. Who may write that folder has the keys, and is trusted.
//!
//! Under SQLite's write lock, with `n` the last line:
//!
//! ```text
//!  settled at n ──▶ pending n → n+1, durable ──▶ COMMIT ──▶ settled at n+1 (not synced)
//!                        │                          │
//!                     killed: log at n          killed: log at n+1      either is accepted while pending
//! ```
//!
//! Beside it, `database-at-<hash of the path>` says which database was made there: a file that was emptied, as a disk
//! does to it that lost power, looks to SQLite as if it had just been made.
//!
//! The file has two slots of one sector each, written in turn: a torn one has no valid MAC, and the other one counts.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::{
    chain::{Hash, Tail},
    error::{DatabaseError, Fault, file_error},
};
use crate::{
    kept::{self, KeptError, Lock},
    keyring::{Keyring, KeyringError, Mac},
};

const SLOT: usize = 512;

/// What is known of the end of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Which of two slots is newer.
    count: u64,
    /// The log has at least this line.
    pub settled: Tail,
    /// A line that may have been committed.
    pub pending: Option<Tail>,
}

/// What the end of a log is, against what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is what was written last.
    Expected,
    /// Lines are missing.
    Behind,
    /// As many lines, or more, but others.
    Other,
}

impl Known {
    /// With SQLite's write lock held, nobody is between two steps: only two ends are possible.
    pub(crate) fn standing(&self, tail: Tail) -> Standing {
        match tail {
            tail if tail == self.settled || Some(tail) == self.pending => Standing::Expected,
            tail if tail.line < self.settled.line => Standing::Behind,
            _ => Standing::Other,
        }
    }

    /// Without the lock, for a log that was read *after* the head: others may have gone on since.
    pub(crate) fn standing_later(&self, tail: Tail) -> Standing {
        let at = |known: Tail| tail.line == known.line && tail.hash != known.hash;
        match tail {
            tail if tail.line < self.settled.line => Standing::Behind,
            _ if at(self.settled) => Standing::Other,
            // A pending line that was not committed may have been followed by another one of that number.
            _ => Standing::Expected,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Slot {
    #[serde(flatten)]
    known: Known,
    mac: Mac,
}

fn marker(keyring: &Keyring, path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let hash = sha2::Sha256::digest(path.as_os_str().as_bytes());
    keyring.folder().join(format!("database-at-{}", data_encoding::HEXLOWER.encode(&hash[..8])))
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    path: PathBuf,
    id: String,
}

impl Head {
    pub(crate) fn new(keyring: &Keyring, id: &str) -> Self {
        Self { path: keyring.folder().join(format!("database-{id}.head")), id: id.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Remembers that this database is the one at that path.
    pub(crate) fn claim(&self, keyring: &Keyring, path: &Path) -> Result<(), Fault> {
        let marker = marker(keyring, path);
        if std::fs::read(&marker).is_ok_and(|id| id == self.id.as_bytes()) {
            return Ok(());
        }
        let written = Lock::alone(&keyring.folder().join("database-at.lock"))
            .and_then(|_lock| kept::replace(&marker, self.id.as_bytes()));
        written.map_err(|error| match error {
            KeptError::Write { path, source } => file_error(&path, "written", source).into(),
            other => KeyringError::Kept(other).into(),
        })
    }

    /// How many lines the database had that was made at that path; 0 if none was.
    pub(crate) fn lines_at(keyring: &Keyring, path: &Path) -> u64 {
        let id = std::fs::read_to_string(marker(keyring, path)).ok();
        let id = id.filter(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let known = id.and_then(|id| Self::new(keyring, &id).read(keyring).ok().flatten());
        known.map_or(0, |known| known.settled.line)
    }

    /// For a new database, or one that a person accepts as it is: what was known before is replaced.
    pub(crate) fn set(&self, keyring: &Keyring, settled: Tail) -> Result<(), Fault> {
        let count = self.read(keyring).ok().flatten().map_or(0, |known| known.count + 1);
        self.write(keyring, &Known { count, settled, pending: None })?;
        // The other slot may be of what is not true any more.
        self.write(keyring, &Known { count: count + 1, settled, pending: None })?;
        self.sync().map_err(|source| file_error(&self.path, "written", source).into())
    }

    /// A line follows; durable before this returns.
    pub(crate) fn announce(
        &self,
        keyring: &Keyring,
        known: &Known,
        from: Tail,
        to: Tail,
    ) -> Result<(), Fault> {
        self.write(keyring, &Known { count: known.count + 1, settled: from, pending: Some(to) })?;
        let file = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.sync_data());
        file.map_err(|source| file_error(&self.path, "written", source).into())
    }

    /// That line was committed, or was not.
    pub(crate) fn settle(&self, keyring: &Keyring, known: &Known, at: Tail) -> Result<(), Fault> {
        self.write(keyring, &Known { count: known.count + 1, settled: at, pending: None })
    }

    /// `None`: there is no file.
    pub(crate) fn read(&self, keyring: &Keyring) -> Result<Option<Known>, Fault> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(file_error(&self.path, "read", source).into()),
        };
        let slots: Vec<Slot> = bytes
            .chunks(SLOT)
            .filter_map(|slot| serde_json::from_slice(slot.trim_ascii_end()).ok())
            .collect();
        let mut refused = None;
        let mut newest: Option<Known> = None;
        for slot in slots {
            match keyring.verify(&self.bound(&slot.known), &slot.mac) {
                Ok(()) if newest.as_ref().is_none_or(|known| known.count < slot.known.count) => {
                    newest = Some(slot.known);
                }
                Ok(()) => {}
                Err(error) => refused = Some(error),
            }
        }
        match (newest, refused) {
            (Some(known), _) => Ok(Some(known)),
            (None, refused) => Err(DatabaseError::Tampered {
                place: self.path.display().to_string(),
                why: refused
                    .map_or_else(|| "it is not as it was written".to_owned(), |error| error.to_string()),
            }
            .into()),
        }
    }

    fn write(&self, keyring: &Keyring, known: &Known) -> Result<(), Fault> {
        let slot = Slot { mac: keyring.mac(&self.bound(known)), known: known.clone() };
        let failed = |source: io::Error| Fault::from(file_error(&self.path, "written", source));
        let mut text = serde_json::to_vec(&slot).map_err(|error| failed(error.into()))?;
        text.resize(SLOT - 1, b' ');
        text.push(b'\n');
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(failed)?;
        file.write_all_at(&text, (known.count % 2) * SLOT as u64).map_err(failed)
    }

    fn sync(&self) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.sync_all()?;
        kept::sync_folder_of(&self.path)
    }

    fn bound(&self, known: &Known) -> Vec<u8> {
        let mut bytes = format!("harmony-config head 1\0{}\0{}", self.id, known.count).into_bytes();
        for tail in [Some(known.settled), known.pending].into_iter().flatten() {
            bytes.extend_from_slice(&tail.line.to_be_bytes());
            bytes.extend_from_slice(&tail.hash.0);
        }
        bytes
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("a hash has 32 bytes"))
    }
}
