//! Whether the database is what this library wrote: the file, the chain, its end, and every value against its line.

use std::fmt;

use rusqlite::Connection;
use serde::Serialize;

use super::{
    Database,
    chain::{self, Act, Tail},
    connection::{Opened, Place},
    error::{DatabaseError, Fault},
    head::Standing,
    items,
    rest::{self, Content},
    schema,
};
use crate::{
    key::{Actor, Key},
    keyring::{KeyringError, Mac},
    model::SchemaVersion,
};

/// What does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// SQLite's own check of the file.
    File(String),
    /// A trigger is gone that refuses changes of the log.
    Trigger(String),
    /// The first line that was changed, or from which lines are missing.
    Line(u64),
    /// The end of the log is not the one that was written: found, expected.
    End(u64, u64),
    /// Nothing tells how far the log goes.
    Headless,
    /// An item or an earlier version of it, and what is wrong.
    Value(String, String),
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(why) => write!(out, "the file is damaged: {why}"),
            Self::Trigger(name) => {
                write!(out, "trigger {name} is gone, which keeps the audit log append-only")
            }
            Self::Line(line) => {
                write!(out, "line {line} of the audit log was changed, or lines before it removed")
            }
            Self::End(found, expected) => {
                write!(
                    out,
                    "the audit log ends at line {found}, and what was written last is line {expected}"
                )
            }
            Self::Headless => write!(out, "nothing tells how far the audit log goes: its head is missing"),
            Self::Value(place, why) => write!(out, "{place}: {why}"),
        }
    }
}

/// Result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Lines of the audit log.
    pub lines: u64,
    /// Items.
    pub items: u64,
    /// Values of items, with those of the past, that were compared with their lines.
    pub versions: u64,
    /// Values that could not be, since their keys were dropped after a rotation.
    pub unchecked: u64,
    /// What does not hold; empty: all does.
    pub findings: Vec<Finding>,
}

impl Verification {
    /// Whether all holds.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Compares everything with everything.
pub(crate) fn verify(opened: &mut Opened, place: &Place) -> Result<Verification, Fault> {
    // Before the view, as with every read.
    let known = opened.head.read(&place.keyring);
    let view = opened.connection.transaction()?;
    let mut result = check(&view, place)?;
    let tail = chain::tail(&view)?;
    let end = match known {
        Ok(Some(known)) if known.standing_later(tail) == Standing::Expected => None,
        Ok(Some(known)) => Some(Finding::End(tail.line, known.settled.line)),
        Ok(None) => Some(Finding::Headless),
        Err(fault) => Some(Finding::Value(
            opened.head.path().display().to_string(),
            fault.at(&place.path, place.options.patience).to_string(),
        )),
    };
    result.findings.extend(end);
    Ok(result)
}

/// The same without the end of the log, which a database has not that was just restored.
pub(crate) fn check(view: &Connection, place: &Place) -> Result<Verification, Fault> {
    let mut result = Verification::default();
    check_file(view, &mut result)?;
    check_chain(view, &mut result)?;
    check_items(view, place, &mut result)?;
    check_contents(view, place, &mut result)?;
    Ok(result)
}

fn check_file(view: &Connection, result: &mut Verification) -> Result<(), Fault> {
    let mut statement = view.prepare("PRAGMA integrity_check(10)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            result.findings.push(Finding::File(text));
        }
    }
    for trigger in schema::TRIGGERS {
        let written = view
            .prepare(
                "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1 AND tbl_name = 'audit'",
            )?
            .exists([trigger])?;
        if !written {
            result.findings.push(Finding::Trigger((*trigger).to_owned()));
        }
    }
    Ok(())
}

