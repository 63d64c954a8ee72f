//! Settings in an SQLite database, with their history, an audit log, and backups.
//!
//! ```text
//!  Database ──reads──▶ thread ─▶ connection ─▶ config.db (WAL)         head: how far the log goes,
//!  (any clone,                    └─ head, then one view                in the folder of the keys
//!   any task) ─writes─▶ thread ─▶ connection
//!                                 └─ one transaction ─ item, its line, its contents ─ head ─ COMMIT
//!                                                                                └─▶ thread ─▶ backup folder
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `schema` | tables, triggers, migrations |
//! | `thread` | the threads that have the connections |
//! | `connection` | pragmas, transactions |
//! | `head` | how far the log goes, outside of the database |
//! | `chain` | lines of the audit log |
//! | `rest` | values as they lie in the database: secrets sealed, with a MAC |
//! | `items` | values as they stand now |
//! | `history` | lines for people, earlier values, snapshots, rollback |
//! | `retention` | which earlier values are kept |
//! | `reseal` | seals everything again after a rotation |
//! | `schemas` | under which schemas services write |
//! | `verify` | whether all of it is what was written |
//! | `changes` | who is told of a change |
//! | `backup` | a backup in a folder: what is in it |
//! | `continuous` | the thread on which it follows the writes |
//! | `restore` | a new database from it, as it was at a time |
//! | `source` | the database as a source of the chain |
//!
//! Tasks share two connections, one for reads and one for writes, so that no read waits for another task's disk;
//! processes share the file, by SQLite's locks. It never keeps a secret that is not
//! sealed, never writes without a line in the log, and never makes a new database of one that it cannot read.

mod backup;
mod chain;
mod changes;
mod connection;
mod continuous;
mod error;
mod head;
mod history;
mod items;
mod reseal;
mod rest;
mod restore;
mod retention;
mod schema;
mod schemas;
mod source;
mod thread;
mod verify;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::watch;

pub use self::{
    backup::{BackupError, BackupFolder, BackupState},
    chain::{Act, Hash, Line},
    error::DatabaseError,
    history::{Entry, Filter, Snapshot},
    items::{Found, Item},
    reseal::Resealed,
    restore::{Restored, Until, restore},
    retention::Retention,
    schemas::MADE_UP,
    verify::{Finding, Verification},
};
use self::{
    changes::Watcher,
    connection::Place,
    continuous::{Continuous, DRAIN},
    thread::Thread,
};
use crate::{
    key::{Actor, FieldPath, Key},
    keyring::Keyring,
    source::{Document, Layer},
};

/// How a database is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose items these are: services that share a database do not see each other's.
    pub service: String,
    /// For how long another process may keep it locked.
    pub patience: Duration,
    /// Most bytes of one item, as it lies in the database.
    pub limit: usize,
    /// How much of the past is kept.
    pub retention: Retention,
    /// Where every change is kept once more; see [`Database::backup`].
    pub backup: Option<BackupFolder>,
}

impl Default for Options {
    /// The service is named as the program.
    fn default() -> Self {
        let program = std::env::current_exe().ok();
        let name =
            program.as_deref().and_then(Path::file_stem).and_then(|name| name.to_str()).unwrap_or("program");
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let service = name.chars().map(|letter| if fits(letter) { letter } else { '-' }).take(64).collect();
        Self {
            service,
            patience: Duration::from_secs(5),
            limit: 64 * 1024,
            retention: Retention::default(),
            backup: None,
        }
    }
}

/// Where a user's services keep their settings: `~/.local/share/harmony/config/config.db`, with `keys` beside it.
/// `None`: this user has no home.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    directories::BaseDirs::new().map(|dirs| dirs.data_dir().join("harmony/config/config.db"))
}

/// A database of settings. Clones share the connections, which are closed with the last. A read sees every write that
/// has returned, and does not wait for those that have not.
#[derive(Debug, Clone)]
pub struct Database {
    place: Arc<Place>,
    /// Has the connection that writes.
    thread: Thread,
    /// Has the one that reads: a write waits for the disk, and who reads must not wait for that.
    reader: Thread,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    changed: Arc<watch::Sender<u64>>,
    watcher: Mutex<Option<Watcher>>,
    backup: Option<Continuous>,
}

impl Drop for Shared {
    /// The program may end now, and its threads with it.
    fn drop(&mut self) {
        if let Some(backup) = &self.backup {
            backup.drain(DRAIN);
        }
    }
}

impl Database {
    /// Opens the database, and makes it where there is none. Waits for the disk: not for a task.
    ///
    /// # Errors
    /// When it cannot be read or made, belongs to other keys, or is older than this machine has seen.
    pub fn open(path: &Path, keyring: Keyring, options: Options) -> Result<Self, DatabaseError> {
        let database = Self::lazy(path, keyring, options)?;
        database.reader.run_blocking(|opened, place| opened.read(place, |_| Ok(())))?;
        Ok(database)
    }

    /// The same, opened with the first use; each use opens it again as long as that fails.
    ///
    /// # Errors
    /// When the service's name is none, or the system gives no thread.
    pub fn lazy(path: &Path, keyring: Keyring, options: Options) -> Result<Self, DatabaseError> {
        check_service(&options.service)?;
        let place = Arc::new(Place::new(path, keyring, options));
        let changed = Arc::new(watch::Sender::new(0));
        let unstarted = |source| error::file_error(path, "opened, for want of a thread", source);
        let backup = Continuous::start(&place).map_err(unstarted)?;
        let start = |name| {
            Thread::start(name, Arc::clone(&place), Arc::clone(&changed), backup.clone()).map_err(unstarted)
        };
        let (thread, reader) = (start("settings")?, start("settings-read")?);
        let shared = Arc::new(Shared { changed, watcher: Mutex::new(None), backup });
        Ok(Self { place, thread, reader, shared })
    }

