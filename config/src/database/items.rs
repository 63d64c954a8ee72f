//! Items as they stand now: read, written, removed, listed, searched.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde_json::Value;

use super::{
    chain::{self, Act, Line},
    connection::Writing,
    error::{DatabaseError, Fault},
    rest::{self, Content},
    retention,
};
use crate::{
    key::{FieldPath, Key},
    keyring::{Keyring, Mac},
    model::{Model, SchemaVersion},
    source::Document,
};

/// An item without its secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Whose it is.
    pub service: String,
    /// Key of the model.
    pub key: Key,
    /// Grows with every write.
    pub revision: u64,
    /// Version of the schema under which it was written.
    pub schema_version: SchemaVersion,
    /// When it was written.
    pub updated_at: Timestamp,
    /// Its values; secrets are left out.
    pub values: Document,
    /// Where secrets are left out.
    pub secrets: Vec<FieldPath>,
}

/// Where a search found something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Whose item.
    pub service: String,
    /// Its key.
    pub key: Key,
    /// The place in it, with dots; empty: the key itself.
    pub place: String,
    /// Its revision.
    pub revision: u64,
}

/// A row, and what the log says of it.
pub(crate) struct Stored {
    pub service: String,
    pub key: Key,
    pub content: Content,
    pub revision: u64,
    pub updated_at: Timestamp,
    pub mac: Mac,
}

impl Stored {
    pub(crate) fn open(&self, keyring: &Keyring) -> Result<Document, Fault> {
        rest::open(keyring, &self.service, &self.key, &self.content, &self.mac)
    }

    pub(crate) fn shown(self) -> Item {
        let (values, secrets) = rest::shown(&self.content.text);
        Item {
            service: self.service,
            key: self.key,
            revision: self.revision,
            schema_version: self.content.version,
            updated_at: self.updated_at,
            values,
            secrets,
        }
    }
}

/// Every item that there ever was, with how it stands and with the last line that changed it.
const STANDING: &str = "SELECT n.service, n.key, i.value, i.schema_version, i.revision, i.updated_at, i.line,
        a.line, a.after, a.revision
     FROM names n LEFT JOIN items i ON i.service = n.service AND i.key = n.key
     LEFT JOIN audit a ON a.line = (SELECT max(line) FROM audit WHERE name = n.id AND revision IS NOT NULL)";

/// How one item stands; `None`: there is none.
pub(crate) fn get(connection: &Connection, service: &str, key: &Key) -> Result<Option<Stored>, Fault> {
    let mut statement =
        connection.prepare_cached(&format!("{STANDING} WHERE n.service = ?1 AND n.key = ?2"))?;
    let mut rows = statement.query([service, key.as_str()])?;
    match rows.next()? {
        Some(row) => stored(row),
        None => Ok(None),
    }
}

/// All items of a service, or of all.
pub(crate) fn all(connection: &Connection, service: Option<&str>) -> Result<Vec<Stored>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "{STANDING} WHERE ?1 IS NULL OR n.service = ?1 ORDER BY n.service, n.key"
    ))?;
    let mut rows = statement.query([service])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(stored(row)?);
    }
    Ok(found)
}

fn stored(row: &Row<'_>) -> Result<Option<Stored>, Fault> {
    let service: String = row.get(0)?;
    let key: String = row.get(1)?;
    let changed = |why: &str| -> Fault {
        DatabaseError::Tampered { place: format!("item {key} of {service}"), why: why.to_owned() }.into()
    };
    let value: Option<String> = row.get(2)?;
    let (line, logged): (Option<u64>, Option<u64>) = (row.get(6)?, row.get(7)?);
    let after: Option<String> = row.get(8)?;
    let (text, after) = match (value, after) {
        (None, None) => return Ok(None),
        (Some(text), Some(after)) if line == logged => (text, after),
        (None, Some(_)) => return Err(changed("the audit log tells of values, and there are none")),
        (Some(_), _) => return Err(changed("its last line in the audit log tells of other values")),
    };
    let revision: u64 = row.get(4)?;
    if row.get::<_, Option<u64>>(9)? != Some(revision) {
        return Err(changed("its revision is not the one in the audit log"));
    }
    Ok(Some(Stored {
        content: Content { text, version: SchemaVersion(row.get(3)?) },
        revision,
        updated_at: chain::time(row.get(5)?).ok_or_else(|| changed("its time is none"))?,
        mac: after.parse().map_err(|_| changed("its MAC is none"))?,
        key: key.parse().map_err(|_| changed("its key is none"))?,
        service,
    }))
}

/// Writes the whole of a model's values. Writes nothing, and gives the revision that there is, when they are the same:
/// a program that sets its defaults with every start must not wear out a flash.
pub(crate) fn set(
    writing: &mut Writing<'_>,
    service: &str,
    model: &Model,
    values: &Document,
    expected: Option<u64>,
) -> Result<u64, Fault> {
    let (keyring, limit) = (&writing.place.keyring, writing.place.options.limit);
    let current = get(&writing.tx, service, &model.key)?;
    refuse_conflict(&model.key, expected, current.as_ref())?;
    let bytes = rest::bound(service, &model.key, &model.version, values);
    if let Some(current) = &current
        && current.content.version == model.version
        && keyring.verify(&bytes, &current.mac).is_ok()
        // What was changed by hand is put right.
        && current.open(keyring).is_ok()
    {
        return Ok(current.revision);
    }
    let content = rest::seal(keyring, service, model, values)?;
    if content.text.len() > limit {
        let (key, size) = (model.key.clone(), content.text.len());
        return Err(DatabaseError::TooLarge { key, size, limit }.into());
    }
    let after = keyring.mac(&bytes);
    put(writing, Act::Set, service, &model.key, current.map(|current| current.mac), Some((content, after)))?;
    Ok(writing.revision)
}

