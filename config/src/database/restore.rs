//! A new database from a backup, as it was at a time. What is there is never replaced.
//!
//! The copy before that time, then the lines that followed, one after the other, with the same steps as when they were
//! written; then everything is verified. Only what holds gets its name.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};

use super::{
    Options,
    backup::{self, BackupError, Copy, Log},
    chain::{self, Act, Line, Tail},
    connection::{Place, beside},
    error::{DatabaseError, Fault, file_error},
    head::Head,
    items, schema, verify,
    verify::Verification,
};
use crate::{
    kept,
    key::{Actor, Key},
    keyring::Keyring,
};

/// To which end of the log a database is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All that the backup has.
    Newest,
    /// As it was then: up to the first line that is later. Where a clock was wrong, name the line.
    Time(Timestamp),
    /// Up to this line of the log, without the part of a change.
    Line(u64),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The last line that it has from the backup.
    pub line: u64,
    /// When that was written.
    pub at: Option<Timestamp>,
    /// All of it was verified.
    pub verification: Verification,
}

/// Makes a new database at `into` from a backup. It has an id of its own, and a line that tells where it comes from.
/// Stop what uses the database, and move the new one in its place. Blocks.
///
/// # Errors
/// See [`BackupError`]; also when something in the backup does not hold. Then nothing is left at `into`.
pub fn restore(
    from: &Path,
    until: Until,
    into: &Path,
    keyring: &Keyring,
    options: &Options,
    actor: &Actor,
) -> Result<Restored, DatabaseError> {
    let place = Place::new(into, keyring.clone(), options.clone());
    let made = beside(into, ".restored");
    let result = (|| {
        if into.exists() || beside(into, "-wal").exists() {
            return Err(BackupError::Exists { into: into.to_owned() }.into());
        }
        let (copy, log) = find(from, until)?;
        // SQLite would take what a killed restore left for a part of this one.
        remove(&made);
        let restored = make(&copy, &log, until, &made, &place, actor)?;
        fs::rename(&made, into).map_err(|source| file_error(into, "written", source))?;
        kept::sync_folder_of(into).map_err(|source| file_error(into, "written", source))?;
        Ok::<_, Fault>(restored)
    })();
    result.map_err(|fault| {
        remove(&made);
        fault.at(&made, options.patience)
    })
}

/// A database that is not used, with what SQLite keeps beside it.
fn remove(path: &Path) {
    for file in [path.to_owned(), beside(path, "-journal"), beside(path, "-wal"), beside(path, "-shm")] {
        let _ = fs::remove_file(file);
    }
}

/// The newest copy that has nothing later.
fn find(folder: &Path, until: Until) -> Result<(Copy, Log), Fault> {
    let mut oldest = None;
    for copy in backup::copies(folder)?.into_iter().rev() {
        let base = backup::open_base(&copy.base)?;
        let is_later = match until {
            Until::Newest => false,
            Until::Line(line) => chain::tail(&base)?.line > line,
            Until::Time(time) => {
                base.prepare("SELECT 1 FROM audit WHERE at > ?1")?.exists([time.as_millisecond()])?
            }
        };
        if !is_later {
            let log = backup::read_log(&copy.log)?;
            return Ok((copy, log));
        }
        oldest = Some(base);
    }
    let Some(oldest) = oldest else { return Err(BackupError::Empty { folder: folder.to_owned() }.into()) };
    let line = chain::tail(&oldest)?.line;
    let at = written_at(&oldest, line)?.map_or_else(String::new, |at| at.to_string());
    Err(BackupError::TooEarly { folder: folder.to_owned(), line, at }.into())
}

fn written_at(connection: &Connection, line: u64) -> Result<Option<Timestamp>, Fault> {
    let at =
        connection.query_row("SELECT at FROM audit WHERE line = ?1", [line], |row| row.get(0)).optional()?;
    Ok(at.and_then(chain::time))
}

