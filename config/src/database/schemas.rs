//! Schemas of what services write, for whoever works on their settings without their types: `harmony-config`, an editor.
//!
//! ```text
//! schemas/<service>/<Key>.json   0600  {"mac": "v1.…", "schema": {…}}, beside the database
//! ```
//!
//! Kept with each write whose schema is another one. They say which places are secret, so each has a MAC: one that was
//! changed by hand is not used. A schema that cannot be kept fails no write; it only is not known then.

use std::path::{Path, PathBuf};

use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Database, DatabaseError, connection::Place, rest};
use crate::{
    kept::{self, KeptError, Lock},
    key::Key,
    keyring::{Keyring, KeyringError, Mac},
    model::Model,
};

/// Largest file in bytes.
const LIMIT: u64 = 4 << 20;

/// Member of a schema that nobody wrote, but somebody made up in order to write: it is not kept.
pub const MADE_UP: &str = "x-made-up";

#[derive(Serialize, Deserialize)]
struct Kept {
    mac: Mac,
    schema: Value,
}

fn folder(place: &Place) -> PathBuf {
    place.path.with_file_name("schemas")
}

fn file(place: &Place, service: &str, key: &Key) -> PathBuf {
    folder(place).join(service).join(format!("{key}.json"))
}

fn bound(service: &str, key: &str, schema: &Value) -> Vec<u8> {
    let mut bytes = format!("harmony-config schema 1\0{service}\0{key}\0").into_bytes();
    rest::canonical(schema, &mut bytes);
    bytes
}

/// Remembers the schema under which a service writes.
pub(super) fn keep(place: &Place, service: &str, model: &Model) {
    let schema = model.schema.as_value();
    // One that says nothing is of no use to anybody.
    if schema.get(MADE_UP).is_some() || !model.root().is_struct() {
        return;
    }
    let path = file(place, service, &model.key);
    let known = read(&path).ok().flatten();
    let bytes = bound(service, model.key.as_str(), schema);
    let holds = |known: &Kept| known.schema == *schema && place.keyring.verify(&bytes, &known.mac).is_ok();
    if known.as_ref().is_some_and(holds) {
        return;
    }
    let kept = Kept { mac: place.keyring.mac(&bytes), schema: schema.clone() };
    if let Err(error) = write(&path, &kept) {
        tracing::warn!(key = %model.key, "the schema of these settings is not kept beside them: {error}");
    }
}

/// Authenticates what is kept with the newest key, before older ones are dropped.
pub(super) fn reseal(place: &Place) {
    for path in entries(&folder(place)).iter().flat_map(|service| entries(service)) {
        let service = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let key = path.file_stem().and_then(|name| name.to_str());
        let (Some(service), Some(key), Ok(Some(kept))) = (service, key, read(&path)) else { continue };
        let bytes = bound(service, key, &kept.schema);
        // What was changed by hand gets no new MAC.
        if place.keyring.verify(&bytes, &kept.mac).is_ok() {
            let kept = Kept { mac: place.keyring.mac(&bytes), ..kept };
            if let Err(error) = write(&path, &kept) {
                tracing::warn!("the schema {} is not known any more: {error}", path.display());
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "json"))
        .collect()
}

fn read(path: &Path) -> Result<Option<Kept>, KeptError> {
    let found = kept::read(path, LIMIT)?;
    Ok(found.and_then(|(content, _)| serde_json::from_slice(&content).ok()))
}

fn write(path: &Path, kept: &Kept) -> Result<(), KeptError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    kept::folder(folder)?;
    let _lock = Lock::alone(&folder.join("lock"))?;
    let text = serde_json::to_vec(kept)
        .map_err(|error| KeptError::Write { path: path.to_owned(), source: error.into() })?;
    kept::replace(path, &text)
}

fn find(keyring: &Keyring, path: &Path, service: &str, key: &Key) -> Result<Option<Schema>, KeyringError> {
    let Some(kept) = read(path)? else { return Ok(None) };
    match keyring.verify(&bound(service, key.as_str(), &kept.schema), &kept.mac) {
        Ok(()) => Ok(Schema::try_from(kept.schema).ok()),
        Err(KeyringError::WrongMac | KeyringError::NoVersion { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Database {
    /// The schema under which this service last wrote an item; `None` if it never did, or the file was changed by
    /// hand. A short read of a file.
    ///
    /// # Errors
    /// When the file or the keys cannot be read.
    pub async fn schema(&self, key: &Key) -> Result<Option<Schema>, DatabaseError> {
        let place = std::sync::Arc::clone(&self.place);
        let path = file(&place, self.service(), key);
        find(&place.keyring, &path, self.service(), key)
            .map_err(|source| DatabaseError::Keys { path: place.path.clone(), source })
    }
}
