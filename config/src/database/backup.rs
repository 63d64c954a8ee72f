//! A continuous backup in a folder: copies of the database, and after each the lines that followed, with their values.
//!
//! ```text
//! <folder>/               0700
//!   00000001-base.db      the whole database up to some line, compacted
//!   00000001-log.jsonl    head: which database, which line, its hash │ a record for each line since
//!   00000002-base.db      begun when the log before had become long
//!   00000002-log.jsonl
//!   backup.lock           held while something is appended
//! ```
//!
//! Secrets in it are sealed as in the database, and its keys are not in it. Records of one change are used all or not
//! at all. The last record of each has a MAC of the chain up to there, so that a restored log is one that was written.
//! `restore` reads it. A backup that fails or hangs never fails a write, nor holds one up; how it stands is told.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use serde::{Deserialize, Serialize};

use super::{
    Database,
    chain::{self, Hash, Line, Tail},
    connection::{Opened, Place},
    error::Fault,
    rest::Content,
    schema,
};
use crate::{
    kept::{self, KeptError, Lock},
    key::Key,
    keyring::{Keyring, Mac},
    model::SchemaVersion,
};

const FORMAT: u32 = 1;
/// After how long an attempt is told as one that hangs. A large copy on a slow disk takes a few seconds.
const SLOW: SignedDuration = SignedDuration::from_secs(10);

/// Where a backup is kept, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupFolder {
    /// The folder; made if it is not there. On another disk it helps against more. Writes do not wait for it.
    pub path: PathBuf,
    /// Most copies of the database, each with the lines that followed: how far back a restore can go.
    pub copies: usize,
    /// Bytes of lines after which the next copy is made.
    pub log_limit: u64,
}

impl BackupFolder {
    /// With eight copies, and a new one after a MiB of lines.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), copies: 8, log_limit: 1 << 20 }
    }
}

/// How a backup stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BackupState {
    /// The last line that it has.
    pub line: u64,
    /// Why nothing was added the last time; the next attempt adds all that is missing.
    pub error: Option<String>,
    /// Since when it has been adding something: long, when its folder does not answer.
    pub busy_since: Option<Timestamp>,
}

impl BackupState {
    /// What a person should look at, if anything.
    #[must_use]
    pub fn problem(&self, now: Timestamp) -> Option<String> {
        let since = self.busy_since.filter(|since| now.duration_since(*since) >= SLOW);
        match (since, &self.error) {
            (Some(since), _) => Some(format!(
                "the backup has not answered since {since:.0}, and has line {} for its last: look whether its disk or mount is \
                 away. Settings are written all the same, and what is missing follows by itself",
                self.line
            )),
            (None, error) => error.clone(),
        }
    }

    /// How the backup in a folder stands, and when its last line was written; without its database.
    ///
    /// # Errors
    /// [`BackupError::Empty`], or when it cannot be read.
    pub fn of(folder: &Path) -> Result<(Self, Option<Timestamp>), BackupError> {
        let empty = || BackupError::Empty { folder: folder.to_owned() };
        if !folder.is_dir() {
            return Err(empty());
        }
        let newest = copies(folder)?.pop().ok_or_else(empty)?;
        let log = read_log(&newest.log)?;
        // Right after a copy there are no lines yet: the copy is as old as its file.
        let made = || {
            let at = fs::metadata(&newest.log).and_then(|about| about.modified()).ok()?;
            Timestamp::try_from(at).ok()
        };
        let at = log.records.last().map_or_else(made, |record| Some(record.line.at));
        Ok((Self { line: log.tail().line, error: None, busy_since: None }, at))
    }
}

