//! The keys of one machine's settings: three, each for a purpose of its own, made on the first start.
//!
//! ```text
//! <folder>/                0700
//!   keyring.json           0600  written last: from then on a key that is missing is lost, not new
//!   encryption.json        0600  AES-256-GCM: secret values at rest
//!   cache.json             0600  HMAC-SHA256: the last-known-good file, histories, audit lines
//!   updates.json           0600  Ed25519: the updates that this machine signs
//!   lock                   0600  held while a file is written
//! ```
//!
//! Each file has all versions of its key: the newest is used, older ones open what was made with them until they are
//! dropped. Other processes' rotations are seen before each use. It never makes a key in the place of one that is
//! lost or unreadable, and never uses one that cannot be kept. Everything here blocks for the time of a `stat`, and
//! for a few writes where keys are made or dropped.

mod file;
mod tag;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

#[cfg(feature = "updates")]
use ring::hkdf;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::tag::{BadMac, BadSealed, Mac, Sealed};
use self::{
    file::Versions,
    tag::{NONCE, TAG},
};
use crate::{
    kept::{self, KeptError, Lock, Stamp},
    key::{FieldPath, Key},
};

/// Bytes of every key.
const KEY: usize = 32;

/// What a key is for. None is ever used for another purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Seals secret values at rest.
    Encryption,
    /// Authenticates caches, histories and audit lines.
    Cache,
    /// Signs updates for other programs.
    Updates,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Encryption, Self::Cache, Self::Updates];

    /// Lower-case; also the name of its file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::Cache => "cache",
            Self::Updates => "updates",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Number of a key within its purpose: 1, 2, …; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyVersion(pub u32);

impl fmt::Display for KeyVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "v{}", self.0)
    }
}

/// What a person can do when a key is gone.
const REMEDY: &str = "Nothing was changed. Put the folder of the keys back from a backup. If there is none, what was \
     sealed with them is lost: remove the folder, and the database and caches beside it, and set the values again";

/// Why keys cannot be made, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file cannot be used.
    #[error("the keys of the settings cannot be used: {0}")]
    Kept(#[from] KeptError),
    /// A key was made once, and is gone.
    #[error("{} is missing, and it was made once. {REMEDY}", path.display())]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A key's file is not what was written.
    #[error("{} is damaged: {why}. {REMEDY}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way; never its content.
        why: &'static str,
    },
    /// A newer version of this library wrote it.
    #[error(
        "{} has format {found}, and this program knows format {known}: run the version that wrote it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The format that is known.
        known: u32,
    },
    /// There is no key of this number.
    #[error(
        "there is no {purpose} key {version} (there are: {have}): it was dropped after a rotation, or this was made \
         with the keys of another machine"
    )]
    NoVersion {
        /// What the key is for.
        purpose: Purpose,
        /// Its number.
        version: KeyVersion,
        /// The numbers that there are.
        have: String,
    },
    /// The newest key cannot be dropped.
    #[error("{purpose} key {version} is the newest and in use: rotate first, then drop it")]
    Newest {
        /// What the key is for.
        purpose: Purpose,
        /// Its number.
        version: KeyVersion,
    },
    /// A sealed value does not open.
    #[error(
        "the sealed value of {place} in {key} does not open as one of {owner}: it was changed, or moved here from \
         another place, or sealed with other keys. Set it again"
    )]
    Unopenable {
        /// Whose value.
        owner: String,
        /// The model.
        key: Key,
        /// The place, for people.
        place: String,
    },
    /// A tag is not the one of these bytes.
    #[error(
        "the authentication tag does not belong to these bytes: they were changed, or made with other keys"
    )]
    WrongMac,
    /// The system gives no random numbers, or the cipher refuses.
    #[error("the system's random numbers or the cipher failed: nothing was sealed")]
    Cipher,
}

/// What a sealed value belongs to. It opens only for the same owner, key and place, with the same key version.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The service that it belongs to.
    pub owner: &'a str,
    /// The model.
    pub key: &'a Key,
    /// Where in the model's values.
    pub place: &'a FieldPath,
}

