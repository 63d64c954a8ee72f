//! A connection: how it is opened, and what holds for every read and every write through it.
//!
//! It owns the pragmas, the transactions and the comparison of the log's end with the head. What stands in the tables
//! is its callers' business. Everything here blocks; it runs on the threads of [`super::thread`] only.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::{
    Options,
    backup::BackupState,
    chain::{self, Act, Line, Tail},
    error::{DatabaseError, Fault, file_error},
    head::{Head, Known, Standing},
    schema,
};
use crate::{
    key::{Actor, Key},
    keyring::{Keyring, Mac},
};

/// Longest text about an actor that a line takes; a name, a host, an id are shorter.
pub(crate) const LONGEST: usize = 256;

/// Where the database is, and how it is used.
#[derive(Debug)]
pub(crate) struct Place {
    pub path: PathBuf,
    pub keyring: Keyring,
    pub options: Options,
    backup: Mutex<BackupState>,
    /// One connection after the other is opened: what makes the file has closed it before SQLite opens it.
    opening: Mutex<()>,
}

/// An open connection.
pub(crate) struct Opened {
    pub connection: Connection,
    pub head: Head,
    file: (u64, u64),
    writable: bool,
}

impl Place {
    pub(crate) fn new(path: &Path, keyring: Keyring, options: Options) -> Self {
        Self { path: path.to_owned(), keyring, options, backup: Mutex::default(), opening: Mutex::default() }
    }

    pub(crate) fn backup_state(&self) -> MutexGuard<'_, BackupState> {
        self.backup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the database; makes it, and its folders, where there is none. Where nothing can be written, what is there
    /// can still be read.
    pub(crate) fn open(&self) -> Result<Opened, Fault> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        // SQLite would say of a folder that it cannot open it, and would wait for a pipe.
        if let Some(found) = no_file(&self.path) {
            return Err(DatabaseError::NoFile { path: self.path.clone(), found }.into());
        }
        match self.open_writable() {
            Err(fault) if self.is_unwritable(&fault) && self.path.exists() => match self.open_readable() {
                Ok(opened) => Ok(opened),
                Err(Fault::Known(known)) => Err(known.into()),
                Err(_) => Err(fault),
            },
            result => result,
        }
    }

    fn is_unwritable(&self, fault: &Fault) -> bool {
        match fault {
            Fault::Known(error) => matches!(error, DatabaseError::ReadOnly { .. }),
            Fault::Sqlite(error) => {
                matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen))
            }
            Fault::Keys(_) => false,
        }
    }

    fn open_writable(&self) -> Result<Opened, Fault> {
        let written = |source: io::Error| Fault::from(file_error(&self.path, "written", source));
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(written)?;
        }
        // SQLite gives -wal and -shm the mode of this file.
        let mut file = OpenOptions::new();
        file.read(true).write(true).create_new(true).mode(0o600);
        let was_there = match file.open(&self.path) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Asked, not opened: to close it would end the locks of this process' other connection.
                accessat(CWD, &self.path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS)
                    .map_err(|error| written(error.into()))?;
                true
            }
            Err(error) => return Err(written(error)),
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.options.patience)?;
        let file = identity(&self.path).map_err(written)?;
        // What is not ours is left as it is, also its journal.
        if schema::form(&connection.transaction()?)? == schema::Form::Foreign {
            return Err(DatabaseError::Foreign { path: self.path.clone() }.into());
        }
        self.use_wal(&connection)?;
        connection.execute_batch(
            "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;
             PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 1048576;",
        )?;
        schema::migrate(&mut connection, &self.path, |id| {
            let lines = if was_there { Head::lines_at(&self.keyring, &self.path) } else { 0 };
            if lines > 0 {
                let why = format!("it is empty, and its log had {lines} lines");
                return Err(DatabaseError::Corrupt { path: self.path.clone(), why }.into());
            }
            Head::new(&self.keyring, id).set(&self.keyring, Tail::NONE)
        })?;
        let head = Head::new(&self.keyring, &schema::id(&connection)?);
        head.claim(&self.keyring, &self.path)?;
        let mut opened = Opened { connection, head, file, writable: true };
        // What a killed process left between two steps.
        opened.settle(self);
        Ok(opened)
    }

    /// Two processes that make the database at once: SQLite does not wait for this lock by itself.
    fn use_wal(&self, connection: &Connection) -> Result<(), Fault> {
        let deadline = Instant::now() + self.options.patience;
        loop {
            let mode = connection
                .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0));
            match mode {
                Ok(mode) if mode == "wal" => return Ok(()),
                Ok(mode) => {
                    let why =
                        format!("its journal is {mode:?} and cannot be WAL: is it on a network file system?");
                    return Err(DatabaseError::Unopened { path: self.path.clone(), why }.into());
                }
                Err(error)
                    if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                        && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn open_readable(&self) -> Result<Opened, Fault> {
        let read = |source: io::Error| Fault::from(file_error(&self.path, "read", source));
        let file = identity(&self.path).map_err(read)?;
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
        let mut uri = uri(&self.path);
        if !beside(&self.path, "-wal").exists() {
            // All of it is in the file, and SQLite could not make the files by which it looks for more.
            uri.push_str("?immutable=1");
        }
        let mut connection = Connection::open_with_flags(uri, flags)?;
        connection.busy_timeout(self.options.patience)?;
        match schema::form(&connection.transaction()?)? {
            schema::Form::Ours(schema::FORM) => {}
            schema::Form::Ours(found) if found > schema::FORM => {
                return Err(
                    DatabaseError::TooNew { path: self.path.clone(), found, known: schema::FORM }.into()
                );
            }
            schema::Form::Foreign => return Err(DatabaseError::Foreign { path: self.path.clone() }.into()),
            schema::Form::Empty | schema::Form::Ours(_) => return Err(self.read_only()),
        }
        let head = Head::new(&self.keyring, &schema::id(&connection)?);
        Ok(Opened { connection, head, file, writable: false })
    }

    fn read_only(&self) -> Fault {
        DatabaseError::ReadOnly {
            path: self.path.clone(),
            why: "this user may not write it, or the disk is read-only".to_owned(),
        }
        .into()
    }
}

