//! Documents as they lie at rest: plain, but for what is secret.
//!
//! The value at a secret place is `{"$sealed": "v1.…"}` instead. What lies in SQLite, histories, caches and backups
//! went through here. A plain object that has a field `$sealed` is sealed, too, so that nobody's data is ever taken
//! for a seal. It decides which places are sealed; it never keeps anything.

use serde_json::Value;
use zeroize::Zeroizing;

use crate::{
    key::FieldPath,
    keyring::{Context, Keyring, KeyringError, Purpose, Sealed},
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
    let sealer = Sealer { keyring, owner, model };
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
    let sealer = Sealer { keyring, owner, model };
    match sealer.open(&FieldPath::root(), &Value::Object(at_rest.clone()))? {
        Value::Object(fields) => Ok(fields),
        _ => Err(sealer.malformed(&FieldPath::root(), "what is sealed is no document")),
    }
}

/// Whether the document should be opened and sealed again: a secret is plain in it, or sealed with an older key.
///
/// # Errors
/// When the keys cannot be read.
pub fn needs_sealing(keyring: &Keyring, model: &Model, at_rest: &Document) -> Result<bool, SealError> {
    let newest = keyring.newest(Purpose::Encryption)?;
    Ok(is_stale(model, newest, &FieldPath::root(), at_rest))
}

struct Sealer<'a> {
    keyring: &'a Keyring,
    owner: &'a str,
    model: &'a Model,
}

impl Sealer<'_> {
    fn seal(&self, place: &FieldPath, value: &Value) -> Result<Value, SealError> {
        match value {
            _ if is_secret(self.model, place) => self.seal_whole(place, value),
            Value::Object(fields) if fields.contains_key(SEALED) => self.seal_whole(place, value),
            Value::Object(fields) => Ok(Value::Object(self.seal_fields(place, fields)?)),
            // A list has no places of its own: with a secret, or what could be taken for a seal, it is sealed as one.
            Value::Array(_) if has_secret(self.model, place) || looks_sealed(value) => {
                self.seal_whole(place, value)
            }
            _ => Ok(value.clone()),
        }
    }

    fn seal_fields(&self, place: &FieldPath, fields: &Document) -> Result<Document, SealError> {
        if is_secret(self.model, place) || fields.contains_key(SEALED) {
            return match self.seal_whole(place, &Value::Object(fields.clone()))? {
                Value::Object(sealed) => Ok(sealed),
                _ => Err(self.malformed(place, "it was not sealed")),
            };
        }
        fields.iter().map(|(name, value)| Ok((name.clone(), self.seal(&place.join(name), value)?))).collect()
    }

    fn seal_whole(&self, place: &FieldPath, value: &Value) -> Result<Value, SealError> {
        let plain = serde_json::to_vec(value).map(Zeroizing::new);
        let plain = plain.map_err(|_| self.malformed(place, "it cannot be written as JSON"))?;
        let sealed = self.keyring.seal(&self.context(place), &plain)?;
        Ok(Value::Object([(SEALED.to_owned(), Value::String(sealed.into()))].into_iter().collect()))
    }

    fn open(&self, place: &FieldPath, value: &Value) -> Result<Value, SealError> {
        let Value::Object(fields) = value else { return Ok(value.clone()) };
        let Some(sealed) = fields.get(SEALED) else {
            let opened =
                fields.iter().map(|(name, value)| Ok((name.clone(), self.open(&place.join(name), value)?)));
            return opened.collect::<Result<Document, SealError>>().map(Value::Object);
        };
        let (Some(text), 1) = (sealed.as_str(), fields.len()) else {
            return Err(self.malformed(place, "it has other fields, or its seal is no text"));
        };
        let sealed: Sealed =
            text.parse().map_err(|_| self.malformed(place, "it is not v<number>.<base64url>"))?;
        let plain = self.keyring.open_sealed(&self.context(place), &sealed)?;
        serde_json::from_slice(&plain).map_err(|_| self.malformed(place, "what is sealed is no JSON"))
    }

    fn context<'b>(&'b self, place: &'b FieldPath) -> Context<'b> {
        Context { owner: self.owner, key: &self.model.key, place }
    }

    fn malformed(&self, place: &FieldPath, why: &'static str) -> SealError {
        let place = match place.names() {
            [] => "the top".to_owned(),
            _ => place.to_string(),
        };
        SealError::Malformed { key: self.model.key.to_string(), place, why }
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

fn is_stale(model: &Model, newest: crate::keyring::KeyVersion, place: &FieldPath, fields: &Document) -> bool {
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
                Value::Object(fields) => is_stale(model, newest, &place, fields),
                Value::Array(_) => is_secret(model, &place) || has_secret(model, &place),
                _ => is_secret(model, &place),
            }
        })
}

#[cfg(test)]
#[path = "seal/tests.rs"]
mod tests;
