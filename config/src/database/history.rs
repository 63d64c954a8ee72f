//! What was: lines of the log for people, earlier values, whole snapshots of a service, and the way back to them.
//!
//! A snapshot costs nothing: it is, of every item, the newest line up to a revision. The values of that line are there
//! for as long as `retention` keeps them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{
    Database,
    chain::{self, Act, Line},
    connection::Writing,
    error::{DatabaseError, Fault},
    items::{self, Item, Stored},
    rest::{self, Content},
};
use crate::{
    key::{Actor, Key},
    model::SchemaVersion,
};

/// Which lines of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Of this service only.
    pub service: Option<String>,
    /// Of this item only.
    pub key: Option<Key>,
    /// Only lines that changed an item; else also reveals, refusals and the like.
    pub changes_only: bool,
    /// Older than this line: where the last answer ended.
    pub before: Option<u64>,
    /// Most lines.
    pub limit: usize,
}

impl Default for Filter {
    fn default() -> Self {
        Self { service: None, key: None, changes_only: true, before: None, limit: 100 }
    }
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Who, when, from where, what, and the values' MACs before and after.
    #[serde(flatten)]
    pub line: Line,
    /// Whether the values that it wrote are still there.
    pub is_kept: bool,
}

/// All items of a service as they were.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Whose.
    pub service: String,
    /// Of this or the newest older revision.
    pub revision: u64,
    /// The items, without their secrets. Those whose values of that time are not kept any more are in `forgotten`.
    pub items: BTreeMap<Key, Item>,
    /// Items that were there, and how is not known any more.
    pub forgotten: Vec<Key>,
}

/// An item as it was at a revision.
enum Then {
    /// It was not there.
    Absent,
    /// It was there, and its values are not kept any more.
    Forgotten,
    /// So it was.
    Values(Box<Stored>),
}

fn then(connection: &Connection, service: &str, key: &Key, revision: u64) -> Result<Then, Fault> {
    let Some(name) = chain::known_name(connection, service, key)? else { return Ok(Then::Absent) };
    let mut statement = connection.prepare_cached(
        "SELECT a.revision, a.at, a.after, c.value, c.schema_version
         FROM audit a LEFT JOIN contents c ON c.line = a.line
         WHERE a.name = ?1 AND a.revision IS NOT NULL AND a.revision <= ?2 ORDER BY a.line DESC LIMIT 1",
    )?;
    let mut rows = statement.query(params![name, revision])?;
    let Some(row) = rows.next()? else { return Ok(Then::Absent) };
    let Some(mac) = row.get::<_, Option<String>>(2)? else { return Ok(Then::Absent) };
    let (Some(text), Some(version)) = (row.get::<_, Option<String>>(3)?, row.get::<_, Option<String>>(4)?)
    else {
        return Ok(Then::Forgotten);
    };
    let changed =
        |why: &str| DatabaseError::Tampered { place: rest::name(service, key), why: why.to_owned() };
    Ok(Then::Values(Box::new(Stored {
        service: service.to_owned(),
        key: key.clone(),
        content: Content { text, version: SchemaVersion(version) },
        revision: row.get(0)?,
        updated_at: chain::time(row.get(1)?).ok_or_else(|| changed("its time is none"))?,
        mac: mac.parse().map_err(|_| changed("its MAC is none"))?,
    })))
}

fn keys(connection: &Connection, service: &str) -> Result<Vec<Key>, Fault> {
    let mut statement = connection.prepare_cached("SELECT key FROM names WHERE service = ?1 ORDER BY key")?;
    let mut rows = statement.query([service])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let changed = |_| DatabaseError::Tampered {
            place: format!("an item of {service}"),
            why: "its key is none".to_owned(),
        };
        keys.push(row.get::<_, String>(0)?.parse().map_err(changed)?);
    }
    Ok(keys)
}

fn forgotten(connection: &Connection, service: &str, key: &Key, revision: u64) -> Result<Fault, Fault> {
    let oldest = connection
        .prepare_cached(
            "SELECT a.revision FROM contents c JOIN audit a ON a.line = c.line JOIN names n ON n.id = c.name
             WHERE n.service = ?1 AND n.key = ?2 ORDER BY c.line LIMIT 1",
        )?
        .query_row([service, key.as_str()], |row| row.get(0))
        .optional()?;
    let oldest = oldest.unwrap_or(0);
    Ok(DatabaseError::Forgotten { key: key.clone(), revision, oldest }.into())
}

/// Brings one item, or all of a service, back to how it was. Gives the new revision; the one that there is if nothing
/// differs.
fn roll_back(
    writing: &mut Writing<'_>,
    service: &str,
    key: Option<&Key>,
    to: u64,
    expected: Option<u64>,
) -> Result<u64, Fault> {
    let revision = match key {
        Some(key) => items::revision(&writing.tx, service, key)?,
        None => items::epochs(&writing.tx)?.get(service).copied().unwrap_or(0),
    };
    if to == 0 || to > revision {
        let what = key.map_or_else(|| format!("service {service}"), |key| rest::name(service, key));
        let what = format!("there is no revision {to} of {what}: its newest is {revision}");
        return Err(DatabaseError::Missing { what }.into());
    }
    let keys = match key {
        Some(key) => vec![key.clone()],
        None => keys(&writing.tx, service)?,
    };
    if let (Some(expected), Some(key)) = (expected, keys.first())
        && expected != revision
    {
        return Err(DatabaseError::Conflict { key: key.clone(), expected, found: revision }.into());
    }
    let mut is_changed = false;
    for key in keys {
        let now = items::get(&writing.tx, service, &key)?;
        let now = now.map(|now| now.mac);
        let content = match then(&writing.tx, service, &key, to)? {
            Then::Absent => None,
            Then::Forgotten => return Err(forgotten(&writing.tx, service, &key, to)?),
            Then::Values(stored) => {
                // What was changed by hand is not brought back.
                stored.open(&writing.place.keyring)?;
                Some((stored.content, stored.mac))
            }
        };
        if content.as_ref().map(|(_, mac)| *mac) != now {
            items::put(writing, Act::Rollback, service, &key, now, content)?;
            is_changed = true;
        }
    }
    Ok(if is_changed { writing.revision } else { revision })
}

