//! What survives: the desired set as the cluster side sent it, and what the pod machine must remember.
//!
//! ```text
//! <data-dir>/store/          0700, all files 0600
//!   index                    version, Node settings, digest of each bundle: the point of commitment
//!   bundles/<uid>.<digest>   the exact JSON of a bundle; written before the index that names it
//!   records/<uid>            what a pod's machine remembers
//!   broken/                  what could not be read, set aside for people
//! ```
//!
//! A file is replaced as a whole (written beside, flushed, renamed, directory flushed), so a power cut leaves the
//! old or the new one. What is torn nevertheless (worn flash) is found by its checksum, set aside, and treated as
//! absent: the next sync brings it again. Nothing is written that did not change; writes are counted.
//!
//! Everything here blocks; callers run it on a thread that may.

mod file;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use fleet_wire::{
    digest::Digest,
    message::{DesiredVersion, NodeSettings},
    name::PodUid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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
}

/// How content becomes bytes on disk: the seam for encryption at rest.
pub trait Seal: Send + Sync + 'static {
    /// Before writing.
    fn seal(&self, content: &[u8]) -> Vec<u8>;
    /// After reading; `None` if it is not what was sealed.
    fn open(&self, bytes: Vec<u8>) -> Option<Vec<u8>>;
}

/// As it stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Seal for Plain {
    fn seal(&self, content: &[u8]) -> Vec<u8> {
        content.to_vec()
    }

    fn open(&self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        Some(bytes)
    }
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
    dir: Option<PathBuf>,
    seal: Box<dyn Seal>,
    written: Mutex<Option<Index>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Store {
    /// A store that keeps nothing.
    pub fn in_memory() -> Self {
        Self::with(None, Box::new(Plain))
    }

    /// Opens the store below the agent's directory and reads it.
    pub fn open<R: DeserializeOwned>(
        data_dir: &Path,
        seal: Box<dyn Seal>,
    ) -> Result<(Self, Loaded<R>), StoreError> {
        let dir = data_dir.join("store");
        for path in [&dir, &dir.join("bundles"), &dir.join("records")] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| StoreError::MakeDirectory { path: path.clone(), source })?;
        }
        let store = Self::with(Some(dir.clone()), seal);
        let loaded = store.load(&dir)?;
        Ok((store, loaded))
    }

    fn with(dir: Option<PathBuf>, seal: Box<dyn Seal>) -> Self {
        let (files, bytes) = (AtomicU64::default(), AtomicU64::default());
        Self { dir, seal, written: Mutex::default(), files, bytes }
    }

    fn load<R: DeserializeOwned>(&self, dir: &Path) -> Result<Loaded<R>, StoreError> {
        let index_path = dir.join("index");
        let mut whole = index_path.exists();
        let mut index: Index = match self.read_checked(dir, &index_path)? {
            Some(index) => index,
            None => {
                whole = false;
                Index::default()
            }
        };
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = whole.then(|| index.clone());
        let mut bundles = BTreeMap::new();
        for (uid, digest) in index.pods.clone() {
            match self.read_bundle(dir, &uid, &digest)? {
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
            if let Some(record) = self.read_checked(dir, &path)? {
                records.insert(uid, record);
            }
        }
        Ok(Loaded { index, bundles, records, whole })
    }

    /// Commits a new set. `bundles` are those that are new; they are checked by their digests when read.
    pub fn commit(&self, index: &Index, bundles: &[(PodUid, Digest, Box<str>)]) -> Result<(), StoreError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        for (uid, digest, json) in bundles {
            let path = bundle_path(dir, uid, digest);
            let known = written.as_ref().and_then(|index| index.pods.get(uid)) == Some(digest);
            if !known || !path.exists() {
                self.write(&path, &self.seal.seal(json.as_bytes()))?;
            }
        }
        if written.as_ref() != Some(index) {
            self.write_checked(&dir.join("index"), index)?;
            *written = Some(index.clone());
            self.sweep(dir, index);
        }
        Ok(())
    }

    /// Writes down what a pod's machine remembers.
    pub fn save_record<R: Serialize>(&self, uid: &PodUid, record: &R) -> Result<(), StoreError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        self.write_checked(&dir.join("records").join(uid.as_str()), record)
    }

    /// Forgets what a pod's machine remembered.
    pub fn forget_record(&self, uid: &PodUid) -> Result<(), StoreError> {
        let Some(dir) = &self.dir else { return Ok(()) };
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

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        file::replace(path, bytes).map_err(|source| StoreError::Write { path: path.to_owned(), source })?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    fn write_checked(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        let failed = |error| StoreError::Write { path: path.to_owned(), source: io::Error::other(error) };
        let json = serde_json::to_vec(value).map_err(failed)?;
        let mut content = format!("{}\n", Digest::of(&json)).into_bytes();
        content.extend(json);
        self.write(path, &self.seal.seal(&content))
    }

    fn read_checked<T: DeserializeOwned>(&self, dir: &Path, path: &Path) -> Result<Option<T>, StoreError> {
        let Some(bytes) = file::read(path)? else { return Ok(None) };
        let value = self.seal.open(bytes).and_then(|content| {
            let text = String::from_utf8(content).ok()?;
            let (checksum, json) = text.split_once('\n')?;
            (Digest::of(json.as_bytes()).to_string() == checksum).then(|| serde_json::from_str(json).ok())?
        });
        if value.is_none() {
            file::set_aside(dir, path);
        }
        Ok(value)
    }

    fn read_bundle(&self, dir: &Path, uid: &PodUid, digest: &Digest) -> Result<Option<Box<str>>, StoreError> {
        let path = bundle_path(dir, uid, digest);
        let Some(bytes) = file::read(&path)? else {
            tracing::error!(pod = %uid, path = %path.display(), "bundle is missing; the next sync brings it again");
            return Ok(None);
        };
        let content = self.seal.open(bytes).filter(|content| Digest::of(content) == *digest);
        let text = content.and_then(|content| String::from_utf8(content).ok());
        if text.is_none() {
            file::set_aside(dir, &path);
        }
        Ok(text.map(String::into_boxed_str))
    }

    /// Removes bundles that the index does not name; what cannot be removed now is removed another time.
    fn sweep(&self, dir: &Path, index: &Index) {
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
}

fn bundle_path(dir: &Path, uid: &PodUid, digest: &Digest) -> PathBuf {
    dir.join("bundles").join(format!("{uid}.{digest}"))
}
