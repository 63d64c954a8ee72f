//! The device's own keys, and whom it trusts.
//!
//! ```text
//! <data-dir>/keys/          0700
//!   identity.nk             0600  Ed25519 nkey seed (SU…): proves to NATS who connects
//!   curve.nk                0600  X25519 xkey seed (SX…): seals what travels
//!   fleet-statement.json    0600  newest accepted statement of the fleet's keys
//! ```
//!
//! Seeds are made on the device at the first start and never leave it. A seed that others could read, or
//! that is damaged, is refused instead of being replaced: a device with new keys is another device.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fleet_wire::keys::{FleetKeys, KeyError, KeyStatement, SignedKeyStatement};
use nkeys::{KeyPair, KeyPairType, XKey};
use serde::Serialize;
use zeroize::Zeroizing;

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
}

/// Both keys of a device.
pub struct DeviceKeys {
    identity_seed: Zeroizing<String>,
    identity_public: String,
    curve: XKey,
}

impl std::fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceKeys")
            .field("identity", &self.identity_public)
            .field("curve", &self.curve.public_key())
            .finish()
    }
}

/// The public halves, as enrollment wants them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicKeys {
    /// Identity key (`U…`).
    pub identity: String,
    /// Curve key (`X…`).
    pub curve: String,
}

impl DeviceKeys {
    /// Reads the keys under `data_dir`, making those that do not exist yet.
    pub fn load_or_create(data_dir: &Path) -> Result<Self, KeysError> {
        let directory = directory(data_dir)?;
        let identity_seed = seed(&directory.join("identity.nk"), || {
            KeyPair::new_user().seed().map_err(|error| KeysError::Generate(error.to_string()))
        })?;
        let identity = KeyPair::from_seed(&identity_seed)
            .ok()
            .filter(|pair| pair.key_pair_type() == KeyPairType::User)
            .ok_or_else(|| KeysError::Garbage {
                path: directory.join("identity.nk"),
                expected: "the seed of a user nkey (SU…)",
            })?;
        let curve_seed = seed(&directory.join("curve.nk"), || {
            XKey::new().seed().map_err(|error| KeysError::Generate(error.to_string()))
        })?;
        let curve = XKey::from_seed(&curve_seed).map_err(|_| KeysError::Garbage {
            path: directory.join("curve.nk"),
            expected: "the seed of a curve nkey (SX…)",
        })?;
        Ok(Self { identity_seed, identity_public: identity.public_key(), curve })
    }

    /// Seed of the identity key, for the NATS connection.
    pub fn identity_seed(&self) -> &str {
        &self.identity_seed
    }

    /// The curve key, for the session.
    pub fn curve(&self) -> &XKey {
        &self.curve
    }

    /// The public halves.
    pub fn public(&self) -> PublicKeys {
        PublicKeys { identity: self.identity_public.clone(), curve: self.curve.public_key() }
    }
}

/// The fleet's curve keys from the statement in `file`, if the pinned root key signed it and it is not
/// older than one that this device accepted before.
///
/// A file that has gone missing is replaced by what was accepted last, so that a device comes back from a
/// reboot with what it has.
pub fn fleet_keys(data_dir: &Path, file: &Path, root: &str) -> Result<FleetKeys, KeysError> {
    let directory = directory(data_dir)?;
    let kept = directory.join("fleet-statement.json");
    let seen = match read_private(&kept)? {
        // A kept statement of another root key belongs to another fleet, which this device left.
        Some(text) => verified(&kept, text.as_bytes(), root).ok(),
        None => None,
    };
    let statement = match (fs::read(file), seen) {
        (Ok(text), seen) => newest(file, &text, root, seen, &kept)?,
        (Err(source), Some(seen)) => {
            let file = file.display();
            tracing::warn!(%file, %source, "the statement of the fleet's keys cannot be read: using the last one");
            seen
        }
        (Err(source), None) => return Err(KeysError::Read { path: file.to_owned(), source }),
    };
    statement.fleet_keys().map_err(|source| KeysError::Statement { path: file.to_owned(), source })
}

/// The statement in `text`; kept for the next start if it is a new one.
fn newest(
    file: &Path,
    text: &[u8],
    root: &str,
    seen: Option<KeyStatement>,
    kept: &Path,
) -> Result<KeyStatement, KeysError> {
    let statement = verified(file, text, root)?;
    match seen {
        Some(seen) if seen.sequence > statement.sequence => {
            return Err(KeysError::StatementRollback {
                path: file.to_owned(),
                found: statement.sequence,
                seen: seen.sequence,
            });
        }
        Some(seen) if seen == statement => {}
        _ => replace_private(kept, text)?,
    }
    Ok(statement)
}

fn verified(path: &Path, text: &[u8], root: &str) -> Result<KeyStatement, KeysError> {
    let signed: SignedKeyStatement = serde_json::from_slice(text)
        .map_err(|source| KeysError::StatementSyntax { path: path.to_owned(), source })?;
    signed.verify(root).map_err(|source| KeysError::Statement { path: path.to_owned(), source })
}