    /// A thread for one thing that takes long.
    fn start(&self, name: &str) -> Result<Thread, DatabaseError> {
        Thread::start(name, Arc::clone(&self.place), Arc::clone(&self.shared.changed), None)
            .map_err(|source| error::file_error(self.path(), "opened, for want of a thread", source))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Whose items it reads and writes.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.place.options.service
    }

    /// Lets go of the file; the next use opens it again. A continuous backup gets two seconds to follow.
    ///
    /// # Errors
    /// [`DatabaseError::Ended`].
    pub async fn close(&self) -> Result<(), DatabaseError> {
        self.reader.close().await?;
        self.thread.close().await
    }

    /// All items of this service, secrets opened, in one query: what a program needs at its start.
    ///
    /// # Errors
    /// When one of them cannot be read or was changed by hand.
    pub async fn load(&self) -> Result<BTreeMap<Key, Layer>, DatabaseError> {
        let service = self.service().to_owned();
        let load = self.reader.run(move |opened, place| {
            opened.read(place, |view| {
                let layer = |stored: items::Stored| {
                    let layer = Layer {
                        values: stored.open(&place.keyring)?,
                        place: format!(
                            "database {}, {}",
                            place.path.display(),
                            rest::name(&service, &stored.key)
                        ),
                        fields: BTreeMap::new(),
                        version: Some(stored.content.version),
                        revision: Some(stored.revision),
                    };
                    Ok((stored.key, layer))
                };
                items::all(view, Some(&service))?.into_iter().map(layer).collect()
            })
        });
        load.await
    }

    /// Items of one service, or of all, without their secrets.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn list(&self, service: Option<&str>) -> Result<Vec<Item>, DatabaseError> {
        let service = service.map(str::to_owned);
        let list = self.reader.run(move |opened, place| {
            opened.read(place, |view| {
                Ok(items::all(view, service.as_deref())?.into_iter().map(items::Stored::shown).collect())
            })
        });
        list.await
    }

    /// Where keys, names of fields or values have this text, upper or lower case. Secrets are not looked into.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn search(
        &self,
        text: &str,
        service: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Found>, DatabaseError> {
        Ok(items::search(self.list(service).await?, text, limit))
    }

    /// The newest revision of each service: its epoch.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn epochs(&self) -> Result<BTreeMap<String, u64>, DatabaseError> {
        self.reader.run(|opened, place| opened.read(place, |view| items::epochs(view))).await
    }

    /// Shows an item with its secrets to a person. The line that tells of it is written first; without it nothing is
    /// shown. What a program reads for itself needs no line.
    ///
    /// # Errors
    /// [`DatabaseError::Missing`], [`DatabaseError::Audit`], or when it cannot be read.
    pub async fn show(
        &self,
        service: &str,
        key: &Key,
        place: &FieldPath,
        actor: &Actor,
    ) -> Result<Document, DatabaseError> {
        let (service, key, actor) = (service.to_owned(), key.clone(), actor.clone());
        let detail = Some(place.to_string()).filter(|place| !place.is_empty());
        let show = self.thread.run(move |opened, place| {
            let audited = opened.write(place, &actor, |writing| {
                let stored = items::get(&writing.tx, &service, &key)?;
                let stored = stored.ok_or_else(|| DatabaseError::Missing {
                    what: format!("there is no {}", rest::name(&service, &key)),
                })?;
                writing.line(Act::Reveal, Some((&service, &key)), detail, None)?;
                Ok(stored)
            });
            let stored = match audited {
                Ok(stored) => stored,
                Err(fault) => return Err(unaudited(fault, place)),
            };
            stored.open(&place.keyring)
        });
        show.await
    }

    /// Writes a line about something that happened outside of the database: a secret of another source was shown,
    /// somebody was refused. Do it first, and nothing if it fails. Gives the number of the line.
    ///
    /// # Errors
    /// [`DatabaseError::Audit`].
    pub async fn record(
        &self,
        act: Act,
        key: Option<&Key>,
        detail: Option<&str>,
        actor: &Actor,
    ) -> Result<u64, DatabaseError> {
        let (service, key, actor) = (self.service().to_owned(), key.cloned(), actor.clone());
        let detail = detail.map(|detail| detail.chars().take(connection::LONGEST).collect());
        let record = self.thread.run(move |opened, place| {
            let written = opened.write(place, &actor, |writing| {
                let item = key.as_ref().map(|key| (service.as_str(), key));
                Ok(writing.line(act, item, detail, None)?.line)
            });
            written.map_err(|fault| unaudited(fault, place))
        });
        record.await
    }
}

/// What failed was the line, whatever the reason: nothing else was to be written.
fn unaudited(fault: error::Fault, place: &Place) -> error::Fault {
    match fault.at(&place.path, place.options.patience) {
        error @ (DatabaseError::Audit { .. } | DatabaseError::Missing { .. }) => error.into(),
        error => DatabaseError::Audit { why: Box::new(error) }.into(),
    }
}

fn check_service(name: &str) -> Result<(), DatabaseError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !first || name.len() > 64 || !name.bytes().all(fits) {
        return Err(DatabaseError::Service { name: name.chars().take(80).collect() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