/// Removes an item; whether there was one.
pub(crate) fn delete(writing: &mut Writing<'_>, service: &str, key: &Key) -> Result<bool, Fault> {
    let Some(current) = get(&writing.tx, service, key)? else { return Ok(false) };
    put(writing, Act::Delete, service, key, Some(current.mac), None)?;
    Ok(true)
}

fn refuse_conflict(key: &Key, expected: Option<u64>, current: Option<&Stored>) -> Result<(), Fault> {
    let found = current.map_or(0, |current| current.revision);
    match expected {
        Some(expected) if expected != found => {
            Err(DatabaseError::Conflict { key: key.clone(), expected, found }.into())
        }
        _ => Ok(()),
    }
}

/// A change of one item, with its line.
pub(crate) fn put(
    writing: &mut Writing<'_>,
    act: Act,
    service: &str,
    key: &Key,
    before: Option<Mac>,
    content: Option<(Content, Mac)>,
) -> Result<(), Fault> {
    let after = content.as_ref().map(|(_, mac)| *mac);
    let line = writing.line(act, Some((service, key)), None, Some((before, after)))?;
    let content = content.map(|(content, _)| content);
    let options = &writing.place.options;
    let saved = options.backup.as_ref().map(|_| writing.place.backup_state().line);
    apply(&writing.tx, &line, content.as_ref(), (&options.retention, saved))
}

/// What a line that changes an item does to the other tables. A continuous backup has the lines up to `saved`.
pub(crate) fn apply(
    connection: &Connection,
    line: &Line,
    content: Option<&Content>,
    (retention, saved): (&retention::Retention, Option<u64>),
) -> Result<(), Fault> {
    let (Some((service, key)), Some(revision)) = (&line.item, line.revision) else { return Ok(()) };
    let name = chain::name(connection, service, key)?;
    let Some(content) = content else {
        connection
            .prepare_cached("DELETE FROM items WHERE service = ?1 AND key = ?2")?
            .execute([service, key.as_str()])?;
        return Ok(());
    };
    let (text, version) = (&content.text, &content.version.0);
    connection
        .prepare_cached("INSERT INTO contents VALUES(?1, ?2, ?3, ?4)")?
        .execute(params![line.line, name, text, version])?;
    connection.prepare_cached("INSERT OR REPLACE INTO items VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
        params![service, key.as_str(), text, version, revision, line.at.as_millisecond(), line.line],
    )?;
    retention::forget(connection, name, retention, saved)
}

/// The revision of an item: of its last change, also if that removed it; 0: there never was one.
pub(crate) fn revision(connection: &Connection, service: &str, key: &Key) -> Result<u64, Fault> {
    let revision = connection
        .prepare_cached(
            "SELECT a.revision FROM audit a JOIN names n ON n.id = a.name
             WHERE n.service = ?1 AND n.key = ?2 AND a.revision IS NOT NULL ORDER BY a.line DESC LIMIT 1",
        )?
        .query_row([service, key.as_str()], |row| row.get(0))
        .optional()?;
    Ok(revision.unwrap_or(0))
}

/// The newest revision of a service: its epoch. 0: nothing was ever written.
pub(crate) fn epochs(connection: &Connection) -> Result<BTreeMap<String, u64>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT n.service, max((SELECT max(line) FROM audit WHERE name = n.id AND revision IS NOT NULL))
         FROM names n GROUP BY n.service",
    )?;
    let mut rows = statement.query([])?;
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let Some(line) = row.get::<_, Option<u64>>(1)? else { continue };
        let revision: Option<u64> = connection
            .prepare_cached("SELECT revision FROM audit WHERE line = ?1")?
            .query_row([line], |row| row.get(0))?;
        found.insert(row.get(0)?, revision.unwrap_or(0));
    }
    Ok(found)
}

/// Places whose name or value has the text in it, upper or lower case; secrets are not looked into.
pub(crate) fn search(items: Vec<Item>, text: &str, limit: usize) -> Vec<Found> {
    let text = text.to_lowercase();
    let mut found = Vec::new();
    for item in items {
        let mut places = Vec::new();
        if item.key.as_str().to_lowercase().contains(&text) {
            places.push(FieldPath::root());
        }
        search_fields(&FieldPath::root(), &item.values, &text, &mut places);
        // That there is a secret is no secret.
        let named =
            |place: &&FieldPath| place.names().last().is_some_and(|name| name.to_lowercase().contains(&text));
        places.extend(item.secrets.iter().filter(named).cloned());
        found.extend(places.into_iter().map(|place| Found {
            service: item.service.clone(),
            key: item.key.clone(),
            place: place.to_string(),
            revision: item.revision,
        }));
        if found.len() >= limit {
            break;
        }
    }
    found.truncate(limit);
    found
}

fn search_fields(at: &FieldPath, fields: &Document, text: &str, places: &mut Vec<FieldPath>) {
    for (name, value) in fields {
        let place = at.join(name);
        if name.to_lowercase().contains(text) || has(value, text) {
            places.push(place.clone());
        }
        if let Value::Object(fields) = value {
            search_fields(&place, fields, text, places);
        }
    }
}

fn has(value: &Value, text: &str) -> bool {
    match value {
        Value::String(value) => value.to_lowercase().contains(text),
        Value::Array(items) => items.iter().any(|item| match item {
            // A list has no places of its own.
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| name.to_lowercase().contains(text) || has(value, text))
            }
            item => has(item, text),
        }),
        Value::Object(_) | Value::Null => false,
        scalar => scalar.to_string().contains(text),
    }
}