/// What is at a path, if it is something else than a file.
fn no_file(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_socket() => Some("a socket"),
        () if kind.is_fifo() => Some("a pipe"),
        () => Some("a device"),
    }
}

/// Device and inode: another file at the same path is another database.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

/// A file that SQLite keeps beside the database.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// As SQLite reads it; what follows is appended with `?`.
pub(crate) fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte))
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri
}

impl Opened {
    /// Whether this is still the file at that path, and a connection that may stay open.
    pub(crate) fn is_current(&self, place: &Place) -> bool {
        self.writable && identity(&place.path).is_ok_and(|found| found == self.file)
    }

    /// One consistent view. Refuses a database of which lines are missing.
    pub(crate) fn read<T>(
        &mut self,
        place: &Place,
        look: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // Before the view: others may write between the two, and the log only grows.
        let known = self.known(place)?;
        let view = self.connection.transaction()?;
        let tail = chain::tail(&view)?;
        self.head.refuse(place, known.standing_later(tail), &known, tail)?;
        look(&view)
    }

    /// A change: all of it, durably, or nothing. Lines of the log are part of it.
    pub(crate) fn write<T>(
        &mut self,
        place: &Place,
        actor: &Actor,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if !self.writable {
            return Err(place.read_only());
        }
        let (result, written) = self.write_unsettled(place, actor, change)?;
        if written {
            self.settle(place);
        }
        Ok(result)
    }