fn make(
    copy: &Copy,
    log: &Log,
    until: Until,
    made: &Path,
    place: &Place,
    actor: &Actor,
) -> Result<Restored, Fault> {
    let damaged = |file: &Path, why: String| BackupError::Damaged { file: file.to_owned(), why };
    let unmade = |source| file_error(made, "written", source);
    let mut from = File::open(&copy.base).map_err(|source| file_error(&copy.base, "read", source))?;
    let mut to =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(made).map_err(unmade)?;
    std::io::copy(&mut from, &mut to).map_err(unmade)?;
    drop(to);

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(made, flags)?;
    connection
        .execute_batch("PRAGMA trusted_schema = OFF; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")?;
    let form = schema::form(&connection.transaction()?)?;
    match form {
        schema::Form::Ours(_) => schema::migrate(&mut connection, made, |_| Ok(()))?,
        _ => return Err(damaged(&copy.base, "it is no database of settings".to_owned()).into()),
    }
    let old = schema::id(&connection)?;
    let tail = chain::tail(&connection)?;
    if old != log.start.database || tail != log.start.tail {
        return Err(damaged(&copy.base, "its log is of another database or line".to_owned()).into());
    }
    let tx = Transaction::new(&mut connection, TransactionBehavior::Immediate)?;
    let (tail, mac) = replay(&tx, copy, log, until, place)?;
    place
        .keyring
        .verify(&backup::bound(&old, tail), &mac)
        .map_err(|error| damaged(&copy.log, error.to_string()))?;
    let at = written_at(&tx, tail.line)?;

    // From here on it is another database: the old one may go on, and each has its own end.
    let id = schema::new_id();
    tx.execute("UPDATE about SET value = ?1 WHERE name = 'id'", [&id])?;
    let mut line = Line {
        line: tail.line + 1,
        at: Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap_or_default(),
        actor: actor.clone(),
        act: Act::Restore,
        item: None,
        detail: Some(format!("line {} of database {old}", tail.line)),
        revision: None,
        before: None,
        after: None,
        hash: Tail::NONE.hash,
    };
    line.hash = line.expected_hash(tail.hash);
    chain::append(&tx, &line)?;
    tx.commit()?;

    let verification = verify::check(&connection, place)?;
    if let Some(finding) = verification.findings.first() {
        return Err(damaged(&copy.base, finding.to_string()).into());
    }
    connection.close().map_err(|(_, error)| error)?;
    File::open(made).and_then(|file| file.sync_all()).map_err(unmade)?;
    let head = Head::new(&place.keyring, &id);
    head.set(&place.keyring, line.tail())?;
    Ok(Restored { line: tail.line, at, verification })
}

/// Writes the lines that are wanted. Gives the last one, and the MAC that vouches for it.
fn replay(
    connection: &Connection,
    copy: &Copy,
    log: &Log,
    until: Until,
    place: &Place,
) -> Result<(Tail, crate::keyring::Mac), Fault> {
    let wanted = |line: &Line| match until {
        Until::Newest => true,
        Until::Time(time) => line.at <= time,
        Until::Line(last) => line.line <= last,
    };
    // Up to the end of the last change that is wanted as a whole.
    let count = log.records.iter().take_while(|record| wanted(&record.line)).count();
    let count =
        log.records[..count].iter().rposition(|record| record.mac.is_some()).map_or(0, |last| last + 1);
    let (mut tail, mut mac) = (log.start.tail, log.start.mac);
    let mut unknown: BTreeMap<(String, Key), u64> = BTreeMap::new();
    for record in &log.records[..count] {
        let line = &record.line;
        if line.line != tail.line + 1 || line.expected_hash(tail.hash) != line.hash {
            let why = format!("line {} was changed, or lines before it are missing", line.line);
            return Err(BackupError::Damaged { file: copy.log.clone(), why }.into());
        }
        chain::append(connection, line)?;
        let content = record.content();
        if let Some(item) = &line.item
            && line.revision.is_some()
        {
            match (&content, &line.after) {
                (None, Some(_)) => unknown.insert(item.clone(), line.line),
                _ => unknown.remove(item),
            };
        }
        items::apply(connection, line, content.as_ref(), (&place.options.retention, None))?;
        tail = line.tail();
        mac = record.mac.unwrap_or(mac);
    }
    match unknown.into_iter().next() {
        Some(((_, key), line)) => Err(BackupError::Gap { key, line }.into()),
        None => Ok((tail, mac)),
    }
}
