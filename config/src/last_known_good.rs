//! What sources last gave, for the time when one cannot be reached: `config.lkg.json`.
//!
//! It owns one file, for all sources and models of one or several services and processes. It never decides when its
//! values are used; that is the manager's, for sources that are absent, read-only and visibly. Secrets in it are
//! sealed. The file is authenticated, and its newest generation is kept outside of it ([`crate::witness`]), so that
//! what was cut, changed or put back is refused.
//!
//! It is written only when values differ: on flash, a value that stays costs nothing. Everything here blocks; callers
//! run it on a thread that may.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    key::{FieldPath, Key},
    keyring::{Keyring, KeyringError, Purpose},
    model::{Model, SchemaVersion},
    seal::{self, SealError},
    source::{Document, Layer},
    witness::{Found, Stamps, WitnessError, Witnessed},
};

/// Largest file, in bytes. 500 items of 1 KiB take less than 1 MiB.
pub const LIMIT: u64 = 32 << 20;

/// Why the last known good values cannot be used or kept.
#[derive(Debug, thiserror::Error)]
pub enum LkgError {
    /// The file is refused, or cannot be kept.
    #[error("the last known good values cannot be used: {0}")]
    File(#[from] WitnessError),
    /// A secret in it does not open.
    #[error("the last known good values of {key} from {name} cannot be used: {error}")]
    Seal {
        /// The source that gave them.
        name: String,
        /// The model.
        key: String,
        /// Why.
        error: SealError,
    },
    /// The file is genuine and its content is of another kind.
    #[error("the last known good values in {} cannot be read: run the version that wrote them", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// What a source last gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// The layer as it was, with its place and revision.
    pub layer: Layer,
    /// Since when it has been so; the source may have confirmed it later.
    pub at: Timestamp,
}

/// What a source gave, to be remembered.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// The model.
    pub model: &'a Model,
    /// What it gave; `None`: it has nothing, and what was remembered is forgotten.
    pub layer: Option<&'a Layer>,
}

/// Values of which a source has an older revision than it once had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Older {
    /// Whose values.
    pub owner: String,
    /// The source.
    pub source: String,
    /// The model.
    pub key: Key,
    /// The highest revision that was seen.
    pub seen: u64,
    /// The one that was there last.
    pub now: u64,
    /// Since when.
    pub at: Timestamp,
}

/// The file. Clones share it.
#[derive(Debug, Clone)]
pub struct LastKnownGood {
    owner: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Witnessed,
    keyring: Keyring,
    known: Mutex<Known>,
}

/// What the file holds, as of these stamps.
#[derive(Debug)]
struct Known {
    stamps: Stamps,
    generation: u64,
    content: Content,
}

/// Owner, source, key.
type Content = BTreeMap<String, BTreeMap<String, BTreeMap<Key, Entry>>>;

#[derive(Clone, Serialize, Deserialize)]
struct Entry {
    at: Timestamp,
    place: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<(Vec<String>, String)>,
    version: Option<SchemaVersion>,
    revision: Option<u64>,
    /// The highest revision that was seen, where it lies above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    highest: Option<u64>,
    /// As at rest: secrets sealed.
    values: Document,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Entry").field("at", &self.at).field("place", &self.place).finish_non_exhaustive()
    }
}

impl LastKnownGood {
    /// Opens the file, and makes its folder; a file that is not there is made with the first value.
    ///
    /// # Errors
    /// When it was changed, cut, or is an older one ([`LkgError::File`]): it is not used and not replaced. Report it,
    /// then go on with [`LastKnownGood::renew`].
    pub fn open(file: &Path, keyring: Keyring) -> Result<Self, LkgError> {
        let witnessed = Witnessed::new(file, keyring.clone(), "lkg", LIMIT)?;
        let known = Mutex::new(load(&witnessed)?);
        Ok(Self { owner: String::new(), shared: Arc::new(Shared { file: witnessed, keyring, known }) })
    }