    /// Gives also whether there is a new line.
    fn write_unsettled<T>(
        &mut self,
        place: &Place,
        actor: &Actor,
        change: impl FnOnce(&mut Writing<'_>) -> Result<T, Fault>,
    ) -> Result<(T, bool), Fault> {
        let tx = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
        // Under the write lock nobody else changes the head.
        let Some(known) = self.head.read(&place.keyring)? else {
            return Err(headless(place, &self.head));
        };
        let from = chain::tail(&tx)?;
        self.head.refuse(place, known.standing(from), &known, from)?;
        let mut writing = Writing {
            tx,
            place,
            actor: clipped(actor),
            at: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default(),
            revision: from.line + 1,
            tail: from,
        };
        let result = change(&mut writing)?;
        let (tx, to) = (writing.tx, writing.tail);
        if to == from {
            return Ok((result, false));
        }
        self.head.announce(&place.keyring, &known, from, to)?;
        tx.commit()?;
        Ok((result, true))
    }

    /// Says in the head how the log stands, unless somebody else is writing, who will do so himself. Until it has
    /// succeeded either end is accepted, so nothing depends on it.
    fn settle(&mut self, place: &Place) {
        let (connection, head) = (&mut self.connection, &self.head);
        let mut attempt = || -> Result<(), Fault> {
            connection.busy_timeout(Duration::ZERO)?;
            let tx = Transaction::new(connection, TransactionBehavior::Immediate)?;
            let tail = chain::tail(&tx)?;
            match head.read(&place.keyring)? {
                Some(known) if known.pending.is_some() && known.standing(tail) == Standing::Expected => {
                    head.settle(&place.keyring, &known, tail)
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = attempt() {
            tracing::debug!(%error, "the head of the settings' log stays pending");
        }
        if let Err(error) = self.connection.busy_timeout(place.options.patience) {
            tracing::debug!(%error, "SQLite keeps its patience");
        }
    }

    /// From now on the log ends where it ends.
    pub(crate) fn take_as_it_is(&mut self, place: &Place) -> Result<(), Fault> {
        if !self.writable {
            return Err(place.read_only());
        }
        let tx = Transaction::new(&mut self.connection, TransactionBehavior::Immediate)?;
        self.head.set(&place.keyring, chain::tail(&tx)?)
    }

    fn known(&self, place: &Place) -> Result<Known, Fault> {
        self.head.read(&place.keyring)?.ok_or_else(|| headless(place, &self.head))
    }
}

fn headless(place: &Place, head: &Head) -> Fault {
    DatabaseError::Headless { path: place.path.clone(), head: head.path().to_owned() }.into()
}

impl Head {
    fn refuse(&self, place: &Place, standing: Standing, known: &Known, tail: Tail) -> Result<(), Fault> {
        let error = match standing {
            Standing::Expected => return Ok(()),
            Standing::Behind => DatabaseError::RolledBack {
                path: place.path.clone(),
                found: tail.line,
                expected: known.settled.line,
                head: self.path().to_owned(),
            },
            Standing::Other => DatabaseError::Tampered {
                place: format!("the audit log of {}", place.path.display()),
                why: format!("line {} is not the one that was written", tail.line),
            },
        };
        Err(error.into())
    }
}

fn clipped(actor: &Actor) -> Actor {
    let clip = |text: &str| text.chars().take(LONGEST).collect();
    Actor { who: clip(&actor.who), from: clip(&actor.from), request_id: clip(&actor.request_id) }
}

/// A change in the making.
pub(crate) struct Writing<'a> {
    pub tx: Transaction<'a>,
    pub place: &'a Place,
    pub actor: Actor,
    pub at: Timestamp,
    /// What every item that is changed here has from now on.
    pub revision: u64,
    tail: Tail,
}

impl Writing<'_> {
    /// Appends a line about an item, or about the whole. `change`: the values' MACs before and after.
    pub(crate) fn line(
        &mut self,
        act: Act,
        item: Option<(&str, &Key)>,
        detail: Option<String>,
        change: Option<(Option<Mac>, Option<Mac>)>,
    ) -> Result<Line, Fault> {
        let mut line = Line {
            line: self.tail.line + 1,
            at: self.at,
            actor: self.actor.clone(),
            act,
            item: item.map(|(service, key)| (service.to_owned(), key.clone())),
            detail,
            revision: change.map(|_| self.revision),
            before: change.and_then(|(before, _)| before),
            after: change.and_then(|(_, after)| after),
            hash: Tail::NONE.hash,
        };
        line.hash = line.expected_hash(self.tail.hash);
        chain::append(&self.tx, &line).map_err(|fault| {
            let why = fault.at(&self.place.path, self.place.options.patience);
            Fault::from(DatabaseError::Audit { why: Box::new(why) })
        })?;
        self.tail = line.tail();
        Ok(line)
    }
}
