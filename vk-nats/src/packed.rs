//! Objects that are kept for long and read now and then, as JSON.
//!
//! A decoded object of Kubernetes is mostly room: fields that are absent, maps with place for eleven entries, a
//! separate allocation for each short text. Its JSON is one allocation of a third of that. Decoding one takes some
//! ten microseconds, so this is for what is read a few times in a minute, not for what is read in a loop.
//!
//! Never leaves the process: what is on the wire has types of its own.

use std::{fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

/// An object as JSON. Two are equal if their text is.
pub struct Packed<T> {
    json: Box<[u8]>,
    object: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Packed<T> {
    /// Packs an object.
    pub fn new(object: &T) -> Self {
        // Kubernetes' types, and ours, are written to JSON without error.
        let json = serde_json::to_vec(object).unwrap_or_default().into_boxed_slice();
        Self { json, object: PhantomData }
    }

    /// The object. `None` would be a type that cannot read what it wrote.
    pub fn get(&self) -> Option<T> {
        serde_json::from_slice(&self.json).ok()
    }

    /// How many bytes the text has.
    pub fn len(&self) -> usize {
        self.json.len()
    }

    /// Whether there is no text, which no object has.
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }
}

impl<T> Clone for Packed<T> {
    fn clone(&self) -> Self {
        Self { json: self.json.clone(), object: PhantomData }
    }
}

impl<T> PartialEq for Packed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

impl<T> Eq for Packed<T> {}

/// Without the content, which may be an environment with passwords.
impl<T> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("bytes", &self.json.len()).finish()
    }
}

#[cfg(test)]
#[path = "tests/packed.rs"]
mod tests;