    /// Sets a file that is refused aside, as `<file>.refused`, and begins an empty one. Also gives where it is now.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn renew(file: &Path, keyring: Keyring) -> Result<(Self, Option<PathBuf>), LkgError> {
        let aside = Witnessed::new(file, keyring.clone(), "lkg", LIMIT)?.set_aside()?;
        Ok((Self::open(file, keyring)?, aside))
    }

    /// For the values of this service: others in the same file are another's.
    #[must_use]
    pub fn for_owner(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.owner);
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared.file.path()
    }

    /// How often the file was written; 0 before the first value.
    ///
    /// # Errors
    /// When the file is refused since it was opened.
    pub fn generation(&self) -> Result<u64, LkgError> {
        Ok(self.known()?.generation)
    }

    /// Remembers what a source gave for a model. Writes only if it differs from what is remembered.
    ///
    /// # Errors
    /// When the file is refused, or cannot be written: what was remembered stays.
    pub fn remember(&self, source: &str, model: &Model, layer: Option<&Layer>) -> Result<(), LkgError> {
        self.remember_all(&[Memory { source, model, layer }])
    }

    /// As [`LastKnownGood::remember`] for several, with one write at most: for the start of a service.
    ///
    /// # Errors
    /// As [`LastKnownGood::remember`].
    pub fn remember_all(&self, memories: &[Memory<'_>]) -> Result<(), LkgError> {
        // Nearly always all is as it was, and nobody has to be kept out to see that.
        if self.changed(&self.known()?.content, memories)?.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        self.shared.file.update(|found| {
            let mut content = self.content(found)?.1;
            let changed = self.changed(&content, memories)?;
            if changed.is_empty() {
                return Ok(None);
            }
            for memory in changed {
                let models = content
                    .entry(self.owner.clone())
                    .or_default()
                    .entry(memory.source.to_owned())
                    .or_default();
                match memory.layer {
                    None => models.remove(&memory.model.key),
                    Some(layer) => {
                        let before = models.get(&memory.model.key);
                        let seen = before.and_then(|before| before.highest.max(before.revision));
                        let mut entry = self.entry(memory, layer, now)?;
                        entry.highest = seen.filter(|seen| entry.revision.is_some_and(|now| now < *seen));
                        models.insert(memory.model.key.clone(), entry)
                    }
                };
            }
            self.body(&content).map(Some)
        })
    }

    /// What a source last gave for a model; `None` if nothing is remembered.
    ///
    /// # Errors
    /// When the file is refused, or a secret in it does not open.
    pub fn recall(&self, source: &str, model: &Model) -> Result<Option<Recalled>, LkgError> {
        let entry = find(&self.known()?.content, &self.owner, source, &model.key).cloned();
        entry.map(|entry| self.recalled(source, model, &entry)).transpose()
    }

    /// Values whose source went back to an older revision and has not caught up, of all owners: it was restored from an
    /// older state, or another one answers in its place.
    ///
    /// # Errors
    /// When the file is refused.
    pub fn older(&self) -> Result<Vec<Older>, LkgError> {
        let known = self.known()?;
        let mut found = Vec::new();
        for (owner, sources) in &known.content {
            for (source, models) in sources {
                found.extend(models.iter().filter_map(|(key, entry)| {
                    let (seen, now) = entry.highest.zip(entry.revision)?;
                    let (owner, source, key) = (owner.clone(), source.clone(), key.clone());
                    Some(Older { owner, source, key, seen, now, at: entry.at })
                }));
            }
        }
        Ok(found)
    }

    /// Writes the file with the newest keys, after a rotation and before older ones are dropped.
    ///
    /// # Errors
    /// When the file is refused, or cannot be written.
    pub fn reseal(&self) -> Result<(), LkgError> {
        self.shared.file.update(|found| {
            let (generation, mut content) = self.content(found)?;
            if generation == 0 {
                return Ok(None);
            }
            for (owner, sources) in &mut content {
                for (source, models) in sources {
                    for (key, entry) in models {
                        let sealed_for = context_owner(owner, source);
                        entry.values =
                            seal::reseal_document(&self.shared.keyring, &sealed_for, key, &entry.values)
                                .map_err(|error| seal_error(source, key, error))?;
                    }
                }
            }
            self.body(&content).map(Some)
        })
    }

    /// What has to be written.
    fn changed<'a, 'b>(
        &self,
        content: &Content,
        memories: &'a [Memory<'b>],
    ) -> Result<Vec<&'a Memory<'b>>, LkgError> {
        let newest = self.shared.keyring.newest(Purpose::Encryption).map_err(WitnessError::from)?;
        let mut changed = Vec::new();
        for memory in memories {
            let entry = find(content, &self.owner, memory.source, &memory.model.key);
            let same = match (entry, memory.layer) {
                (None, None) => true,
                (Some(entry), Some(layer)) => {
                    // What does not open, or should be sealed anew, is replaced.
                    entry.version == layer.version
                        && !seal::is_stale(memory.model, newest, &entry.values)
                        && self
                            .recalled(memory.source, memory.model, entry)
                            .is_ok_and(|recalled| recalled.layer.values == layer.values)
                }
                _ => false,
            };
            if !same {
                changed.push(memory);
            }
        }
        Ok(changed)
    }

    fn entry(&self, memory: &Memory<'_>, layer: &Layer, at: Timestamp) -> Result<Entry, LkgError> {
        let owner = context_owner(&self.owner, memory.source);
        let values = seal::seal_document(&self.shared.keyring, &owner, memory.model, &layer.values)
            .map_err(|error| seal_error(memory.source, &memory.model.key, error))?;
        let fields =
            layer.fields.iter().map(|(field, place)| (field.names().to_vec(), place.clone())).collect();
        let (version, revision) = (layer.version.clone(), layer.revision);
        Ok(Entry { at, place: layer.place.clone(), fields, version, revision, highest: None, values })
    }

    fn recalled(&self, source: &str, model: &Model, entry: &Entry) -> Result<Recalled, LkgError> {
        let owner = context_owner(&self.owner, source);
        let values = seal::open_document(&self.shared.keyring, &owner, model, &entry.values)
            .map_err(|error| seal_error(source, &model.key, error))?;
        let fields = entry.fields.iter().map(|(names, place)| (FieldPath::from_iter(names), place.clone()));
        let layer = Layer {
            values,
            place: entry.place.clone(),
            fields: fields.collect(),
            version: entry.version.clone(),
            revision: entry.revision,
        };
        Ok(Recalled { layer, at: entry.at })
    }

    /// The content as it is on the disk now.
    fn known(&self) -> Result<MutexGuard<'_, Known>, LkgError> {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.stamps != self.shared.file.stamps()? {
            *known = load(&self.shared.file)?;
        }
        Ok(known)
    }

    fn content(&self, found: Found) -> Result<(u64, Content), LkgError> {
        content(&self.shared.file, found)
    }

    fn body(&self, content: &Content) -> Result<Vec<u8>, LkgError> {
        serde_json::to_vec(content).map_err(|_| LkgError::Content { path: self.path().to_owned() })
    }
}

