//! Tables of the database and how they came to be: one migration for each form, numbered by `user_version`.
//!
//! A migration is never changed once it was released; a later form gets one of its own.

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::error::{DatabaseError, Fault};

/// `HCFG`: tells a database of settings from others.
pub(crate) const APPLICATION_ID: i32 = 0x4843_4647;

/// The form that this library writes.
pub(crate) const FORM: i64 = MIGRATIONS.len() as i64;

pub(crate) const MIGRATIONS: &[&str] = &[FIRST];

/// Rows of `audit` are what happened, and `contents` what the newest of them wrote; `items` is how things stand now.
const FIRST: &str = r"
CREATE TABLE about(name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- How things stand. `value` is JSON; secrets in it are sealed. `line` is the line of the log that wrote it.
CREATE TABLE items(
    service TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, schema_version TEXT NOT NULL,
    revision INTEGER NOT NULL, updated_at INTEGER NOT NULL, line INTEGER NOT NULL,
    PRIMARY KEY(service, key)
) STRICT, WITHOUT ROWID;

-- Every item that there ever was; short numbers for long rows.
CREATE TABLE names(
    id INTEGER PRIMARY KEY, service TEXT NOT NULL, key TEXT NOT NULL, UNIQUE(service, key)
) STRICT;

-- What happened: a chain of hashes. `at`: milliseconds since 1970, UTC. `revision`: of lines that change an item;
-- the lines of one change have the same one. `before` and `after` are MACs of the values; no `after`: removed.
CREATE TABLE audit(
    line INTEGER PRIMARY KEY, at INTEGER NOT NULL, who TEXT NOT NULL, origin TEXT NOT NULL,
    request_id TEXT NOT NULL, act TEXT NOT NULL, name INTEGER REFERENCES names(id), detail TEXT,
    revision INTEGER, before TEXT, after TEXT, hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_of_item ON audit(name, line) WHERE revision IS NOT NULL;

-- The values that a line wrote, for as long as they are kept.
CREATE TABLE contents(
    line INTEGER PRIMARY KEY REFERENCES audit(line), name INTEGER NOT NULL REFERENCES names(id),
    value TEXT NOT NULL, schema_version TEXT NOT NULL
) STRICT;
CREATE INDEX contents_of_item ON contents(name, line);

CREATE TRIGGER audit_keeps_lines BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_changes_no_line BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- INSERT OR REPLACE would remove a line without asking the trigger above.
CREATE TRIGGER audit_appends BEFORE INSERT ON audit
WHEN NEW.line IS NOT (SELECT coalesce(max(line), 0) + 1 FROM audit)
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

-- For people: who, when, from where, what.
CREATE VIEW history AS
SELECT line, datetime(at / 1000, 'unixepoch') AS at, who, origin, request_id, act, service, key, detail, revision,
       before, after
FROM audit LEFT JOIN names ON names.id = audit.name;
";

/// The triggers without which the log could be changed.
pub(crate) const TRIGGERS: &[&str] = &["audit_appends", "audit_changes_no_line", "audit_keeps_lines"];

/// What a file is, by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Just made.
    Empty,
    /// One of ours.
    Ours(i64),
    /// Somebody else's.
    Foreign,
}

/// Of one moment: between two reads another process may make the whole database.
pub(crate) fn form(moment: &Transaction<'_>) -> Result<Form, rusqlite::Error> {
    let number = |name: &str| moment.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = moment.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, version, tables) {
        (0, 0, 0) => Form::Empty,
        (application, version, _) if application == i64::from(APPLICATION_ID) => Form::Ours(version),
        _ => Form::Foreign,
    })
}

/// Brings the file to the newest form. `found` is called in the transaction that makes it, with the new
/// database's id, before anything is committed.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &std::path::Path,
    founded: impl FnOnce(&str) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let path = || path.to_owned();
    let check = |moment: &Transaction<'_>| -> Result<i64, Fault> {
        match form(moment)? {
            Form::Empty => Ok(0),
            Form::Foreign => Err(DatabaseError::Foreign { path: path() }.into()),
            Form::Ours(found) if found > FORM => {
                Err(DatabaseError::TooNew { path: path(), found, known: FORM }.into())
            }
            Form::Ours(found) => Ok(found),
        }
    };
    if check(&connection.transaction()?)? == FORM {
        return Ok(());
    }
    let tx = Transaction::new(connection, TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    let from = check(&tx)?;
    for (version, migration) in (1..).zip(MIGRATIONS).skip(usize::try_from(from).unwrap_or(0)) {
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", version)?;
    }
    if from == 0 {
        let id = new_id();
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.execute("INSERT INTO about VALUES('id', ?1)", [&id])?;
        founded(&id)?;
    }
    tx.commit()?;
    Ok(())
}

/// An id that nobody else has.
pub(crate) fn new_id() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>())
}

/// The id that tells this database from every other one, also from its restored copies.
pub(crate) fn id(connection: &Connection) -> Result<String, rusqlite::Error> {
    connection.query_row("SELECT value FROM about WHERE name = 'id'", [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who looks while another process makes the database sees nothing, or all of it.
    #[test]
    fn a_database_in_the_making_is_never_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..100 {
            let path = folder.path().join(format!("{n}.db"));
            let mut maker = Connection::open(&path).unwrap();
            maker.pragma_update(None, "journal_mode", "wal").unwrap();
            let mut looker = Connection::open(&path).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| migrate(&mut maker, &path, |_| Ok(())).map_err(|_| "not made").unwrap());
                loop {
                    match form(&looker.transaction().unwrap()).unwrap() {
                        Form::Empty => {}
                        found => break assert_eq!(found, Form::Ours(FORM)),
                    }
                }
            });
        }
    }
}
