//! Stores of secrets: what every one of them does alike, and the source that reads settings from one.
//!
//! A [`Store`] keeps a document of JSON at a path, encrypts it at rest itself, counts its changes and refuses a change
//! that was made for an older state. It knows nothing of models and schemas: that is [`StoreSource`].

mod path;
mod source;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::source::{Document, SourceError};

pub use path::{BadStorePath, StorePath};
pub use source::{StoreSource, WentBack};

/// What is kept beside the values of an entry, readable for whoever may list it: never a secret.
pub type Metadata = BTreeMap<String, String>;

/// What stands at a path.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// The values. Whatever names the fields have: they are not part of the path.
    pub values: Document,
    /// Grows with every change, also when the entry was deleted with its whole history in between. What a later
    /// change may expect. It goes back only when the store itself was restored from an older state.
    pub revision: u64,
    /// The store's own count, for its command line: 1 for the first, and again for the first after the whole history
    /// was deleted.
    pub version: u64,
    /// What was kept beside the values.
    pub metadata: Metadata,
    /// Whether the metadata was written with these values. If not, somebody else wrote the values, or a writer ended
    /// between both.
    pub metadata_is_current: bool,
}

// Values may be secret.
impl fmt::Debug for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Entry")
            .field("values", &self.values.keys().collect::<Vec<_>>())
            .field("revision", &self.revision)
            .field("version", &self.version)
            .field("metadata", &self.metadata)
            .field("metadata_is_current", &self.metadata_is_current)
            .finish()
    }
}

/// One version in the history of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryVersion {
    /// See [`Entry::revision`].
    pub revision: u64,
    /// See [`Entry::version`].
    pub version: u64,
    /// When it was written, by the store's clock.
    pub created: Option<Timestamp>,
    /// When it was deleted; it can be brought back.
    pub deleted: Option<Timestamp>,
    /// Whether its values are gone for good.
    pub destroyed: bool,
}

/// How a store is, for health reports. Getting it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHealth {
    /// Which product and version answers: `OpenBao 2.3.1`.
    pub product: Option<String>,
    /// Whether it can be used.
    pub state: StoreState,
    /// How long the current login lasts; `None` without a login, or with one that does not end.
    pub login_ends_in: Option<Duration>,
    /// Why the last login or renewal failed, if it did.
    pub login_error: Option<String>,
}

/// Whether a store can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// It answers and is unsealed.
    Ready,
    /// It waits for its unseal keys.
    Sealed,
    /// It was never initialized.
    Uninitialized,
    /// No answer, and why.
    Unreachable(String),
}

/// A store of secrets.
///
/// Every call is bounded in time by the store itself. A write is durable when it returns.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Short, stable, lower-case: `openbao`.
    fn name(&self) -> &str;

    /// Where a path is, for people: `OpenBao https://bao.example.com:8200, secret/harmony/Vlan`.
    fn place(&self, path: &StorePath) -> String;

    /// How a person writes there by hand, in one line.
    fn how_to_set(&self, path: &StorePath) -> String;

    /// The time within which every call ends. `None`: it is not known.
    fn answers_within(&self) -> Option<Duration> {
        None
    }

    /// What stands at the path now; `None` when nothing does, or when it was deleted.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`], [`SourceError::Denied`], [`SourceError::Malformed`].
    async fn get(&self, path: &StorePath) -> Result<Option<Entry>, SourceError>;

    /// An older version; `None` when it is not kept any more, was deleted or destroyed. Its metadata is the newest.
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn get_version(&self, path: &StorePath, version: u64) -> Result<Option<Entry>, SourceError>;

    /// Replaces the values, and adds to the metadata. Gives the new revision.
    ///
    /// `expected` is the revision that this replaces: `Some(0)` for "nothing is there, or it was deleted", `None` for
    /// "whatever is there". A key of `metadata` that is not given stays as it is.
    ///
    /// # Errors
    /// [`SourceError::Conflict`] when something else is there: then nothing was written. [`SourceError::TooLarge`].
    /// Else as [`Store::get`]; after [`SourceError::Unavailable`] it may have been written, or not.
    async fn put(
        &self,
        path: &StorePath,
        values: &Document,
        expected: Option<u64>,
        metadata: &Metadata,
    ) -> Result<u64, SourceError>;

    /// Deletes the newest version so that it can be brought back; whether there was one.
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn delete(&self, path: &StorePath) -> Result<bool, SourceError>;

    /// Deletes all versions and the metadata for good.
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn forget(&self, path: &StorePath) -> Result<(), SourceError>;

    /// The versions that are kept, oldest first; empty when there are none.
    ///
    /// # Errors
    /// As [`Store::get`].
    async fn history(&self, path: &StorePath) -> Result<Vec<EntryVersion>, SourceError>;

    /// How it is.
    async fn health(&self) -> StoreHealth;
}
