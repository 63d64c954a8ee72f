//! The device's own keys, and whom it trusts.
//!
//! ```text
//! <data-dir>/keys/          0700
//!   identity.nk             0600  Ed25519 nkey seed (SU…): proves to NATS who connects
//!   curve.nk                0600  X25519 xkey seed (SX…): seals what travels
//!   next/                   0700  the same two, made anew, until the fleet has taken them
//!   fleet-statement.json    0600  newest accepted statement of the fleet's keys
//!   sealing.key, data-key.json    what seals the store: see `sealing`
//! ```
//!
//! Seeds are made on the device and never leave it. A seed that others could read, or that is damaged, is
//! refused instead of being replaced: a device with new keys is another device.

mod files;
mod trust;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fleet_daemon::credential::NkeySeed;
use fleet_wire::keys::{CurveKey, IdentityKey, KeyError, fingerprint};
use nkeys::{KeyPair, KeyPairType, XKey};
use serde::Serialize;
use zeroize::Zeroizing;

pub(crate) use self::files::{make_private, read_private, sync_directory};
pub use self::{
    files::{private_directory, replace_private},
    trust::Trust,
};

/// Why the device has no usable keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A directory could not be made or looked at.
    #[error("cannot use the directory {path}: make it writable for this user, or set another data-dir")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could read it.
    #[error(
        "{path} has mode {mode:04o}, but must not be accessible to others: run `chmod {expected:o} {path}`"
    )]
    Permissions {
        /// File or directory.
        path: PathBuf,
        /// Mode found.
        mode: u32,
        /// Mode wanted.
        expected: u32,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content is not the seed that it should be.
    #[error(
        "{path} does not hold {expected}: restore it from a backup, or remove it and enroll the device again \
         with the key that is then made"
    )]
    Garbage {
        /// The file.
        path: PathBuf,
        /// The kind of seed.
        expected: &'static str,
    },
    /// No random key could be made.
    #[error("cannot make a key: {0}")]
    Generate(String),
    /// The statement of the fleet's keys is not JSON.
    #[error("{path} is not a signed statement of the fleet's keys: fetch it from the fleet again")]
    StatementSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The statement of the fleet's keys is not trusted.
    #[error("the statement of the fleet's keys in {path} is refused")]
    Statement {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// An older statement than one that was accepted before.
    #[error(
        "the statement of the fleet's keys in {path} has sequence {found}, but {seen} was accepted before: \
         fetch the newest one"
    )]
    StatementRollback {
        /// The file.
        path: PathBuf,
        /// Its sequence.
        found: u64,
        /// Highest accepted sequence.
        seen: u64,
    },
    /// Another statement with the number of one that was accepted before.
    #[error(
        "the statement of the fleet's keys in {path} has sequence {sequence} as the one that was accepted before, \
         and other content: one of them is forged, or the fleet counted wrongly. Sign the right one again with a \
         higher sequence"
    )]
    StatementFork {
        /// The file.
        path: PathBuf,
        /// The sequence of both.
        sequence: u64,
    },
    /// There is no statement yet.
    #[error("this device has no statement of the fleet's keys: enroll it, or set fleet-keys-file")]
    NoStatement,
}

/// Both keys of a device.
pub struct DeviceKeys {
    identity_seed: Zeroizing<String>,
    identity: IdentityKey,
    curve: XKey,
    curve_public: CurveKey,
}

impl std::fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceKeys")
            .field("identity", &self.identity)
            .field("curve", &self.curve_public)
            .finish()
    }
}

/// The public halves, as enrollment wants them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicKeys {
    /// Identity key (`U…`).
    pub identity: IdentityKey,
    /// Curve key (`X…`).
    pub curve: CurveKey,
    /// What a person compares before approving the device.
    pub fingerprint: String,
}

const IDENTITY: &str = "identity.nk";
const CURVE: &str = "curve.nk";
/// Keys that the fleet does not know yet, or of which this device does not know that it does.
const NEXT: &str = "next";
/// The same while they take the old ones' place: from then on nothing but that is done.
const PROVED: &str = "proved";

