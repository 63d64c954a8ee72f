//! The key-value engine, version 2: what is asked, and what an answer means.
//!
//! ```text
//! revision = base + version
//! ```
//!
//! The engine's own count (`version`) begins at 1 again when an entry's metadata was deleted, so check-and-set alone
//! would take a change that was made for the entry before. `base` is the millisecond in which the store created the
//! entry, so that a later entry at the same path has higher revisions than the one before. All writers find the same
//! one. It is kept in the entry's custom metadata, since those come with every read; where somebody else wrote the
//! entry, one more question gets it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    error::OpenBaoError,
    transport::{Answer, time},
};
use crate::{
    key::FieldPath,
    source::Document,
    store::{Entry, EntryVersion, Metadata, StorePath},
};

/// Metadata: see above.
pub(super) const BASE: &str = "harmony-revision-base";
/// Metadata: the version whose values the other metadata belongs to.
pub(super) const OF_VERSION: &str = "harmony-metadata-of";
/// Limits of the engine for metadata: keys, bytes of a key, bytes of a value.
const METADATA: (usize, usize, usize) = (64, 128, 512);

/// One request.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
}

/// What stands at a path, deleted or not.
pub(super) struct Head {
    /// 0: nothing was ever written, or all of it was forgotten.
    pub(super) version: u64,
    /// `None`: nothing, or it was deleted.
    pub(super) values: Option<Document>,
    /// `None`: not known from this answer.
    pub(super) base: Option<u64>,
    /// Whether it is kept in the metadata.
    pub(super) base_is_noted: bool,
    metadata: Metadata,
    metadata_of: Option<u64>,
}

impl Head {
    fn nothing() -> Self {
        Self {
            version: 0,
            values: None,
            base: None,
            base_is_noted: false,
            metadata: Metadata::new(),
            metadata_of: None,
        }
    }

    /// What a change may expect: 0 when nothing is there.
    pub(super) fn revision(&self) -> u64 {
        match self.values {
            Some(_) => self.base.unwrap_or_default().saturating_add(self.version),
            None => 0,
        }
    }

    pub(super) fn into_entry(self) -> Option<Entry> {
        let revision = self.revision();
        Some(Entry {
            values: self.values?,
            revision,
            version: self.version,
            metadata: self.metadata,
            metadata_is_current: self.metadata_of == Some(self.version),
        })
    }
}

#[derive(Deserialize)]
struct Wrapped<T> {
    data: Option<T>,
}

#[derive(Deserialize)]
struct Found {
    data: Option<Value>,
    metadata: VersionMetadata,
}