/// Why there is no backup, or nothing of it can be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of it.
    #[error("the backup {path} cannot be {doing}: {source}. The database itself is unharmed")]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`.
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A folder takes one database.
    #[error(
        "{folder} has the backup of another database ({found}, and this is {id}): choose an empty folder"
    )]
    Other {
        /// The folder.
        folder: PathBuf,
        /// Whose backup it has.
        found: String,
        /// Which database was to be kept.
        id: String,
    },
    /// Nothing to restore.
    #[error("there is no backup in {folder}")]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// Older than the oldest copy.
    #[error(
        "the oldest copy in {folder} is of line {line} ({at}): restore that one, and go back from there with \
         `harmony-config rollback`"
    )]
    TooEarly {
        /// The folder.
        folder: PathBuf,
        /// The last line of the oldest copy.
        line: u64,
        /// When it was written.
        at: String,
    },
    /// A restore never replaces anything.
    #[error("{into} is there already: restore to another path, look at it, and move it to its place then")]
    Exists {
        /// The file.
        into: PathBuf,
    },
    /// It is not what was written.
    #[error(
        "the backup {file} is not what was written: {why}. Restore to a time before, or from another copy of it"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What does not hold.
        why: String,
    },
    /// It was not continuous.
    #[error(
        "values of {key} were written and replaced between two backups (line {line}), and are not in it: restore to a \
         later time"
    )]
    Gap {
        /// The item.
        key: Key,
        /// The line that wrote them.
        line: u64,
    },
}

/// First line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    format: u32,
    pub(crate) database: String,
    pub(crate) tail: Tail,
    pub(crate) mac: Mac,
}

/// A line, and what it wrote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) line: Line,
    value: Option<String>,
    schema_version: Option<SchemaVersion>,
    /// Of the last record of each change.
    pub(crate) mac: Option<Mac>,
}

impl Record {
    pub(crate) fn content(&self) -> Option<Content> {
        let (text, version) = (self.value.clone()?, self.schema_version.clone()?);
        Some(Content { text, version })
    }
}

/// What the MACs in a backup are made of.
pub(crate) fn bound(database: &str, tail: Tail) -> Vec<u8> {
    format!("harmony-config backup 1\0{database}\0{}\0{}", tail.line, tail.hash).into_bytes()
}

/// A copy of the database with the lines that followed.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) base: PathBuf,
    pub(crate) log: PathBuf,
    number: u32,
}

impl Copy {
    fn new(folder: &Path, number: u32) -> Self {
        let file = |end: &str| folder.join(format!("{number:08}-{end}"));
        Self { base: file("base.db"), log: file("log.jsonl"), number }
    }
}

/// All copies, oldest first. One without its log was never finished.
pub(crate) fn copies(folder: &Path) -> Result<Vec<Copy>, BackupError> {
    let failed = |source| BackupError::File { path: folder.to_owned(), doing: "read", source };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix("-log.jsonl"));
        found.extend(number.and_then(|number| number.parse().ok()).map(|number| Copy::new(folder, number)));
    }
    found.sort_by_key(|copy| copy.number);
    Ok(found)
}

/// A log as far as it is whole.
pub(crate) struct Log {
    pub(crate) start: Start,
    /// Whole changes only.
    pub(crate) records: Vec<Record>,
    /// Bytes of it that are whole: what a killed process left behind them is no part of it.
    whole: u64,
}

impl Log {
    pub(crate) fn tail(&self) -> Tail {
        self.records.last().map_or(self.start.tail, |record| record.line.tail())
    }
}

pub(crate) fn read_log(path: &Path) -> Result<Log, BackupError> {
    let failed = |source| BackupError::File { path: path.to_owned(), doing: "read", source };
    let damaged = |why: &str| BackupError::Damaged { file: path.to_owned(), why: why.to_owned() };
    let mut lines = io::BufReader::new(File::open(path).map_err(failed)?);
    let mut text = Vec::new();
    let mut read = 0;
    let mut next = |text: &mut Vec<u8>| -> Result<bool, BackupError> {
        text.clear();
        read += lines.read_until(b'\n', text).map_err(failed)? as u64;
        Ok(text.ends_with(b"\n"))
    };
    if !next(&mut text)? {
        return Err(damaged("it has no beginning"));
    }
    let start: Start = serde_json::from_slice(&text).map_err(|_| damaged("it does not begin as one"))?;
    if start.format != FORMAT {
        return Err(damaged(&format!(
            "it has format {}, and this program knows format {FORMAT}",
            start.format
        )));
    }
    let (mut records, mut whole, mut count) = (Vec::<Record>::new(), text.len() as u64, 0);
    let mut at = whole;
    while next(&mut text)? {
        at += text.len() as u64;
        let why = || {
            damaged(&format!(
                "a record after line {} cannot be read",
                records.last().map_or(0, |last| last.line.line)
            ))
        };
        let record: Record = serde_json::from_slice(&text).map_err(|_| why())?;
        let is_whole = record.mac.is_some();
        records.push(record);
        if is_whole {
            (whole, count) = (at, records.len());
        }
    }
    records.truncate(count);
    Ok(Log { start, records, whole })
}

