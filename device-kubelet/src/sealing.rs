//! What lies on the device's disk is encrypted: with data keys, which a [`Sealer`] wraps.
//!
//! ```text
//! <data-dir>/keys/
//!   sealing.key      0600  wraps the data keys (key_file); a TPM has this key inside instead
//!   sealing.next     0600  the one that takes its place; only while keys are changed
//!   data-key.json    0600  the data keys, wrapped; the newest seals, older ones open what is not rewritten yet
//! ```
//!
//! It owns keys and the form of sealed bytes; which files are sealed, and when they are rewritten, is the store's
//! to decide. It never replaces a key that cannot be read: what was sealed with it would be lost without a word.

mod data_key;
mod envelope;
mod key_file;
mod keyring;

use std::path::PathBuf;

pub use self::{
    data_key::DataKey,
    envelope::is_sealed,
    key_file::KeyFileSealer,
    keyring::{Keyring, Opened},
};
use crate::keys::KeysError;

/// What a person can do when keys are gone. The names are relative to the data folder.
const REMEDY: &str = "Nothing was changed, and running containers are left alone. Put the file back from a backup. \
     If there is none, what the device held is lost: the desired pods with their secrets, and their restart counts. \
     Then remove keys/sealing.key, keys/sealing.next, keys/data-key.json and the folder store from the data folder \
     (and nothing else: the other keys are the device's identity) and start the agent again; it gets its pods from \
     the cluster when it reaches it, and until then stops none";

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// A key's file cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The sealer's key is gone.
    #[error("{path} is missing, and nothing else opens what the device has stored. {REMEDY}")]
    SealingKeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The sealer's key is no key.
    #[error("{path} does not hold a sealing key (32 bytes in base64). {REMEDY}")]
    SealingKeyGarbage {
        /// The file.
        path: PathBuf,
    },
    /// The sealer has another key than the one that was used.
    #[error("{path} was wrapped with another sealing key than the one in sealing.key. {REMEDY}")]
    OtherSealingKey {
        /// The wrapped data keys.
        path: PathBuf,
    },
    /// The wrapped data keys are damaged.
    #[error("{path} is damaged: {problem}. {REMEDY}")]
    DataKeyDamaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        problem: String,
    },
    /// There are sealed files, and no data key.
    #[error("{path} is missing, and the files in {store} are sealed with it. {REMEDY}")]
    DataKeyMissing {
        /// Where it should be.
        path: PathBuf,
        /// What it opens.
        store: PathBuf,
    },
    /// Another kind of sealer, or a newer version of this program, has wrapped the data keys.
    #[error(
        "{path} has format {format} of the sealer {sealer}, and this agent knows format {known} of the sealer {own}: \
         run the version of the agent that wrote it"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// Its sealer.
        sealer: String,
        /// The format that is known.
        known: u32,
        /// The sealer that is known.
        own: &'static str,
    },
    /// The system gives no random numbers, or the cipher refuses.
    #[error("cannot seal: the system's random numbers or the cipher failed")]
    Cipher,
}

/// Why a data key cannot be unwrapped. Which file that concerns is the caller's to say.
#[derive(Debug, thiserror::Error)]
pub enum UnwrapError {
    /// The sealer has no key.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// It was wrapped with a key that the sealer does not have.
    #[error("wrapped with another sealing key")]
    OtherKey,
    /// It is not what was wrapped.
    #[error("not what the sealer wrapped")]
    Damaged,
}

/// Wraps data keys with a key of its own: in a file now, in a TPM later.
///
/// Its key is replaced in two steps, so that at each moment the wrapped keys on disk can be unwrapped:
/// [`Sealer::renew`], then whoever holds the wrapped keys writes them anew, then [`Sealer::retire`]. Each step can be
/// done again.
pub trait Sealer: Send + Sync {
    /// Which kind it is; stands beside what it wrapped.
    fn name(&self) -> &'static str;

    /// Makes the key, unless there is one. Called only when nothing is wrapped yet.
    ///
    /// # Errors
    /// When it cannot be made.
    fn ensure(&mut self) -> Result<(), SealingError>;

    /// Wraps a data key with the newest key.
    ///
    /// # Errors
    /// When the sealer has no key.
    fn wrap(&self, key: &DataKey) -> Result<Vec<u8>, SealingError>;

    /// The data key of this version, wrapped before.
    ///
    /// # Errors
    /// [`UnwrapError`].
    fn unwrap(&self, version: u32, wrapped: &[u8]) -> Result<DataKey, UnwrapError>;

    /// Makes the key that [`Sealer::wrap`] uses from now on; the one so far still unwraps. A key that was made before
    /// and not brought to its place is that key.
    ///
    /// # Errors
    /// When it cannot be made: nothing has changed then.
    fn renew(&mut self) -> Result<(), SealingError>;

    /// Whether there are two keys.
    fn is_renewing(&self) -> bool;

    /// Nothing is wrapped with the older key any more: it goes.
    ///
    /// # Errors
    /// When it cannot be removed; it stays usable.
    fn retire(&mut self) -> Result<(), SealingError>;
}

#[cfg(test)]
#[path = "sealing/tests/sealing.rs"]
mod tests;
