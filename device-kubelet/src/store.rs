//! What survives: the desired set as the cluster side sent it, and what the pod machine must remember.
//!
//! ```text
//! <data-dir>/store/          0700, all files 0600
//!   index                    version, Node settings, digest of each bundle: the point of commitment
//!   bundles/<uid>.<digest>   the exact JSON of a bundle; written before the index that names it
//!   records/<uid>            what a pod's machine remembers
//!   broken/                  what could not be read, set aside
//! ```
//!
//! All of it is sealed (`sealing`), each file under its name, so that none can be put in another's place. After a
//! change of keys, and when an earlier version of the agent wrote without sealing, all files are rewritten (`reseal`).
//!
//! A file is replaced as a whole (written beside, flushed, renamed, directory flushed), so a power cut leaves the
//! old or the new one. What is torn nevertheless (worn flash) is found by its checksum, set aside, and treated as
//! absent: the next sync brings it again. Nothing is written that did not change; writes are counted.
//!
//! Everything here blocks; callers run it on a thread that may.

pub(crate) mod file;
mod reseal;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use fleet_wire::{
    digest::Digest,
    message::{DesiredVersion, NodeSettings},
    name::PodUid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sealing::{Keyring, Opened, Sealer, SealingError};

/// Why something could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    MakeDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written; the old one is kept.
    #[error("cannot write {} (the previous content is kept): {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why; `StorageFull` when the disk is full.
        source: io::Error,
    },
    /// A directory cannot be listed, or a file not read although it is there.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The keys cannot be used.
    #[error(transparent)]
    Sealing(#[from] SealingError),
}

/// Which desired set the device holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Its version.
    pub version: DesiredVersion,
    /// What the Node's owner set.
    #[serde(default)]
    pub node_settings: NodeSettings,
    /// Digest of each bundle.
    #[serde(default)]
    pub pods: BTreeMap<PodUid, Digest>,
}

/// What was found when the store was opened.
#[derive(Debug)]
pub struct Loaded<R> {
    /// The set; bundles that could not be read are not in it.
    pub index: Index,
    /// Bundles of the set.
    pub bundles: BTreeMap<PodUid, Box<str>>,
    /// What machines remember, also of pods that are not in the set any more.
    pub records: BTreeMap<PodUid, R>,
    /// Nothing was missing or broken: what is not in the set is known to be unwanted.
    pub whole: bool,
}

/// How much was written since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Writes {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The store.
pub struct Store {
    disk: Option<Disk>,
    files: AtomicU64,
    bytes: AtomicU64,
}

struct Disk {
    dir: PathBuf,
    // Held for each change of a file: none is rewritten with a new key while somebody else replaces it.
    state: Mutex<State>,
}

struct State {
    keyring: Keyring,
    written: Option<Index>,
}

impl Store {
    /// A store that keeps nothing.
    pub fn in_memory() -> Self {
        Self { disk: None, files: AtomicU64::default(), bytes: AtomicU64::default() }
    }