impl Context<'_> {
    /// As bytes that no other context has: each part is preceded by its length.
    fn bound(&self, version: KeyVersion) -> Vec<u8> {
        let mut bytes = b"harmony-config sealed value 1\0".to_vec();
        bytes.extend_from_slice(&version.0.to_be_bytes());
        let names = self.place.names().iter().map(String::as_str);
        for part in [self.owner, self.key.as_str()].into_iter().chain(names) {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// The keys. Clones share them.
#[derive(Clone)]
pub struct Keyring {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    encryption: RwLock<Ring>,
    cache: RwLock<Ring>,
    updates: RwLock<Ring>,
}

struct Ring {
    versions: Versions,
    stamp: Stamp,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = out.debug_struct("Keyring");
        out.field("folder", &self.inner.folder);
        for purpose in Purpose::ALL {
            out.field(purpose.as_str(), &self.read(purpose).versions.numbers().collect::<Vec<_>>());
        }
        out.finish_non_exhaustive()
    }
}

impl Keyring {
    /// Opens the keys in this folder; makes folder and keys on the first start, also when several processes start at
    /// once. Where they exist, nothing is written.
    ///
    /// # Errors
    /// When they cannot be kept, others may read them, or one is lost or damaged: it is never made again silently.
    pub fn open(folder: &Path) -> Result<Self, KeyringError> {
        kept::folder(folder)?;
        if !file::is_complete(folder)? {
            let _lock = Lock::alone(&folder.join(file::LOCK))?;
            if !file::is_complete(folder)? {
                file::make_all(folder)?;
            }
        }
        // What is on the disk counts, also right after it was made.
        let ring = |purpose| load(folder, purpose).map(RwLock::new);
        let inner = Inner {
            folder: folder.to_owned(),
            encryption: ring(Purpose::Encryption)?,
            cache: ring(Purpose::Cache)?,
            updates: ring(Purpose::Updates)?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Makes a new key for this purpose; it is used from now on, by other processes, too. Older ones still open what
    /// was made with them.
    ///
    /// # Errors
    /// When it cannot be kept: the keys so far stay in use.
    pub fn rotate(&self, purpose: Purpose) -> Result<KeyVersion, KeyringError> {
        self.rewrite(purpose, |versions| versions.add())
    }

    /// Forgets an older key. What was made with it cannot be opened any more: rewrite that first, and keep other
    /// writers out from the rewriting until this has returned (e.g. in one transaction of the database).
    ///
    /// # Errors
    /// [`KeyringError::Newest`]; [`KeyringError::NoVersion`]; or when that cannot be written down: it stays then.
    pub fn drop_version(&self, purpose: Purpose, version: KeyVersion) -> Result<(), KeyringError> {
        self.rewrite(purpose, |versions| {
            if versions.newest().0 == version {
                return Err(KeyringError::Newest { purpose, version });
            }
            versions.remove(version).then_some(()).ok_or_else(|| no_version(purpose, version, versions))
        })
    }

    /// The numbers of this purpose's keys, oldest first.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn versions(&self, purpose: Purpose) -> Result<Vec<KeyVersion>, KeyringError> {
        self.with(purpose, |versions| Ok(versions.numbers().collect()))
    }

    /// The number of the key that is used.
    ///
    /// # Errors
    /// When the keys cannot be read.
    pub fn newest(&self, purpose: Purpose) -> Result<KeyVersion, KeyringError> {
        self.with(purpose, |versions| Ok(versions.newest().0))
    }

    /// Authenticates bytes with the newest cache key. What the bytes are for is the caller's to put in front of them:
    /// one tag must not be good for two uses.
    ///
    /// Where the keys' folder cannot be read any more, those in memory are used: a tag protects no secret.
    #[must_use]
    pub fn mac(&self, bytes: &[u8]) -> Mac {
        let _ = self.refresh(Purpose::Cache);
        let ring = self.read(Purpose::Cache);
        let (version, key) = ring.versions.newest();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes);
        Mac::new(version, tag.as_ref())
    }

    /// Whether the tag was made for these bytes, with a key that is still here. Takes the same time for every wrong
    /// tag.
    ///
    /// # Errors
    /// [`KeyringError::WrongMac`], [`KeyringError::NoVersion`], or when the keys cannot be read.
    pub fn verify(&self, bytes: &[u8], mac: &Mac) -> Result<(), KeyringError> {
        self.with(Purpose::Cache, |versions| {
            let key = get(Purpose::Cache, mac.version(), versions)?;
            hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), bytes, mac.tag())
                .map_err(|_| KeyringError::WrongMac)
        })
    }

    /// Seals bytes with the newest encryption key and a random nonce.
    ///
    /// # Errors
    /// Also when the keys' files are gone since: what nobody could open after a restart is not sealed.
    pub fn seal(&self, context: &Context<'_>, plain: &[u8]) -> Result<Sealed, KeyringError> {
        self.with(Purpose::Encryption, |versions| {
            let (version, key) = versions.newest();
            let mut nonce = [0; NONCE];
            SystemRandom::new().fill(&mut nonce).map_err(|_| KeyringError::Cipher)?;
            // Encrypted in place: no plain copy is left behind.
            let mut bytes = Vec::with_capacity(NONCE + plain.len() + TAG);
            bytes.extend_from_slice(&nonce);
            bytes.extend_from_slice(plain);
            let (_, body) = bytes.split_at_mut(NONCE);
            let tag = cipher(key)?
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(context.bound(version)),
                    body,
                )
                .map_err(|_| KeyringError::Cipher)?;
            bytes.extend_from_slice(tag.as_ref());
            Ok(Sealed::new(version, &bytes))
        })
    }

    /// What was sealed in this context.
    ///
    /// # Errors
    /// [`KeyringError::Unopenable`] if it was changed or belongs elsewhere; [`KeyringError::NoVersion`] if its key is
    /// not here.
    pub fn open_sealed(
        &self,
        context: &Context<'_>,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
        let refused = || KeyringError::Unopenable {
            owner: context.owner.to_owned(),
            key: context.key.clone(),
            place: match context.place.names() {
                [] => "the whole".to_owned(),
                _ => context.place.to_string(),
            },
        };
        self.with(Purpose::Encryption, |versions| {
            let version = sealed.version();
            let key = get(Purpose::Encryption, version, versions)?;
            let mut bytes = Zeroizing::new(sealed.bytes());
            let nonce: [u8; NONCE] = *bytes.first_chunk().ok_or_else(refused)?;
            let length = cipher(key)?
                .open_within(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(context.bound(version)),
                    &mut bytes,
                    NONCE..,
                )
                .map_err(|_| refused())?
                .len();
            bytes.truncate(length);
            Ok(bytes)
        })
    }

    /// The seed of a signing key.
    #[cfg(feature = "updates")]
    pub(crate) fn updates_seed(&self, version: KeyVersion) -> Result<Zeroizing<[u8; KEY]>, KeyringError> {
        self.with(Purpose::Updates, |versions| Ok(Zeroizing::new(*get(Purpose::Updates, version, versions)?)))
    }

    /// The seed of the key to which updates are sealed: derived, so that it is not another one to keep.
    #[cfg(feature = "updates")]
    pub(crate) fn recipient_seed(&self, version: KeyVersion) -> Result<Zeroizing<[u8; KEY]>, KeyringError> {
        self.with(Purpose::Encryption, |versions| {
            let mut seed = Zeroizing::new([0; KEY]);
            hkdf::Salt::new(hkdf::HKDF_SHA256, b"harmony-config update recipient 1")
                .extract(get(Purpose::Encryption, version, versions)?)
                .expand(&[b"x25519"], hkdf::HKDF_SHA256)
                .and_then(|derived| derived.fill(seed.as_mut_slice()))
                .map_err(|_| KeyringError::Cipher)?;
            Ok(seed)
        })
    }

    /// Uses the keys as they are on the disk now.
    fn with<T>(
        &self,
        purpose: Purpose,
        of: impl FnOnce(&Versions) -> Result<T, KeyringError>,
    ) -> Result<T, KeyringError> {
        self.refresh(purpose)?;
        of(&self.read(purpose).versions)
    }

    fn ring(&self, purpose: Purpose) -> &RwLock<Ring> {
        match purpose {
            Purpose::Encryption => &self.inner.encryption,
            Purpose::Cache => &self.inner.cache,
            Purpose::Updates => &self.inner.updates,
        }
    }

    fn read(&self, purpose: Purpose) -> RwLockReadGuard<'_, Ring> {
        self.ring(purpose).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process may have rotated: sealing on with an older key would end when that is dropped.
    fn refresh(&self, purpose: Purpose) -> Result<(), KeyringError> {
        let folder = &self.inner.folder;
        let found = kept::stamp(&file::path(folder, purpose))?.ok_or_else(|| missing(folder, purpose))?;
        if self.read(purpose).stamp != found {
            let ring = load(folder, purpose)?;
            *self.ring(purpose).write().unwrap_or_else(PoisonError::into_inner) = ring;
        }
        Ok(())
    }

    fn rewrite<T>(
        &self,
        purpose: Purpose,
        change: impl FnOnce(&mut Versions) -> Result<T, KeyringError>,
    ) -> Result<T, KeyringError> {
        let folder = &self.inner.folder;
        let _lock = Lock::alone(&folder.join(file::LOCK))?;
        let mut versions = load(folder, purpose)?.versions;
        let done = change(&mut versions)?;
        file::write(folder, purpose, &versions)?;
        self.refresh(purpose)?;
        Ok(done)
    }
}

fn load(folder: &Path, purpose: Purpose) -> Result<Ring, KeyringError> {
    let (versions, stamp) = file::read(folder, purpose)?.ok_or_else(|| missing(folder, purpose))?;
    Ok(Ring { versions, stamp })
}

fn missing(folder: &Path, purpose: Purpose) -> KeyringError {
    KeyringError::Missing { path: file::path(folder, purpose) }
}

fn get(purpose: Purpose, version: KeyVersion, versions: &Versions) -> Result<&[u8; KEY], KeyringError> {
    versions.get(version).ok_or_else(|| no_version(purpose, version, versions))
}

fn no_version(purpose: Purpose, version: KeyVersion, versions: &Versions) -> KeyringError {
    let have: Vec<_> = versions.numbers().map(|version| version.to_string()).collect();
    KeyringError::NoVersion { purpose, version, have: have.join(", ") }
}

/// Made for each use: the expansion takes less than a microsecond, and no copy of the key stays in memory.
fn cipher(key: &[u8; KEY]) -> Result<LessSafeKey, KeyringError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| KeyringError::Cipher)
}

#[cfg(test)]
#[path = "keyring/tests.rs"]
mod tests;