fn lines(connection: &Connection, filter: &Filter) -> Result<Vec<Entry>, Fault> {
    let name = match (&filter.service, &filter.key) {
        (Some(service), Some(key)) => match chain::known_name(connection, service, key)? {
            Some(name) => Some(name),
            None => return Ok(Vec::new()),
        },
        _ => None,
    };
    let mut sql = format!(
        "SELECT {}, EXISTS (SELECT 1 FROM contents WHERE contents.line = audit.line) FROM {} WHERE audit.line < ?1",
        chain::COLUMNS,
        chain::FROM
    );
    // Written out, so that SQLite sees which index serves.
    if filter.changes_only {
        sql.push_str(" AND audit.revision IS NOT NULL");
    }
    sql.push_str(if name.is_some() {
        " AND audit.name = ?2"
    } else {
        " AND (?2 IS NULL OR audit.name = ?2)"
    });
    sql.push_str(" AND (?3 IS NULL OR names.service = ?3) AND (?4 IS NULL OR names.key = ?4)");
    sql.push_str(" ORDER BY audit.line DESC LIMIT ?5");
    let before = filter.before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let key = filter.key.as_ref().map(Key::as_str);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![before, name, filter.service, key, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Entry { line: chain::read_line(row)?, is_kept: row.get(13)? });
    }
    Ok(found)
}

impl Database {
    /// Lines of the log, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn history(&self, filter: &Filter) -> Result<Vec<Entry>, DatabaseError> {
        let filter = filter.clone();
        self.reader.run(move |opened, place| opened.read(place, |view| lines(view, &filter))).await
    }

    /// An item as it was at this revision, without its secrets; `None`: it was not there.
    ///
    /// # Errors
    /// [`DatabaseError::Forgotten`], or when the database cannot be read.
    pub async fn version(
        &self,
        service: &str,
        key: &Key,
        revision: u64,
    ) -> Result<Option<Item>, DatabaseError> {
        let (service, key) = (service.to_owned(), key.clone());
        let version = self.reader.run(move |opened, place| {
            opened.read(place, |view| match then(view, &service, &key, revision)? {
                Then::Absent => Ok(None),
                Then::Forgotten => Err(forgotten(view, &service, &key, revision)?),
                Then::Values(stored) => {
                    stored.open(&place.keyring)?;
                    Ok(Some(stored.shown()))
                }
            })
        });
        version.await
    }

    /// All items of a service as they were at this revision.
    ///
    /// # Errors
    /// When the database cannot be read, or values of that time were changed by hand.
    pub async fn snapshot(&self, service: &str, revision: u64) -> Result<Snapshot, DatabaseError> {
        let service = service.to_owned();
        let snapshot = self.reader.run(move |opened, place| {
            opened.read(place, |view| {
                let (mut items, mut forgotten) = (BTreeMap::new(), Vec::new());
                for key in keys(view, &service)? {
                    match then(view, &service, &key, revision)? {
                        Then::Absent => {}
                        Then::Forgotten => forgotten.push(key),
                        Then::Values(stored) => {
                            stored.open(&place.keyring)?;
                            items.insert(key, stored.shown());
                        }
                    }
                }
                Ok(Snapshot { service, revision, items, forgotten })
            })
        });
        snapshot.await
    }

    /// Brings an item of this service, or without a key all of its items, back to how they were at a revision. That is
    /// a new revision; nothing of the history goes. All or nothing. `expected`: the newest revision of what is rolled
    /// back. Gives the new revision, or the one that there is if nothing differs.
    ///
    /// # Errors
    /// [`DatabaseError::Missing`], [`DatabaseError::Forgotten`], [`DatabaseError::Conflict`], or when it cannot be
    /// written.
    pub async fn rollback(
        &self,
        key: Option<&Key>,
        to: u64,
        expected: Option<u64>,
        actor: &Actor,
    ) -> Result<u64, DatabaseError> {
        let (service, key, actor) = (self.service().to_owned(), key.cloned(), actor.clone());
        let rollback = self.thread.run(move |opened, place| {
            opened.write(place, &actor, |writing| roll_back(writing, &service, key.as_ref(), to, expected))
        });
        rollback.await
    }

    /// When a revision was written; for people who ask by time, see [`Database::history`].
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn written_at(&self, revision: u64) -> Result<Option<Timestamp>, DatabaseError> {
        let look = self.reader.run(move |opened, place| {
            opened.read(place, |view| {
                let at: Option<i64> = view
                    .query_row(
                        "SELECT at FROM audit WHERE line = ?1 AND revision IS NOT NULL",
                        [revision],
                        |row| row.get(0),
                    )
                    .optional()?;
                Ok(at.and_then(chain::time))
            })
        });
        look.await
    }
}