#[derive(Deserialize)]
struct VersionMetadata {
    version: u64,
    custom_metadata: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Written {
    version: u64,
}

#[derive(Deserialize)]
struct Kept {
    created_time: String,
    custom_metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    versions: BTreeMap<String, KeptVersion>,
}

#[derive(Deserialize)]
struct KeptVersion {
    created_time: String,
    deletion_time: String,
    destroyed: bool,
}

pub(super) fn read(mount: &StorePath, path: &StorePath, version: Option<u64>) -> Call {
    let query = version.map_or(String::new(), |version| format!("?version={version}"));
    Call { method: Method::GET, path: format!("{mount}/data/{path}{query}"), body: None }
}

/// A soft-deleted entry is 404 with a body; one that was never there is 404 without.
pub(super) fn found(mount: &StorePath, answer: &Answer) -> Result<Head, OpenBaoError> {
    let found = match answer.status {
        200 => answer.json::<Wrapped<Found>>()?.data,
        404 => match answer.json::<Wrapped<Found>>() {
            Ok(Wrapped { data: Some(found) }) => Some(found),
            _ => {
                missing(mount, answer)?;
                return Ok(Head::nothing());
            }
        },
        _ => return Err(answer.failure()),
    };
    let none =
        || OpenBaoError::NoMount { mount: mount.to_string(), said: "the answer has no versions".to_owned() };
    let Found { data, metadata } = found.ok_or_else(none)?;
    let values = match data {
        None => None,
        Some(Value::Object(values)) => Some(values),
        Some(_) => return Err(OpenBaoError::Malformed("its values are no object".to_owned())),
    };
    let mut all = metadata.custom_metadata.unwrap_or_default();
    let mut number = |key: &str| all.remove(key).and_then(|text| text.parse().ok());
    let (base, metadata_of) = (number(BASE), number(OF_VERSION));
    let base_is_noted = base.is_some();
    Ok(Head { version: metadata.version, values, base, base_is_noted, metadata: all, metadata_of })
}

/// A path without an entry is no error; a path without an engine is.
fn missing(mount: &StorePath, answer: &Answer) -> Result<(), OpenBaoError> {
    match answer.said() {
        said if said.contains("no handler for route") || said.contains("route entry not found") => {
            Err(OpenBaoError::NoMount { mount: mount.to_string(), said })
        }
        _ => Ok(()),
    }
}

pub(super) fn write(
    mount: &StorePath,
    path: &StorePath,
    values: &Document,
    replaces: u64,
    limit: usize,
) -> Result<Call, OpenBaoError> {
    if let Some(place) = values.iter().find_map(|(name, value)| rounded(&FieldPath::root().join(name), value))
    {
        return Err(OpenBaoError::Number(place));
    }
    let body = json!({ "data": values, "options": { "cas": replaces } });
    let body = serde_json::to_vec(&body).map_err(|error| OpenBaoError::Malformed(error.to_string()))?;
    match body.len() {
        size if size > limit => Err(OpenBaoError::TooLarge { size, limit }),
        _ => Ok(Call {
            method: Method::POST,
            path: format!("{mount}/data/{path}"),
            body: Some(Zeroizing::new(body)),
        }),
    }
}

/// The place of a number that would come back as another one: the engine keeps numbers as 64-bit floats.
fn rounded(place: &FieldPath, value: &Value) -> Option<FieldPath> {
    const EXACT: u64 = 1 << 53;
    match value {
        Value::Number(number) => {
            let beyond = number.as_u64().is_some_and(|n| n > EXACT)
                || number.as_i64().is_some_and(|n| n.unsigned_abs() > EXACT);
            beyond.then(|| place.clone())
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| rounded(&place.join(&at.to_string()), item))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| rounded(&place.join(name), field)),
        _ => None,
    }
}

/// Whether two values are the same to the engine, which writes 1.0 as 1.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => same_values(one, other),
        _ => one == other,
    }
}

/// As [`same`], for whole documents.
pub(super) fn same_values(one: &Document, other: &Document) -> bool {
    let equal = |(name, value): (&String, &Value)| other.get(name).is_some_and(|other| same(value, other));
    one.len() == other.len() && one.iter().all(equal)
}

/// The new version; `None` when something else is there.
pub(super) fn written(mount: &StorePath, answer: &Answer, limit: usize) -> Result<Option<u64>, OpenBaoError> {
    let size = || OpenBaoError::TooLarge { size: limit.saturating_add(1), limit };
    match (answer.status, answer.said()) {
        (200, _) => match answer.json::<Wrapped<Written>>() {
            Ok(Wrapped { data: Some(written) }) => Ok(Some(written.version)),
            _ => Err(no_versions(mount)),
        },
        // Version 1 of the engine takes it, as something else.
        (204, _) => Err(no_versions(mount)),
        (400, said) if said.contains("check-and-set") => Ok(None),
        (413, _) => Err(size()),
        (_, said) if said.contains("body too large") || said.contains("too large") => Err(size()),
        (404, said) => Err(OpenBaoError::NoMount { mount: mount.to_string(), said }),
        _ => Err(answer.failure()),
    }
}

fn no_versions(mount: &StorePath) -> OpenBaoError {
    OpenBaoError::NoMount { mount: mount.to_string(), said: "it answers, but counts no versions".to_owned() }
}

/// Adds to the metadata.
pub(super) fn patch(mount: &StorePath, path: &StorePath, metadata: &Metadata) -> Call {
    metadata_call(Method::PATCH, mount, path, metadata)
}