/// `<data_dir>/keys`, made if needed, refused if others may enter.
fn directory(data_dir: &Path) -> Result<PathBuf, KeysError> {
    let path = data_dir.join("keys");
    let refuse = |source| KeysError::Directory { path: path.clone(), source };
    if !path.exists() {
        fs::create_dir_all(data_dir).map_err(refuse)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refuse(error)),
            _ => {}
        }
    }
    let mode = fs::metadata(&path).map_err(refuse)?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Permissions { path, mode, expected: 0o700 });
    }
    Ok(path)
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
    let temporary = temporary(path);
    let write = |source| KeysError::Write { path: path.to_owned(), source };
    write_private(&temporary, format!("{}\n", seed.as_str()).as_bytes()).map_err(write)?;
    // A link fails where a rename would replace: of two processes at once, one makes the key.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(write)?;
    match linked {
        Ok(()) => {
            sync_directory(path).map_err(write)?;
            Ok(seed)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_private(path)?.ok_or_else(|| write(error))
        }
        Err(error) => Err(write(error)),
    }
}

/// A private file's text without surrounding white space; `None` if it does not exist.
fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, KeysError> {
    let mode = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.mode() & 0o7777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeysError::Read { path: path.to_owned(), source }),
    };
    if mode & 0o077 != 0 {
        return Err(KeysError::Permissions { path: path.to_owned(), mode, expected: 0o600 });
    }
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

fn replace_private(path: &Path, content: &[u8]) -> Result<(), KeysError> {
    let temporary = temporary(path);
    write_private(&temporary, content)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_directory(path))
        .map_err(|source| KeysError::Write { path: path.to_owned(), source })
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension(format!("tmp-{:016x}", rand::random::<u64>()))
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt};

    use fleet_wire::name::KeyVersion;

    use super::*;

    #[test]
    fn keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let made = DeviceKeys::load_or_create(dir.path()).unwrap().public();
        assert!(made.identity.starts_with('U') && made.curve.starts_with('X'));
        assert_eq!(DeviceKeys::load_or_create(dir.path()).unwrap().public(), made);
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode("keys"), 0o700);
        assert_eq!(mode("keys/identity.nk"), 0o600);
        assert_eq!(mode("keys/curve.nk"), 0o600);
        assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 2, "no temporary file stays");
    }

    #[test]
    fn a_readable_seed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        DeviceKeys::load_or_create(dir.path()).unwrap();
        let path = dir.path().join("keys/curve.nk");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = DeviceKeys::load_or_create(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path().join("keys"), fs::Permissions::from_mode(0o755)).unwrap();
        let error = DeviceKeys::load_or_create(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_damaged_seed_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        DeviceKeys::load_or_create(dir.path()).unwrap();
        for name in ["identity.nk", "curve.nk"] {
            let path = dir.path().join("keys").join(name);
            let good = fs::read(&path).unwrap();
            // An account's seed is a valid nkey, but of another kind.
            for bad in ["", "garbage", &KeyPair::new_account().seed().unwrap()] {
                fs::write(&path, bad).unwrap();
                let error = DeviceKeys::load_or_create(dir.path()).unwrap_err();
                assert!(matches!(error, KeysError::Garbage { .. }), "{error}");
                assert_eq!(fs::read_to_string(&path).unwrap(), bad);
            }
            fs::write(&path, good).unwrap();
        }
    }

    #[test]
    fn debug_output_has_no_seed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = DeviceKeys::load_or_create(dir.path()).unwrap();
        let shown = format!("{keys:?}");
        assert!(!shown.contains("SU") || !shown.contains(keys.identity_seed()), "{shown}");
    }

    #[test]
    fn the_fleets_keys_need_the_pinned_signature_and_never_go_back() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (KeyPair::new_operator(), KeyPair::new_operator());
        let statement = |sequence| KeyStatement {
            sequence,
            curve_keys: BTreeMap::from([(KeyVersion(1), XKey::new().public_key())]),
            enroller_key: None,
        };
        let file = dir.path().join("fleet.json");
        let write = |statement: &KeyStatement, key: &KeyPair| {
            let signed = SignedKeyStatement::sign(statement, key).unwrap();
            fs::write(&file, serde_json::to_vec(&signed).unwrap()).unwrap();
        };
        let load = || fleet_keys(dir.path(), &file, &root.public_key());

        write(&statement(5), &other);
        assert!(matches!(load(), Err(KeysError::Statement { .. })));
        fs::write(&file, "{").unwrap();
        assert!(matches!(load(), Err(KeysError::StatementSyntax { .. })));
        write(&statement(5), &root);
        load().unwrap();
        load().unwrap();
        write(&statement(4), &root);
        assert!(matches!(load(), Err(KeysError::StatementRollback { found: 4, seen: 5, .. })));
        write(&statement(6), &root);
        load().unwrap();
        fs::remove_file(&file).unwrap();
        load().unwrap();
        write(&statement(5), &root);
        assert!(matches!(load(), Err(KeysError::StatementRollback { found: 5, seen: 6, .. })));
        let kept = fs::read_to_string(dir.path().join("keys/fleet-statement.json")).unwrap();
        let kept: SignedKeyStatement = serde_json::from_str(&kept).unwrap();
        assert_eq!(kept.verify(&root.public_key()).unwrap().sequence, 6, "what is refused is not kept");
    }
}
