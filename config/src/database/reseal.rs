//! After a rotation: everything in the database is sealed again with the newest key, so that an older one can go.
//!
//! Items get a line and a revision, since their MAC is another one now. Of earlier values only the seals change; their
//! MACs stand in the log, which nobody changes: when their cache key is dropped they can be read, and not checked.

use rusqlite::params;
use serde_json::Value;

use super::{
    Database,
    chain::Act,
    connection::Writing,
    error::{DatabaseError, Fault},
    items,
    rest::{self, Content},
    schemas,
};
use crate::{
    key::{Actor, Key},
    keyring::{KeyVersion, Keyring, Purpose, Sealed},
    seal::SEALED,
};

/// What was sealed again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Items, of all services.
    pub items: u64,
    /// Earlier values.
    pub versions: u64,
}

/// Whether something in it is sealed with another key than this one.
fn is_stale(value: &Value, newest: KeyVersion) -> bool {
    match value {
        Value::Object(fields) => match fields.get(SEALED).and_then(Value::as_str) {
            Some(sealed) => sealed.parse::<Sealed>().is_ok_and(|sealed| sealed.version() != newest),
            None => fields.values().any(|value| is_stale(value, newest)),
        },
        _ => false,
    }
}

fn sealed_again(keyring: &Keyring, service: &str, key: &Key, content: &Content) -> Result<Content, Fault> {
    let values = rest::open_unchecked(keyring, service, key, content)?;
    let mut model = rest::bare(key);
    model.version = content.version.clone();
    model.secrets = rest::shown(&content.text).1;
    rest::seal(keyring, service, &model, &values)
}

fn reseal(writing: &mut Writing<'_>) -> Result<Resealed, Fault> {
    let keyring = &writing.place.keyring;
    let (sealing, authentic) = (keyring.newest(Purpose::Encryption)?, keyring.newest(Purpose::Cache)?);
    let stale = |text: &str| serde_json::from_str(text).is_ok_and(|value| is_stale(&value, sealing));
    let mut done = Resealed::default();
    for stored in items::all(&writing.tx, None)? {
        if !stale(&stored.content.text) && stored.mac.version() == authentic {
            continue;
        }
        // What was changed by hand gets no new seal.
        let values = stored.open(keyring)?;
        let content = sealed_again(keyring, &stored.service, &stored.key, &stored.content)?;
        let mac = keyring.mac(&rest::bound(&stored.service, &stored.key, &content.version, &values));
        let change = Some((content, mac));
        items::put(writing, Act::Reseal, &stored.service, &stored.key, Some(stored.mac), change)?;
        done.items += 1;
    }
    let mut statement = writing.tx.prepare(
        "SELECT c.line, n.service, n.key, c.value, c.schema_version
         FROM contents c JOIN names n ON n.id = c.name ORDER BY c.line",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (line, text): (u64, String) = (row.get(0)?, row.get(3)?);
        if !stale(&text) {
            continue;
        }
        let (service, key): (String, String) = (row.get(1)?, row.get(2)?);
        let key: Key = key.parse().map_err(|_| DatabaseError::Tampered {
            place: format!("the values of line {line}"),
            why: "their key is none".to_owned(),
        })?;
        let content = Content { text, version: crate::model::SchemaVersion(row.get(4)?) };
        let content = sealed_again(keyring, &service, &key, &content)?;
        writing
            .tx
            .prepare_cached("UPDATE contents SET value = ?2 WHERE line = ?1")?
            .execute(params![line, content.text])?;
        done.versions += 1;
    }
    Ok(done)
}

impl Database {
    /// Seals everything again that is sealed, or authenticated, with an older key; of all services, all or nothing.
    /// Once this has returned, the database needs no older encryption key: whoever writes later uses the newest.
    /// Backups do, until they are made anew.
    ///
    /// # Errors
    /// When a value was changed by hand, its key is gone, or it cannot be written.
    pub async fn reseal(&self, actor: &Actor) -> Result<Resealed, DatabaseError> {
        let actor = actor.clone();
        let reseal = self.thread.run(move |opened, place| {
            let done = opened.write(place, &actor, reseal)?;
            // Also if no item had to be written: the head has a MAC, too.
            opened.take_as_it_is(place)?;
            schemas::reseal(place);
            Ok(done)
        });
        reseal.await
    }
}
