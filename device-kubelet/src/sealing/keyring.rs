//! The data keys of a device: the newest seals, the older ones open what was not rewritten yet.
//!
//! ```text
//! create ─► one key ─► renew: sealing.next ─► data-key.json (new and old key, wrapped with it) ─► sealing.key
//!              ▲                                                                                       │
//!              └────────── drop_old: data-key.json without the old key ◄── the store is rewritten ◄────┘
//! ```
//!
//! After a power cut between any two of these, all files can be opened, and [`Keyring::has_old`] says that the store
//! is to be rewritten.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{DataKey, Sealer, SealingError, UnwrapError, envelope};
use crate::keys::{KeysError, check_private, replace_private, sync_directory};

const FORMAT: u32 = 1;
const FILE: &str = "data-key.json";

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// Sealed with the newest key.
    Current(Vec<u8>),
    /// To be rewritten: sealed with an older key, or not at all, by a version of this agent that did not seal.
    Old(Vec<u8>),
}

impl Opened {
    /// The content.
    pub fn content(self) -> Vec<u8> {
        match self {
            Self::Current(content) | Self::Old(content) => content,
        }
    }
}

/// The keys.
pub struct Keyring {
    path: PathBuf,
    sealer: Box<dyn Sealer>,
    /// In order of their versions; never empty.
    older: Vec<DataKey>,
    newest: DataKey,
    plain: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    format: u32,
    sealer: String,
    /// Files of a version that did not seal are still to be rewritten. Afterwards they are refused: nobody gets
    /// the agent to believe a file by not sealing it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    plain_files: bool,
    keys: Vec<Wrapped>,
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    version: u32,
    /// In base64.
    wrapped: String,
}

impl Keyring {
    /// The file of the wrapped keys in this folder.
    pub fn file(directory: &Path) -> PathBuf {
        directory.join(FILE)
    }

    /// Whether keys were made in this folder.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn exists(directory: &Path) -> Result<bool, SealingError> {
        let path = Self::file(directory);
        path.try_exists().map_err(|source| KeysError::Read { path, source }.into())
    }

    /// The keys in this folder.
    ///
    /// # Errors
    /// When they cannot be unwrapped. Nothing is changed then.
    pub fn load(directory: &Path, sealer: Box<dyn Sealer>) -> Result<Self, SealingError> {
        let path = Self::file(directory);
        let text = fs::read(&path).map_err(|source| KeysError::Read { path: path.clone(), source })?;
        check_private(&path)?;
        let damaged = |problem: String| SealingError::DataKeyDamaged { path: path.clone(), problem };
        let file: File = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if file.format != FORMAT || file.sealer != sealer.name() {
            let (format, known, own) = (file.format, FORMAT, sealer.name());
            return Err(SealingError::Foreign { path, format, sealer: file.sealer, known, own });
        }
        let mut keys = Vec::with_capacity(file.keys.len());
        for Wrapped { version, wrapped } in &file.keys {
            let wrapped = STANDARD.decode(wrapped).map_err(|error| damaged(error.to_string()))?;
            let key = sealer.unwrap(*version, &wrapped).map_err(|error| match error {
                UnwrapError::Sealing(error) => error,
                UnwrapError::OtherKey => SealingError::OtherSealingKey { path: path.clone() },
                UnwrapError::Damaged => damaged(format!("key {version} is not what was wrapped")),
            })?;
            keys.push(key);
        }
        keys.sort_by_key(DataKey::version);
        let newest = keys.pop().ok_or_else(|| damaged("it has no key".to_owned()))?;
        let mut keyring = Self { path, sealer, older: keys, newest, plain: file.plain_files };
        if keyring.sealer.is_renewing()
            && let Err(error) = keyring.write().and_then(|()| keyring.sealer.retire())
        {
            // A full disk: both keys stay usable.
            tracing::warn!(%error, "a change of the sealing key that was interrupted cannot be ended yet");
        }
        Ok(keyring)
    }

    /// Makes the first key. `plain`: there are files of a version that did not seal.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(directory: &Path, mut sealer: Box<dyn Sealer>, plain: bool) -> Result<Self, SealingError> {
        sealer.ensure()?;
        // The folder may be as new as the keys; a store that survives a power cut without them is lost.
        sync_directory(directory)
            .map_err(|source| KeysError::Write { path: directory.to_owned(), source })?;
        let newest = DataKey::generate(1)?;
        let keyring = Self { path: Self::file(directory), sealer, older: Vec::new(), newest, plain };
        keyring.write()?;
        Ok(keyring)
    }

    /// Seals the content of the file with this logical name.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal(&self, name: &str, content: &[u8]) -> Result<Vec<u8>, SealingError> {
        envelope::seal(&self.newest, name, content)
    }

    /// Opens it; `None` if it is not what was sealed under that name.
    pub fn open(&self, name: &str, bytes: Vec<u8>) -> Option<Opened> {
        if self.plain && !envelope::is_sealed(&bytes) {
            return Some(Opened::Old(bytes));
        }
        let version = envelope::key_version(&bytes)?;
        if version == self.newest.version() {
            return envelope::open(&self.newest, name, bytes).map(Opened::Current);
        }
        let key = self.older.iter().find(|key| key.version() == version)?;
        envelope::open(key, name, bytes).map(Opened::Old)
    }

    /// Whether there may be files that are to be rewritten.
    pub fn has_old(&self) -> bool {
        self.plain || !self.older.is_empty()
    }

    /// Whether there may be files that were never sealed.
    pub fn has_plain(&self) -> bool {
        self.plain
    }

    /// Makes a new data key and a new key of the sealer. From now on files are sealed with it; the older ones are
    /// to be rewritten.
    ///
    /// # Errors
    /// When they cannot be made: the keys so far stay in use.
    pub fn renew(&mut self) -> Result<(), SealingError> {
        let fresh = DataKey::generate(self.newest.version().saturating_add(1))?;
        self.sealer.renew()?;
        let older = std::mem::replace(&mut self.newest, fresh);
        self.older.push(older);
        if let Err(error) = self.write() {
            if let Some(older) = self.older.pop() {
                self.newest = older;
            }
            return Err(error);
        }
        self.sealer.retire()
    }

    /// All files were rewritten: what was sealed before cannot be opened any more.
    ///
    /// # Errors
    /// When that cannot be written down: the older keys stay.
    pub fn drop_old(&mut self) -> Result<(), SealingError> {
        let (older, plain) = (std::mem::take(&mut self.older), std::mem::take(&mut self.plain));
        if let Err(error) = self.write() {
            (self.older, self.plain) = (older, plain);
            return Err(error);
        }
        Ok(())
    }

    fn write(&self) -> Result<(), SealingError> {
        let mut keys = Vec::new();
        for key in self.older.iter().chain([&self.newest]) {
            keys.push(Wrapped { version: key.version(), wrapped: STANDARD.encode(self.sealer.wrap(key)?) });
        }
        let sealer = self.sealer.name().to_owned();
        let file = File { format: FORMAT, sealer, plain_files: self.plain, keys };
        let text = serde_json::to_vec(&file).map_err(|error| SealingError::DataKeyDamaged {
            path: self.path.clone(),
            problem: error.to_string(),
        })?;
        Ok(replace_private(&self.path, &text)?)
    }
}