/// Adds what is missing; begins a new copy where that is due. Gives the last line that the backup has now.
pub(crate) fn keep(opened: &mut Opened, place: &Place, folder: &BackupFolder) -> Result<Tail, Fault> {
    kept::folder(&folder.path).map_err(unkept)?;
    let _lock = Lock::alone(&folder.path.join("backup.lock")).map_err(unkept)?;
    let id = schema::id(&opened.connection)?;
    let found = copies(&folder.path)?;
    let mut before = None;
    if let Some(newest) = found.last() {
        let log = read_log(&newest.log)?;
        if log.start.database != id {
            let (folder, found) = (folder.path.clone(), log.start.database);
            return Err(BackupError::Other { folder, found, id }.into());
        }
        let tail = log.tail();
        // Else the database was exchanged for an older copy, which a person accepted, and went another way.
        if hash_of(&opened.connection, tail.line)? == Some(tail.hash) {
            if log.whole < folder.log_limit {
                return append(opened, place, &id, &newest.log, &log);
            }
            before = Some((newest.log.as_path(), log));
        }
    }
    let tail = begin(
        opened,
        place,
        &id,
        &Copy::new(&folder.path, found.last().map_or(1, |newest| newest.number + 1)),
        before,
    )?;
    for old in found.iter().rev().skip(folder.copies.max(1) - 1) {
        // The log first: a base without a log is none.
        for file in [&old.log, &old.base] {
            fs::remove_file(file).map_err(|source| unwritten(file, source))?;
        }
    }
    Ok(tail)
}

fn hash_of(connection: &Connection, line: u64) -> Result<Option<Hash>, Fault> {
    if line == 0 {
        return Ok(Some(Tail::NONE.hash));
    }
    let hash = connection
        .prepare_cached("SELECT hash FROM audit WHERE line = ?1")?
        .query_row([line], |row| Ok(Hash(row.get(0)?)))
        .optional()?;
    Ok(hash)
}

/// Makes a copy. The log before it gets all lines up to there: there may be several, and each can be gone back to.
fn begin(
    opened: &mut Opened,
    place: &Place,
    id: &str,
    copy: &Copy,
    before: Option<(&Path, Log)>,
) -> Result<Tail, Fault> {
    let file =
        |path: &Path| OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    // SQLite takes an empty file as if there were none, and keeps its mode.
    file(&copy.base).map_err(|source| unwritten(&copy.base, source))?;
    let name = copy.base.to_str().ok_or_else(|| {
        unwritten(&copy.base, io::Error::new(io::ErrorKind::InvalidFilename, "its name is not UTF-8"))
    })?;
    opened.connection.execute("VACUUM INTO ?1", [name]).map_err(|error| {
        let kind = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
            _ => io::ErrorKind::Other,
        };
        unwritten(&copy.base, io::Error::new(kind, error))
    })?;
    File::open(&copy.base)
        .and_then(|file| file.sync_all())
        .map_err(|source| unwritten(&copy.base, source))?;
    let tail = chain::tail(&open_base(&copy.base)?)?;
    // Only now: somebody may have written while the copy was made. Without its log it is no copy yet.
    if let Some((path, log)) = before {
        append(opened, place, id, path, &log)?;
    }
    let mac = place.keyring.mac(&bound(id, tail));
    let start = Start { format: FORMAT, database: id.to_owned(), tail, mac };
    let text = line_of(&start).map_err(|source| unwritten(&copy.log, source))?;
    kept::replace(&copy.log, &text).map_err(unkept)?;
    Ok(tail)
}