/// Replaces the metadata.
pub(super) fn replace(mount: &StorePath, path: &StorePath, metadata: &Metadata) -> Call {
    metadata_call(Method::POST, mount, path, metadata)
}

fn metadata_call(method: Method, mount: &StorePath, path: &StorePath, metadata: &Metadata) -> Call {
    let body = Zeroizing::new(json!({ "custom_metadata": metadata }).to_string().into_bytes());
    Call { method, path: format!("{mount}/metadata/{path}"), body: Some(body) }
}

/// Before anything is sent: half a write would be worse.
pub(super) fn check_metadata(metadata: &Metadata) -> Result<(), OpenBaoError> {
    let (most, key, value) = METADATA;
    let wrong = |why: String| Err(OpenBaoError::Metadata(why));
    // Two are ours.
    if metadata.len() + 2 > most {
        return wrong(format!("it has {} keys, and the store takes {}", metadata.len(), most - 2));
    }
    for (name, text) in metadata {
        if name.is_empty() || name.len() > key || text.is_empty() || text.len() > value {
            return wrong(format!(
                "a key has 1 to {key} bytes and a value 1 to {value}, other than {name:.80?}"
            ));
        }
        if [BASE, OF_VERSION].contains(&name.as_str())
            || name.chars().chain(text.chars()).any(char::is_control)
        {
            return wrong(format!("{name:.80?} is not for callers, or has control characters"));
        }
    }
    Ok(())
}

pub(super) fn delete(mount: &StorePath, path: &StorePath) -> Call {
    Call { method: Method::DELETE, path: format!("{mount}/data/{path}"), body: None }
}

pub(super) fn forget(mount: &StorePath, path: &StorePath) -> Call {
    Call { method: Method::DELETE, path: format!("{mount}/metadata/{path}"), body: None }
}

pub(super) fn history(mount: &StorePath, path: &StorePath) -> Call {
    Call { method: Method::GET, path: format!("{mount}/metadata/{path}"), body: None }
}

/// The base of an entry, from the store's own note of when it was created.
pub(super) fn base(mount: &StorePath, answer: &Answer) -> Result<Option<u64>, OpenBaoError> {
    let created = kept(mount, answer)?.and_then(|kept| time(&kept.created_time));
    Ok(created.and_then(|time| u64::try_from(time.as_millisecond()).ok()))
}

/// All metadata, ours too; `None` when there is no entry.
pub(super) fn kept_metadata(mount: &StorePath, answer: &Answer) -> Result<Option<Metadata>, OpenBaoError> {
    Ok(kept(mount, answer)?.map(|kept| kept.custom_metadata.unwrap_or_default()))
}

pub(super) fn versions(mount: &StorePath, answer: &Answer) -> Result<Vec<EntryVersion>, OpenBaoError> {
    let Some(Kept { created_time, custom_metadata, versions }) = kept(mount, answer)? else {
        return Ok(Vec::new());
    };
    let noted = custom_metadata.and_then(|all| all.get(BASE)?.parse::<u64>().ok());
    let created = time(&created_time).and_then(|time| u64::try_from(time.as_millisecond()).ok());
    let base = noted.or(created).unwrap_or_default();
    let read = |(number, kept): (String, KeptVersion)| {
        let version: u64 = number.parse().ok()?;
        let deleted: Option<Timestamp> = time(&kept.deletion_time);
        let created = time(&kept.created_time);
        Some(EntryVersion {
            revision: base.saturating_add(version),
            version,
            created,
            deleted,
            destroyed: kept.destroyed,
        })
    };
    let mut all: Vec<_> = versions.into_iter().filter_map(read).collect();
    // The names are texts: 10 stands before 9.
    all.sort_by_key(|version| version.version);
    Ok(all)
}

fn kept(mount: &StorePath, answer: &Answer) -> Result<Option<Kept>, OpenBaoError> {
    match answer.status {
        200 => Ok(answer.json::<Wrapped<Kept>>()?.data),
        404 => missing(mount, answer).map(|()| None),
        _ => Err(answer.failure()),
    }
}

#[cfg(test)]
#[path = "tests/kv.rs"]
mod tests;
