//! Documents as they lie at rest: plain, but for what is secret.
//!
//! The value at a secret place is `{"$sealed": "v1.…"}` instead. What lies in SQLite, histories, caches and backups
//! went through here. A plain object that has a field `$sealed` is sealed, too, so that nobody's data is ever taken
//! for a seal. It decides which places are sealed; it never keeps anything.

use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    key::{FieldPath, Key},
    keyring::{Context, KeyVersion, Keyring, KeyringError, Purpose, Sealed},
    model::Model,
    source::{Document, SourceError},
};

/// Name of the only field of what stands in the place of a secret.
pub const SEALED: &str = "$sealed";

/// Why a document cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A value, or the keys.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Something stands in the place of a sealed value that was never written there.
    #[error("what stands at {place} in {key} looks sealed and is not: {why}. Set it again")]
    Malformed {
        /// The model.
        key: String,
        /// The place, for people.
        place: String,
        /// In what way.
        why: &'static str,
    },
}

impl SealError {
    /// As an error of the source that has the document; `place`: the row, file or path that it came from.
    #[must_use]
    pub fn into_source_error(self, place: &str) -> SourceError {
        let (place, why) = (place.to_owned(), self.to_string());
        match self {
            Self::Malformed { .. }
            | Self::Keyring(
                KeyringError::Unopenable { .. } | KeyringError::WrongMac | KeyringError::NoVersion { .. },
            ) => SourceError::Tampered {
                place,
                why,
                hint: "If the keys were put back from an older backup, put the newer ones back".to_owned(),
            },
            Self::Keyring(_) => SourceError::Malformed {
                place,
                why,
                hint: "The keys are in a folder of their own, `keys` beside the database by default"
                    .to_owned(),
            },
        }
    }
}

/// The document with its secret places sealed.
///
/// # Errors
/// When the keys cannot be used.
pub fn seal_document(
    keyring: &Keyring,
    owner: &str,
    model: &Model,
    plain: &Document,
) -> Result<Document, SealError> {
    let sealer = Sealer { at: Places { keyring, owner, key: &model.key }, model };
    sealer.seal_fields(&FieldPath::root(), plain)
}

/// The document with what is sealed in it opened.
///
/// A secret place that is not sealed is given as it stands: it became secret after it was written. See
/// [`needs_sealing`].
///
/// # Errors
/// When a seal does not hold: the value was changed or moved, or its key is gone.
pub fn open_document(
    keyring: &Keyring,
    owner: &str,
    model: &Model,
    at_rest: &Document,
) -> Result<Document, SealError> {
    let at = Places { keyring, owner, key: &model.key };
    match at.open(&FieldPath::root(), &Value::Object(at_rest.clone()))? {
        Value::Object(fields) => Ok(fields),
        _ => Err(at.malformed(&FieldPath::root(), "what is sealed is no document")),
    }
}

/// Whether the document should be opened and sealed again: a secret is plain in it, or sealed with an older key.
///
/// # Errors
/// When the keys cannot be read.
pub fn needs_sealing(keyring: &Keyring, model: &Model, at_rest: &Document) -> Result<bool, SealError> {
    let newest = keyring.newest(Purpose::Encryption)?;
    Ok(is_stale(model, newest, at_rest))
}

/// As [`needs_sealing`], for this newest key.
pub(crate) fn is_stale(model: &Model, newest: KeyVersion, at_rest: &Document) -> bool {
    is_stale_at(model, newest, &FieldPath::root(), at_rest)
}

/// The document with everything that is sealed in it sealed with the newest key. Needs no model: for a rotation, which
/// knows of none.
///
/// # Errors
/// As [`open_document`].
pub fn reseal_document(
    keyring: &Keyring,
    owner: &str,
    key: &Key,
    at_rest: &Document,
) -> Result<Document, SealError> {
    reseal_fields(&Places { keyring, owner, key }, &FieldPath::root(), at_rest)
}

fn reseal_fields(at: &Places<'_>, place: &FieldPath, fields: &Document) -> Result<Document, SealError> {
    if fields.contains_key(SEALED) {
        return at.seal_whole(place, &at.open_whole(place, fields)?);
    }
    let resealed = fields.iter().map(|(name, value)| {
        let value = match value {
            Value::Object(inner) => Value::Object(reseal_fields(at, &place.join(name), inner)?),
            other => other.clone(),
        };
        Ok((name.clone(), value))
    });
    resealed.collect()
}