/// A copy is never written again.
pub(crate) fn open_base(path: &Path) -> Result<Connection, Fault> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Ok(Connection::open_with_flags(super::connection::uri(path) + "?immutable=1", flags)?)
}

fn append(opened: &mut Opened, place: &Place, id: &str, path: &Path, log: &Log) -> Result<Tail, Fault> {
    let from = log.tail();
    let records = since(&mut opened.connection, &place.keyring, id, from)?;
    let Some(last) = records.last() else { return Ok(from) };
    let mut text = Vec::new();
    for record in &records {
        text.extend(line_of(record).map_err(|source| unwritten(path, source))?);
    }
    let written = OpenOptions::new().write(true).open(path).and_then(|mut file| {
        file.set_len(log.whole)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(log.whole))?;
        file.write_all(&text)?;
        file.sync_data()
    });
    written.map_err(|source| unwritten(path, source))?;
    Ok(last.line.tail())
}

/// All lines after this one, with what they wrote.
fn since(connection: &mut Connection, keyring: &Keyring, id: &str, from: Tail) -> Result<Vec<Record>, Fault> {
    let view = connection.transaction()?;
    let mut statement = view.prepare_cached(&format!(
        "SELECT {}, contents.value, contents.schema_version FROM {} LEFT JOIN contents ON contents.line = audit.line
         WHERE audit.line > ?1 ORDER BY audit.line",
        chain::COLUMNS,
        chain::FROM
    ))?;
    let mut rows = statement.query([from.line])?;
    let mut records = Vec::<Record>::new();
    while let Some(row) = rows.next()? {
        let version: Option<String> = row.get(14)?;
        let (line, value) = (chain::read_line(row)?, row.get(13)?);
        if let Some(last) = records.last_mut()
            && (last.line.revision.is_none() || last.line.revision != line.revision)
        {
            last.mac = Some(keyring.mac(&bound(id, last.line.tail())));
        }
        records.push(Record { line, value, schema_version: version.map(SchemaVersion), mac: None });
    }
    if let Some(last) = records.last_mut() {
        last.mac = Some(keyring.mac(&bound(id, last.line.tail())));
    }
    Ok(records)
}

fn line_of(record: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(record)?;
    text.push(b'\n');
    Ok(text)
}

fn unwritten(path: &Path, source: io::Error) -> Fault {
    BackupError::File { path: path.to_owned(), doing: "written", source }.into()
}

fn unkept(error: KeptError) -> Fault {
    crate::keyring::KeyringError::Kept(error).into()
}

impl Database {
    /// Brings the backup in this folder up to date, so that [`super::restore()`] can go back to any time from its oldest
    /// copy on. With [`super::Options::backup`] that happens after every write. It has a thread and a connection of its
    /// own: writes do not wait for it.
    ///
    /// # Errors
    /// When the folder has the backup of another database, or cannot be written.
    pub async fn backup(&self, folder: &BackupFolder) -> Result<BackupState, super::DatabaseError> {
        let folder = folder.clone();
        let thread = self.start("settings-backup")?;
        let keep = thread.run(move |opened, place| keep(opened, place, &folder));
        Ok(BackupState { line: keep.await?.line, error: None, busy_since: None })
    }

    /// Waits until the continuous backup has all that was written before, but only for so long. Blocks. Gives how it
    /// stands then; `None` without one.
    #[must_use]
    pub fn drain_backup(&self, within: Duration) -> Option<BackupState> {
        self.shared.backup.as_ref()?.drain(within);
        self.backup_state()
    }

    /// How the continuous backup stands; `None` without one.
    #[must_use]
    pub fn backup_state(&self) -> Option<BackupState> {
        self.place.options.backup.as_ref().map(|_| self.place.backup_state().clone())
    }
}