    /// Opens the store below the agent's directory and reads it. `sealer`: with the keys of that directory.
    ///
    /// # Errors
    /// Also when what it holds is sealed with keys that are gone: that is never taken for an empty store.
    pub fn open<R: DeserializeOwned>(
        data_dir: &Path,
        sealer: Box<dyn Sealer>,
    ) -> Result<(Self, Loaded<R>), StoreError> {
        let dir = data_dir.join("store");
        for path in [&dir, &dir.join("bundles"), &dir.join("records")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| StoreError::MakeDirectory { path: path.clone(), source })?;
        }
        let keyring = reseal::keyring(data_dir, &dir, sealer)?;
        let state = Mutex::new(State { keyring, written: None });
        let store = Self { disk: Some(Disk { dir, state }), ..Self::in_memory() };
        // A full disk is no reason to stop: what is old can still be read.
        if let Err(error) = store.reseal() {
            tracing::warn!(%error, "stored files cannot be sealed with the newest key yet");
        }
        let loaded = store.load()?;
        Ok((store, loaded))
    }

    fn load<R: DeserializeOwned>(&self) -> Result<Loaded<R>, StoreError> {
        let Some(Disk { dir, state }) = &self.disk else { return Ok(Loaded::nothing()) };
        let mut state = lock(state);
        let index_path = dir.join("index");
        let mut whole = index_path.exists();
        let mut index: Index = match read_checked(&state.keyring, dir, &index_path)? {
            Some(index) => index,
            None => {
                whole = false;
                Index::default()
            }
        };
        state.written = whole.then(|| index.clone());
        let mut bundles = BTreeMap::new();
        for (uid, digest) in index.pods.clone() {
            match read_bundle(&state.keyring, dir, &uid, &digest)? {
                Some(json) => {
                    bundles.insert(uid, json);
                }
                None => {
                    whole = false;
                    index.pods.remove(&uid);
                }
            }
        }
        let mut records = BTreeMap::new();
        for path in file::list(&dir.join("records"))? {
            let Some(uid) = path.file_name().and_then(|name| name.to_str()?.parse::<PodUid>().ok()) else {
                continue;
            };
            if let Some(record) = read_checked(&state.keyring, dir, &path)? {
                records.insert(uid, record);
            }
        }
        Ok(Loaded { index, bundles, records, whole })
    }

    /// Commits a new set. `bundles` are those that are new; they are checked by their digests when read.
    pub fn commit(&self, index: &Index, bundles: &[(PodUid, Digest, Box<str>)]) -> Result<(), StoreError> {
        let Some(Disk { dir, state }) = &self.disk else { return Ok(()) };
        let mut state = lock(state);
        let State { keyring, written } = &mut *state;
        for (uid, digest, json) in bundles {
            let path = bundle_path(dir, uid, digest);
            let known = written.as_ref().and_then(|index| index.pods.get(uid)) == Some(digest);
            if !known || !path.exists() {
                self.write(keyring, dir, &path, json.as_bytes())?;
            }
        }
        if written.as_ref() != Some(index) {
            self.write_checked(keyring, dir, &dir.join("index"), index)?;
            *written = Some(index.clone());
            sweep(dir, index);
        }
        Ok(())
    }

    /// Writes down what a pod's machine remembers.
    pub fn save_record<R: Serialize>(&self, uid: &PodUid, record: &R) -> Result<(), StoreError> {
        let Some(Disk { dir, state }) = &self.disk else { return Ok(()) };
        self.write_checked(&lock(state).keyring, dir, &dir.join("records").join(uid.as_str()), record)
    }

    /// Forgets what a pod's machine remembered.
    pub fn forget_record(&self, uid: &PodUid) -> Result<(), StoreError> {
        let Some(Disk { dir, state }) = &self.disk else { return Ok(()) };
        let _state = lock(state);
        let path = dir.join("records").join(uid.as_str());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Write { path, source })
            }
            _ => Ok(()),
        }
    }

    /// How much was written.
    pub fn writes(&self) -> Writes {
        Writes { files: self.files.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn write(&self, keyring: &Keyring, dir: &Path, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let bytes = keyring.seal(&name(dir, path), content)?;
        file::replace(path, &bytes).map_err(|source| StoreError::Write { path: path.to_owned(), source })?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    fn write_checked(
        &self,
        keyring: &Keyring,
        dir: &Path,
        path: &Path,
        value: &impl Serialize,
    ) -> Result<(), StoreError> {
        let failed = |error| StoreError::Write { path: path.to_owned(), source: io::Error::other(error) };
        let json = serde_json::to_vec(value).map_err(failed)?;
        let mut content = format!("{}\n", Digest::of(&json)).into_bytes();
        content.extend(json);
        self.write(keyring, dir, path, &content)
    }
}

impl<R> Loaded<R> {
    /// Of a store that keeps nothing.
    fn nothing() -> Self {
        let (index, bundles, records) = Default::default();
        Self { index, bundles, records, whole: false }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The logical name under which a file is sealed: its path in the store.
fn name(dir: &Path, path: &Path) -> String {
    path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned()
}

fn read_checked<T: DeserializeOwned>(
    keyring: &Keyring,
    dir: &Path,
    path: &Path,
) -> Result<Option<T>, StoreError> {
    let Some(bytes) = file::read(path)? else { return Ok(None) };
    let value = keyring.open(&name(dir, path), bytes).map(Opened::content).and_then(|content| {
        let text = String::from_utf8(content).ok()?;
        let (checksum, json) = text.split_once('\n')?;
        (Digest::of(json.as_bytes()).to_string() == checksum).then(|| serde_json::from_str(json).ok())?
    });
    if value.is_none() {
        file::set_aside(dir, path);
    }
    Ok(value)
}

fn read_bundle(
    keyring: &Keyring,
    dir: &Path,
    uid: &PodUid,
    digest: &Digest,
) -> Result<Option<Box<str>>, StoreError> {
    let path = bundle_path(dir, uid, digest);
    let Some(bytes) = file::read(&path)? else {
        tracing::error!(pod = %uid, path = %path.display(), "bundle is missing; the next sync brings it again");
        return Ok(None);
    };
    let content = keyring.open(&name(dir, &path), bytes).map(Opened::content);
    let content = content.filter(|content| Digest::of(content) == *digest);
    let text = content.and_then(|content| String::from_utf8(content).ok());
    if text.is_none() {
        file::set_aside(dir, &path);
    }
    Ok(text.map(String::into_boxed_str))
}

/// Removes bundles that the index does not name; what cannot be removed now is removed another time.
fn sweep(dir: &Path, index: &Index) {
    let wanted = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.split_once('.').is_some_and(|(uid, digest)| {
            uid.parse::<PodUid>()
                .ok()
                .and_then(|uid| index.pods.get(&uid).map(ToString::to_string))
                .is_some_and(|wanted| wanted == digest)
        })
    };
    for path in file::list(&dir.join("bundles")).unwrap_or_default() {
        if !wanted(&path)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove an old bundle");
        }
    }
}

fn bundle_path(dir: &Path, uid: &PodUid, digest: &Digest) -> PathBuf {
    dir.join("bundles").join(format!("{uid}.{digest}"))
}

#[cfg(test)]
#[path = "store/tests/sealed.rs"]
mod tests;