struct Sealer<'a> {
    at: Places<'a>,
    model: &'a Model,
}

/// Whose places.
struct Places<'a> {
    keyring: &'a Keyring,
    owner: &'a str,
    key: &'a Key,
}

impl Sealer<'_> {
    fn seal(&self, place: &FieldPath, value: &Value) -> Result<Value, SealError> {
        match value {
            Value::Object(fields) => self.seal_fields(place, fields).map(Value::Object),
            _ if is_secret(self.model, place) => self.at.seal_whole(place, value).map(Value::Object),
            // A list has no places of its own: with a secret, or what could be taken for a seal, it is sealed as one.
            Value::Array(_) if has_secret(self.model, place) || looks_sealed(value) => {
                self.at.seal_whole(place, value).map(Value::Object)
            }
            _ => Ok(value.clone()),
        }
    }

    fn seal_fields(&self, place: &FieldPath, fields: &Document) -> Result<Document, SealError> {
        if is_secret(self.model, place) || fields.contains_key(SEALED) {
            return self.at.seal_whole(place, &Value::Object(fields.clone()));
        }
        fields.iter().map(|(name, value)| Ok((name.clone(), self.seal(&place.join(name), value)?))).collect()
    }
}

impl Places<'_> {
    fn seal_whole(&self, place: &FieldPath, value: &Value) -> Result<Document, SealError> {
        let plain = serde_json::to_vec(value).map(Zeroizing::new);
        let plain = plain.map_err(|_| self.malformed(place, "it cannot be written as JSON"))?;
        let sealed = self.keyring.seal(&self.context(place), &plain)?;
        Ok([(SEALED.to_owned(), Value::String(sealed.into()))].into_iter().collect())
    }

    fn open(&self, place: &FieldPath, value: &Value) -> Result<Value, SealError> {
        let Value::Object(fields) = value else { return Ok(value.clone()) };
        if fields.contains_key(SEALED) {
            return self.open_whole(place, fields);
        }
        let opened =
            fields.iter().map(|(name, value)| Ok((name.clone(), self.open(&place.join(name), value)?)));
        opened.collect::<Result<Document, SealError>>().map(Value::Object)
    }

    fn open_whole(&self, place: &FieldPath, fields: &Document) -> Result<Value, SealError> {
        let (Some(text), 1) = (fields.get(SEALED).and_then(Value::as_str), fields.len()) else {
            return Err(self.malformed(place, "it has other fields, or its seal is no text"));
        };
        let sealed: Sealed =
            text.parse().map_err(|_| self.malformed(place, "it is not v<number>.<base64url>"))?;
        let plain = self.keyring.open_sealed(&self.context(place), &sealed)?;
        serde_json::from_slice(&plain).map_err(|_| self.malformed(place, "what is sealed is no JSON"))
    }

    fn context<'b>(&'b self, place: &'b FieldPath) -> Context<'b> {
        Context { owner: self.owner, key: self.key, place }
    }

    fn malformed(&self, place: &FieldPath, why: &'static str) -> SealError {
        let place = match place.names() {
            [] => "the top".to_owned(),
            _ => place.to_string(),
        };
        SealError::Malformed { key: self.key.to_string(), place, why }
    }
}

/// The place is secret, or lies in a secret.
fn is_secret(model: &Model, place: &FieldPath) -> bool {
    model.secrets.iter().any(|secret| secret.covers(place))
}

/// A place in this one is secret.
fn has_secret(model: &Model, place: &FieldPath) -> bool {
    model.secrets.iter().any(|secret| place.covers(secret))
}

fn looks_sealed(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.contains_key(SEALED) || fields.values().any(looks_sealed),
        Value::Array(items) => items.iter().any(looks_sealed),
        _ => false,
    }
}

fn is_stale_at(model: &Model, newest: KeyVersion, place: &FieldPath, fields: &Document) -> bool {
    if let Some(sealed) = fields.get(SEALED) {
        return sealed
            .as_str()
            .and_then(|text| text.parse::<Sealed>().ok())
            .is_none_or(|it| it.version() != newest);
    }
    is_secret(model, place)
        || fields.iter().any(|(name, value)| {
            let place = place.join(name);
            match value {
                Value::Object(fields) => is_stale_at(model, newest, &place, fields),
                Value::Array(_) => is_secret(model, &place) || has_secret(model, &place),
                _ => is_secret(model, &place),
            }
        })
}

#[cfg(test)]
#[path = "seal/tests.rs"]
mod tests;
