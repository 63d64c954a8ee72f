//! The fleet's own keys: the secret ones that open what devices say, and the statement that tells devices which there
//! are. Both change while the process runs, when the fleet rotates its key.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_wire::{
    keys::{FleetKeys, KeyStatement, SignedKeyStatement},
    message::HelloRequest,
    name::KeyVersion,
};
use tokio::sync::watch;

/// How often the files are looked at. A Secret that is mounted is replaced by turning a symbolic link two folders
/// above, which a watch of the files does not see; a look at a few small files costs nothing.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the cluster side has of the fleet's keys.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Secret curve keys by version.
    pub keys: FleetKeys,
    /// The newest statement and its sequence; `None`: devices are told nothing.
    pub statement: Option<(u64, SignedKeyStatement)>,
}

impl Fleet {
    /// The statement for a device, if it has an older one or none.
    pub fn news(&self, hello: &HelloRequest) -> Option<SignedKeyStatement> {
        let (sequence, statement) = self.statement.as_ref()?;
        (hello.key_statement < Some(*sequence)).then(|| statement.clone())
    }

    fn is_like(&self, other: &Self) -> bool {
        self.keys.public() == other.keys.public() && self.statement == other.statement
    }
}

/// Where the keys lie.
#[derive(Debug, Clone)]
pub struct FleetFiles {
    /// Files named `<version>.nk`, and folders of such files.
    pub seeds: Vec<PathBuf>,
    /// The signed statement (JSON).
    pub statement: Option<PathBuf>,
}

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A file or folder could not be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's name has no version.
    #[error("{path} is not named <version>.nk with a version from 1, e.g. 1.nk", path = path.display())]
    Name {
        /// Which.
        path: PathBuf,
    },
    /// A seed or key is none.
    #[error(transparent)]
    Key(#[from] fleet_wire::keys::KeyError),
    /// The statement is none.
    #[error("{path} is not a signed statement of the fleet's keys: {source}", path = path.display())]
    Statement {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Devices would seal with a key that this process does not have.
    #[error(
        "the statement announces version {version} of the fleet's key, whose seed is not (or another one) in \
         fleet-key-files: bring the seed here first"
    )]
    Mismatch {
        /// Which version.
        version: KeyVersion,
    },
}

impl FleetFiles {
    /// Reads everything.
    ///
    /// # Errors
    /// [`FleetError`], also when statement and seeds do not belong together.
    pub fn read(&self) -> Result<Fleet, FleetError> {
        let mut seeds = Vec::new();
        for path in &self.seeds {
            if path.is_dir() {
                let read = |source| FleetError::Read { path: path.clone(), source };
                for entry in std::fs::read_dir(path).map_err(read)? {
                    let file = entry.map_err(read)?.path();
                    // The folder of a mounted Secret has others, too.
                    if let Some(version) = version(&file) {
                        seeds.push((version, seed(&file)?));
                    }
                }
            } else {
                let version = version(path).ok_or_else(|| FleetError::Name { path: path.clone() })?;
                seeds.push((version, seed(path)?));
            }
        }
        let keys = FleetKeys::from_seeds(seeds)?;
        let statement = self.statement.as_ref().map(|path| statement(path, &keys)).transpose()?;
        Ok(Fleet { keys, statement })
    }
}

fn version(file: &Path) -> Option<KeyVersion> {
    let name = file.file_name()?.to_str()?.strip_suffix(".nk")?;
    name.parse().ok().filter(|version| *version > 0).map(KeyVersion)
}

fn seed(path: &Path) -> Result<String, FleetError> {
    std::fs::read_to_string(path).map_err(|source| FleetError::Read { path: path.to_owned(), source })
}

/// Whether the root key signed it, the devices check: they have pinned that key, this process need not know it.
fn statement(path: &Path, keys: &FleetKeys) -> Result<(u64, SignedKeyStatement), FleetError> {
    let text = seed(path)?;
    let malformed = |source| FleetError::Statement { path: path.to_owned(), source };
    let signed: SignedKeyStatement = serde_json::from_str(&text).map_err(malformed)?;
    let statement: KeyStatement = serde_json::from_str(&signed.statement).map_err(malformed)?;
    let own = keys.public();
    let (newest, _) = statement.fleet_keys()?.newest();
    for (version, public) in &statement.curve_keys {
        // An old version may have been dropped here already; the newest is what devices will use.
        let known = own.get(version);
        if known.is_some_and(|known| known != public) || known.is_none() && *version == newest {
            return Err(FleetError::Mismatch { version: *version });
        }
    }
    Ok((statement.sequence, signed))
}

/// Brings changes of the files to whoever uses the keys, for ever. What cannot be used is said once, and changes
/// nothing.
pub async fn follow(files: FleetFiles, fleet: watch::Sender<Fleet>) {
    let mut said = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let reader = files.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || reader.read()).await else { continue };
        match read {
            Ok(read) => {
                said = None;
                let changed = fleet.send_if_modified(|known| {
                    let changed = !known.is_like(&read);
                    if changed {
                        *known = read;
                    }
                    changed
                });
                if changed {
                    let fleet = fleet.borrow();
                    tracing::info!(
                        version = fleet.keys.newest().0.0,
                        statement = fleet.statement.as_ref().map(|(sequence, _)| sequence),
                        "the fleet's keys were read anew"
                    );
                }
            }
            Err(error) => {
                let error = error.to_string();
                if said.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "the fleet's keys cannot be read anew; the ones so far stay in use"
                    );
                    said = Some(error);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/fleet.rs"]
mod tests;
