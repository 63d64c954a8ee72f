//! Values as they lie in the database: JSON whose secrets are sealed, with a MAC of what they are when open.
//!
//! The MAC covers service, key and schema version, too: a row that was edited by hand, or moved, is not used.

use schemars::Schema;
use serde_json::Value;
use zeroize::Zeroizing;

use super::error::{DatabaseError, Fault};
use crate::{
    key::{FieldPath, Key},
    keyring::{Keyring, KeyringError, Mac},
    model::{Model, SchemaVersion},
    seal::{self, SEALED, SealError},
    source::Document,
};

/// What a row of `contents` has.
#[derive(Clone)]
pub(crate) struct Content {
    pub text: String,
    pub version: SchemaVersion,
}

/// Seals a model's values.
pub(crate) fn seal(
    keyring: &Keyring,
    service: &str,
    model: &Model,
    values: &Document,
) -> Result<Content, Fault> {
    let place = || name(service, &model.key);
    let sealed =
        seal::seal_document(keyring, service, model, values).map_err(|error| unsealed(place(), error))?;
    Ok(Content { text: Value::Object(sealed).to_string(), version: model.version.clone() })
}

/// Opens values, whichever model they belong to, and compares them with their MAC.
pub(crate) fn open(
    keyring: &Keyring,
    service: &str,
    key: &Key,
    content: &Content,
    mac: &Mac,
) -> Result<Document, Fault> {
    let place = || name(service, key);
    let values = open_unchecked(keyring, service, key, content)?;
    match keyring.verify(&bound(service, key, &content.version, &values), mac) {
        Ok(()) => Ok(values),
        Err(KeyringError::WrongMac) => {
            let why = "its values are not the ones that the audit log tells of".to_owned();
            Err(DatabaseError::Tampered { place: place(), why }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens values that may be compared with several MACs.
pub(crate) fn open_unchecked(
    keyring: &Keyring,
    service: &str,
    key: &Key,
    content: &Content,
) -> Result<Document, Fault> {
    let place = || name(service, key);
    let at_rest = parse(&content.text).ok_or_else(|| {
        Fault::from(DatabaseError::Tampered { place: place(), why: "it is no JSON object".to_owned() })
    })?;
    seal::open_document(keyring, service, &bare(key), &at_rest).map_err(|error| unsealed(place(), error))
}

/// What a MAC is made of.
pub(crate) fn bound(
    service: &str,
    key: &Key,
    version: &SchemaVersion,
    values: &Document,
) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(b"harmony-config item 1\0".to_vec());
    for part in [service, key.as_str(), &version.0] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    canonical_fields(values, &mut bytes);
    bytes
}

/// JSON with sorted fields, whatever order the map has.
pub(super) fn canonical(value: &Value, to: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => canonical_fields(fields, to),
        Value::Array(items) => {
            to.push(b'[');
            for item in items {
                canonical(item, to);
                to.push(b',');
            }
            to.push(b']');
        }
        scalar => to.extend_from_slice(Zeroizing::new(scalar.to_string()).as_bytes()),
    }
}

fn canonical_fields(fields: &Document, to: &mut Vec<u8>) {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    to.push(b'{');
    for (name, value) in sorted {
        to.extend_from_slice(Value::String(name.clone()).to_string().as_bytes());
        to.push(b':');
        canonical(value, to);
        to.push(b',');
    }
    to.push(b'}');
}

/// What may be shown: everything but the sealed places, and which ones these are.
pub(crate) fn shown(text: &str) -> (Document, Vec<FieldPath>) {
    fn walk(place: &FieldPath, fields: Document, secrets: &mut Vec<FieldPath>) -> Option<Document> {
        if fields.contains_key(SEALED) {
            secrets.push(place.clone());
            return None;
        }
        let shown = fields.into_iter().filter_map(|(name, value)| {
            let place = place.join(&name);
            match value {
                Value::Object(fields) => Some((name, Value::Object(walk(&place, fields, secrets)?))),
                other => Some((name, other)),
            }
        });
        Some(shown.collect())
    }
    let mut secrets = Vec::new();
    let shown = walk(&FieldPath::root(), parse(text).unwrap_or_default(), &mut secrets);
    (shown.unwrap_or_default(), secrets)
}

fn parse(text: &str) -> Option<Document> {
    serde_json::from_str(text).ok()
}

/// Opening needs to know whose values they are, and no more.
pub(crate) fn bare(key: &Key) -> Model {
    Model {
        key: key.clone(),
        schema: Schema::default(),
        version: SchemaVersion(String::new()),
        secrets: Vec::new(),
        places: Default::default(),
    }
}

fn unsealed(place: String, error: SealError) -> Fault {
    match error {
        SealError::Keyring(error @ KeyringError::Unopenable { .. }) => {
            DatabaseError::Tampered { place, why: error.to_string() }.into()
        }
        SealError::Keyring(error) => error.into(),
        error @ SealError::Malformed { .. } => {
            DatabaseError::Tampered { place, why: error.to_string() }.into()
        }
    }
}

/// An item, for people.
pub(crate) fn name(service: &str, key: &Key) -> String {
    format!("item {key} of {service}")
}