fn load(file: &Witnessed) -> Result<Known, LkgError> {
    let (found, stamps) = file.read()?;
    let (generation, content) = content(file, found)?;
    Ok(Known { stamps, generation, content })
}

fn content(file: &Witnessed, found: Found) -> Result<(u64, Content), LkgError> {
    match found {
        // It is a cache: without the file nothing wrong is read, and it fills again.
        Found::New | Found::Gone => Ok((0, Content::new())),
        Found::Body { generation, body } => match serde_json::from_slice(&body) {
            Ok(content) => Ok((generation, content)),
            Err(_) => Err(LkgError::Content { path: file.path().to_owned() }),
        },
    }
}

fn find<'a>(content: &'a Content, owner: &str, source: &str, key: &Key) -> Option<&'a Entry> {
    content.get(owner)?.get(source)?.get(key)
}

/// A sealed value in this file is good for nothing else.
fn context_owner(owner: &str, source: &str) -> String {
    format!("last known good of {source} for {owner}")
}

fn seal_error(source: &str, key: &Key, error: SealError) -> LkgError {
    match error {
        SealError::Keyring(error @ KeyringError::Kept(_)) => LkgError::File(error.into()),
        error => LkgError::Seal { name: source.to_owned(), key: key.to_string(), error },
    }
}

#[cfg(test)]
#[path = "last_known_good/tests.rs"]
mod tests;