fn check_chain(view: &Connection, result: &mut Verification) -> Result<(), Fault> {
    let mut statement =
        view.prepare(&format!("SELECT {} FROM {} ORDER BY audit.line", chain::COLUMNS, chain::FROM))?;
    let mut rows = statement.query([])?;
    let mut last = Tail::NONE;
    while let Some(row) = rows.next()? {
        let number: u64 = row.get(0)?;
        let line = match chain::read_line(row) {
            Ok(line) => line,
            Err(Fault::Known(DatabaseError::Tampered { .. }))
            | Err(Fault::Sqlite(
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..),
            )) => {
                result.findings.push(Finding::Line(number));
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        // One finding: behind the first break nothing can be said.
        if line.line != last.line + 1 || line.expected_hash(last.hash) != line.hash {
            result.findings.push(Finding::Line(number));
            return Ok(());
        }
        last = line.tail();
        result.lines += 1;
    }
    Ok(())
}

fn check_items(view: &Connection, place: &Place, result: &mut Verification) -> Result<(), Fault> {
    let mut statement = view.prepare(
        "SELECT service, key FROM names UNION SELECT service, key FROM items ORDER BY service, key",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (service, key): (String, String) = (row.get(0)?, row.get(1)?);
        let name = format!("item {key} of {service}");
        let Ok(key) = key.parse::<Key>() else {
            result.findings.push(Finding::Value(name, "its key is none".to_owned()));
            continue;
        };
        if chain::known_name(view, &service, &key)?.is_none() {
            result.findings.push(Finding::Value(name, "the audit log knows nothing of it".to_owned()));
            continue;
        }
        let held = items::get(view, &service, &key).and_then(|stored| {
            result.items += u64::from(stored.is_some());
            stored.map(|stored| stored.open(&place.keyring)).transpose()
        });
        if let Err(fault) = held {
            found(result, name, fault)?;
        }
    }
    Ok(())
}

fn check_contents(view: &Connection, place: &Place, result: &mut Verification) -> Result<(), Fault> {
    let mut statement = view.prepare(
        "SELECT c.line, n.service, n.key, c.value, c.schema_version, a.after
         FROM contents c LEFT JOIN audit a ON a.line = c.line AND a.name = c.name
         LEFT JOIN names n ON n.id = a.name ORDER BY c.line",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: u64 = row.get(0)?;
        let name = format!("the values of line {line}");
        let part = |column: usize| row.get::<_, Option<String>>(column);
        let key = part(2)?.and_then(|key| key.parse::<Key>().ok());
        let mac = part(5)?.and_then(|mac| mac.parse::<Mac>().ok());
        let (Some(service), Some(key), Some(mac)) = (part(1)?, key, mac) else {
            let why = "the audit log tells of none".to_owned();
            result.findings.push(Finding::Value(name, why));
            continue;
        };
        let content = Content { text: row.get(3)?, version: SchemaVersion(row.get(4)?) };
        match rest::open(&place.keyring, &service, &key, &content, &mac) {
            Ok(_) => result.versions += 1,
            Err(fault) => found(result, name, fault)?,
        }
    }
    Ok(())
}

fn found(result: &mut Verification, place: String, fault: Fault) -> Result<(), Fault> {
    match fault {
        Fault::Known(DatabaseError::Tampered { why, .. }) => result.findings.push(Finding::Value(place, why)),
        Fault::Keys(KeyringError::NoVersion { .. }) => result.unchecked += 1,
        fault => return Err(fault),
    }
    Ok(())
}

impl Database {
    /// Compares the file, the chain of the audit log, its end, and every value with its line. Reads all of it.
    ///
    /// # Errors
    /// When it cannot be read at all; what does not hold is in the result.
    pub async fn verify(&self) -> Result<Verification, DatabaseError> {
        self.thread.run(verify).await
    }

    /// Takes the database as it is, where it is older than this machine has seen or comes from another one: a person
    /// has restored it on purpose. Says so in the log. Refuses one in which anything else does not hold.
    /// [`Database::open`] refuses such a database: use [`Database::lazy`] before this.
    ///
    /// # Errors
    /// [`DatabaseError::Tampered`] with the first finding, or when it cannot be written.
    pub async fn accept(&self, actor: &Actor) -> Result<u64, DatabaseError> {
        let actor = actor.clone();
        let accept = self.thread.run(move |opened, place| {
            let known = opened.head.read(&place.keyring).ok().flatten();
            if let Some(finding) = check(&opened.connection, place)?.findings.first() {
                let place = place.path.display().to_string();
                return Err(DatabaseError::Tampered { place, why: finding.to_string() }.into());
            }
            opened.take_as_it_is(place)?;
            opened.write(place, &actor, |writing| {
                let seen = known.map(|known| format!("line {} was seen", known.settled.line));
                Ok(writing.line(Act::Accept, None, seen, None)?.line)
            })
        });
        accept.await
    }
}
