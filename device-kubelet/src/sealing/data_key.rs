//! The key that seals files.

use std::fmt;

use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::SealingError;

/// Bytes of a key.
pub const KEY: usize = 32;

/// A random key for AES-256-GCM, and its number. Wiped from memory when it is dropped.
#[derive(Clone)]
pub struct DataKey {
    version: u32,
    bytes: Zeroizing<[u8; KEY]>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("version", &self.version).finish_non_exhaustive()
    }
}

impl DataKey {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate(version: u32) -> Result<Self, SealingError> {
        let mut bytes = Zeroizing::new([0; KEY]);
        fill(bytes.as_mut_slice())?;
        Ok(Self { version, bytes })
    }

    /// One that was made before; `None` if that is not a key's length.
    pub fn from_slice(version: u32, bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; KEY]);
        if bytes.len() != KEY {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self { version, bytes: key })
    }

    /// Its number; the highest is the newest.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key itself, for a [`super::Sealer`].
    pub fn bytes(&self) -> &[u8; KEY] {
        &self.bytes
    }

    /// Ready for use. Made for each use: the expansion takes less than a microsecond, and no copy stays in memory.
    pub(super) fn cipher(&self) -> Result<LessSafeKey, SealingError> {
        cipher(&self.bytes)
    }
}

/// A cipher with this key.
pub(super) fn cipher(key: &[u8; KEY]) -> Result<LessSafeKey, SealingError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| SealingError::Cipher)
}

/// Random bytes of the system.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), SealingError> {
    SystemRandom::new().fill(bytes).map_err(|_| SealingError::Cipher)
}