impl DeviceKeys {
    /// Reads the keys under `data_dir`, making those that do not exist yet.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeysError> {
        let directory = directory(data_dir)?;
        finish(&directory)?;
        Self::load_or_create_in(&directory)
    }

    /// The keys that are to replace these, if some were made.
    pub fn next(data_dir: &Path) -> Result<Option<Self>, KeysError> {
        let directory = directory(data_dir)?;
        finish(&directory)?;
        let next = directory.join(NEXT);
        if next.exists() { Self::load_or_create_in(&next).map(Some) } else { Ok(None) }
    }

    /// The keys that are to replace these: the ones that were made before, else fresh ones. They are on disk
    /// when this returns, so that the fleet never learns of keys that are lost.
    pub fn make_next(data_dir: &Path) -> Result<Self, KeysError> {
        if let Some(next) = Self::next(data_dir)? {
            return Ok(next);
        }
        let directory = directory(data_dir)?;
        let (next, beside) = (directory.join(NEXT), files::temporary(&directory.join(NEXT)));
        let refuse = |source| KeysError::Directory { path: next.clone(), source };
        private_directory(&beside).map_err(refuse)?;
        let keys = Self::load_or_create_in(&beside)?;
        // Both or none.
        fs::rename(&beside, &next).and_then(|()| sync_directory(&next)).map_err(refuse)?;
        Ok(keys)
    }

    /// The fleet knows the next keys: they replace the ones so far, which are gone.
    pub fn promote_next(data_dir: &Path) -> Result<Self, KeysError> {
        let directory = directory(data_dir)?;
        let (next, proved) = (directory.join(NEXT), directory.join(PROVED));
        if next.exists() {
            fs::rename(&next, &proved)
                .and_then(|()| sync_directory(&proved))
                .map_err(|source| KeysError::Write { path: proved, source })?;
        }
        Self::load_or_create(data_dir)
    }

    /// The next keys will not be asked for any more: the fleet has said that it does not take them.
    pub fn drop_next(data_dir: &Path) -> Result<(), KeysError> {
        let next = directory(data_dir)?.join(NEXT);
        match fs::remove_dir_all(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(KeysError::Write { path: next, source: error })
            }
            _ => Ok(()),
        }
    }

    fn load_or_create_in(directory: &Path) -> Result<Self, KeysError> {
        let (identity_file, curve_file) = (directory.join(IDENTITY), directory.join(CURVE));
        let identity_seed = seed(&identity_file, || {
            KeyPair::new_user().seed().map_err(|error| KeysError::Generate(error.to_string()))
        })?;
        let garbage = |path: &Path, expected| KeysError::Garbage { path: path.to_owned(), expected };
        let identity = KeyPair::from_seed(&identity_seed)
            .ok()
            .filter(|pair| pair.key_pair_type() == KeyPairType::User)
            .and_then(|pair| pair.public_key().parse().ok())
            .ok_or_else(|| garbage(&identity_file, "the seed of a user nkey (SU…)"))?;
        let curve_seed =
            seed(&curve_file, || XKey::new().seed().map_err(|error| KeysError::Generate(error.to_string())))?;
        let not_a_curve = || garbage(&curve_file, "the seed of a curve nkey (SX…)");
        let curve = XKey::from_seed(&curve_seed).map_err(|_| not_a_curve())?;
        let curve_public = curve.public_key().parse().map_err(|_| not_a_curve())?;
        Ok(Self { identity_seed, identity, curve, curve_public })
    }

    /// Seed of the identity key.
    pub fn identity_seed(&self) -> &str {
        &self.identity_seed
    }

    /// The identity key, for the NATS connection.
    pub fn login_key(&self) -> NkeySeed {
        NkeySeed::new(self.identity_seed.as_str())
    }

    /// The identity key, ready to sign.
    pub fn identity_pair(&self) -> Result<KeyPair, KeysError> {
        KeyPair::from_seed(&self.identity_seed).map_err(|_| KeysError::Garbage {
            path: IDENTITY.into(),
            expected: "the seed of a user nkey (SU…)",
        })
    }

    /// The public identity key.
    pub fn identity(&self) -> &IdentityKey {
        &self.identity
    }

    /// The curve key, for the session.
    pub fn curve(&self) -> &XKey {
        &self.curve
    }

    /// The public curve key.
    pub fn curve_public(&self) -> &CurveKey {
        &self.curve_public
    }

    /// The public halves.
    pub fn public(&self) -> PublicKeys {
        PublicKeys {
            identity: self.identity.clone(),
            curve: self.curve_public.clone(),
            fingerprint: fingerprint(&self.identity, &self.curve_public),
        }
    }
}

/// File of the identity key's seed.
pub fn identity_file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys").join(IDENTITY)
}

/// Ends a replacement that a power cut interrupted. Each step can be done again.
fn finish(directory: &Path) -> Result<(), KeysError> {
    let proved = directory.join(PROVED);
    if !proved.exists() {
        return Ok(());
    }
    for name in [IDENTITY, CURVE] {
        let (from, to) = (proved.join(name), directory.join(name));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(KeysError::Write { path: to, source: error });
            }
            _ => {}
        }
    }
    fs::remove_dir(&proved)
        .and_then(|()| sync_directory(&proved))
        .map_err(|source| KeysError::Write { path: proved, source })
}

/// `<data_dir>/keys`, made if needed, refused if others may enter.
pub(crate) fn directory(data_dir: &Path) -> Result<PathBuf, KeysError> {
    let path = data_dir.join("keys");
    let refuse = |source| KeysError::Directory { path: path.clone(), source };
    fs::create_dir_all(data_dir).map_err(refuse)?;
    private_directory(&path).map_err(refuse)?;
    files::check_mode(&path, 0o700)?;
    Ok(path)
}

/// Refuses a file of this folder that others may use.
pub(crate) fn check_private(path: &Path) -> Result<(), KeysError> {
    files::check_mode(path, 0o600)
}

/// The seed in `path`; made and written if there is none.
fn seed(
    path: &Path,
    make: impl FnOnce() -> Result<String, KeysError>,
) -> Result<Zeroizing<String>, KeysError> {
    if let Some(seed) = read_private(path)? {
        return Ok(seed);
    }
    let seed = Zeroizing::new(make()?);
    make_private(path, format!("{}\n", seed.as_str()).as_bytes())?;
    // Of two processes at once, one made the key.
    read_private(path)?.ok_or_else(|| KeysError::Read {
        path: path.to_owned(),
        source: io::Error::from(io::ErrorKind::NotFound),
    })
}

#[cfg(test)]
#[path = "keys/tests/keys.rs"]
mod tests;
