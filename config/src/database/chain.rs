//! The audit log: lines that are only ever appended, each with the hash of the one before.
//!
//! Values never stand in it, not even as plain hashes, which could be guessed: only as MACs. The same lines are the
//! history of the items.

use std::fmt;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{DatabaseError, Fault};
use crate::{
    key::{Actor, Key},
    keyring::Mac,
};

/// SHA-256 of a line and of all before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub(crate) [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The last line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tail {
    pub line: u64,
    pub hash: Hash,
}

impl Tail {
    /// Before the first line.
    pub(crate) const NONE: Self = Self { line: 0, hash: Hash([0; 32]) };
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Values of an item were written.
    Set,
    /// An item was removed.
    Delete,
    /// An item was brought back to values of an earlier time, or removed because it was not there then.
    Rollback,
    /// An item was sealed again with the newest keys; its values are the same.
    Reseal,
    /// A secret was shown to somebody.
    Reveal,
    /// Somebody was refused.
    Refuse,
    /// This database was made from a backup.
    Restore,
    /// A person took a database that is older than what this machine had seen.
    Accept,
}

impl Act {
    const ALL: [Self; 8] = [
        Self::Set,
        Self::Delete,
        Self::Rollback,
        Self::Reseal,
        Self::Reveal,
        Self::Refuse,
        Self::Restore,
        Self::Accept,
    ];

    /// As it stands in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Rollback => "rollback",
            Self::Reseal => "reseal",
            Self::Reveal => "reveal",
            Self::Refuse => "refuse",
            Self::Restore => "restore",
            Self::Accept => "accept",
        }
    }

    fn from_str(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == text)
    }
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// 1, 2, … without gaps.
    pub line: u64,
    /// When, by the clock of that machine; clocks may have been wrong, the order of lines is not.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What.
    pub act: Act,
    /// Service and key of the item that it was about.
    pub item: Option<(String, Key)>,
    /// The place in the item, or what else belongs to it.
    pub detail: Option<String>,
    /// Of lines that change an item; the lines of one change have the same one.
    pub revision: Option<u64>,
    /// MAC of the values before; `None` if there were none.
    pub before: Option<Mac>,
    /// MAC of the values since; `None` if there are none.
    pub after: Option<Mac>,
    /// Of this line and all before it.
    pub hash: Hash,
}

impl Line {
    /// What the hash has to be.
    pub(crate) fn expected_hash(&self, previous: Hash) -> Hash {
        let mut hash = Sha256::new();
        // Every part with its length, and what is absent other than what is empty: no two lines are the same bytes.
        let mut add = |part: Option<&[u8]>| match part {
            None => hash.update([0]),
            Some(part) => {
                hash.update([1]);
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        };
        add(Some(b"harmony-config audit 1"));
        add(Some(&previous.0));
        add(Some(&self.line.to_be_bytes()));
        add(Some(&self.at.as_millisecond().to_be_bytes()));
        add(Some(self.actor.who.as_bytes()));
        add(Some(self.actor.from.as_bytes()));
        add(Some(self.actor.request_id.as_bytes()));
        add(Some(self.act.as_str().as_bytes()));
        add(self.item.as_ref().map(|(service, _)| service.as_bytes()));
        add(self.item.as_ref().map(|(_, key)| key.as_str().as_bytes()));
        add(self.detail.as_ref().map(String::as_bytes));
        add(self.revision.map(u64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        add(self.before.map(|mac| mac.to_string()).as_ref().map(String::as_bytes));
        add(self.after.map(|mac| mac.to_string()).as_ref().map(String::as_bytes));
        Hash(hash.finalize().into())
    }

    pub(crate) fn tail(&self) -> Tail {
        Tail { line: self.line, hash: self.hash }
    }
}

/// The end of the log.
pub(crate) fn tail(connection: &Connection) -> Result<Tail, Fault> {
    let last = connection
        .prepare_cached("SELECT line, hash FROM audit ORDER BY line DESC LIMIT 1")?
        .query_row([], |row| Ok(Tail { line: row.get(0)?, hash: Hash(row.get(1)?) }))
        .optional()?;
    Ok(last.unwrap_or(Tail::NONE))
}

/// Writes a line as it stands. The database refuses one that does not follow the last.
pub(crate) fn append(connection: &Connection, line: &Line) -> Result<(), Fault> {
    let name = match &line.item {
        Some((service, key)) => Some(name(connection, service, key)?),
        None => None,
    };
    connection
        .prepare_cached("INSERT INTO audit VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)")?
        .execute(params![
            line.line,
            line.at.as_millisecond(),
            line.actor.who,
            line.actor.from,
            line.actor.request_id,
            line.act.as_str(),
            name,
            line.detail,
            line.revision,
            line.before.map(|mac| mac.to_string()),
            line.after.map(|mac| mac.to_string()),
            line.hash.0,
        ])?;
    Ok(())
}

/// The number of an item's name; given once.
pub(crate) fn name(connection: &Connection, service: &str, key: &Key) -> Result<i64, Fault> {
    if let Some(id) = known_name(connection, service, key)? {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO names(service, key) VALUES(?1, ?2)")?
        .execute([service, key.as_str()])?;
    Ok(connection.last_insert_rowid())
}

/// The number of an item's name, if there ever was such an item.
pub(crate) fn known_name(connection: &Connection, service: &str, key: &Key) -> Result<Option<i64>, Fault> {
    let id = connection
        .prepare_cached("SELECT id FROM names WHERE service = ?1 AND key = ?2")?
        .query_row([service, key.as_str()], |row| row.get(0))
        .optional()?;
    Ok(id)
}

/// Columns of [`read_line`], from `audit LEFT JOIN names`.
pub(crate) const COLUMNS: &str = "audit.line, audit.at, audit.who, audit.origin, audit.request_id, audit.act, \
     names.service, names.key, audit.detail, audit.revision, audit.before, audit.after, audit.hash";

/// Where they come from.
pub(crate) const FROM: &str = "audit LEFT JOIN names ON names.id = audit.name";

/// A line of the log as it stands. What cannot be one was changed by hand.
pub(crate) fn read_line(row: &Row<'_>) -> Result<Line, Fault> {
    let line: u64 = row.get(0)?;
    let changed = |what: &str| -> Fault {
        DatabaseError::Tampered {
            place: format!("line {line} of the audit log"),
            why: format!("its {what} is none"),
        }
        .into()
    };
    let mac = |column: usize| -> Result<Option<Mac>, Fault> {
        let text: Option<String> = row.get(column)?;
        text.map(|text| text.parse().map_err(|_| changed("MAC"))).transpose()
    };
    let service: Option<String> = row.get(6)?;
    let key: Option<String> = row.get(7)?;
    let key: Option<Key> = key.map(|key| key.parse().map_err(|_| changed("key"))).transpose()?;
    Ok(Line {
        line,
        at: time(row.get(1)?).ok_or_else(|| changed("time"))?,
        actor: Actor { who: row.get(2)?, from: row.get(3)?, request_id: row.get(4)? },
        act: Act::from_str(&row.get::<_, String>(5)?).ok_or_else(|| changed("act"))?,
        item: service.zip(key),
        detail: row.get(8)?,
        revision: row.get(9)?,
        before: mac(10)?,
        after: mac(11)?,
        hash: Hash(row.get(12)?),
    })
}

pub(crate) fn time(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}
