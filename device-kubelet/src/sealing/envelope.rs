//! The form of a sealed file.
//!
//! ```text
//! "HFS1" | version of the data key, u32 BE | nonce, 12 | AES-256-GCM ciphertext | tag, 16
//! ```
//!
//! What precedes the nonce and the file's logical name are authenticated with the content: a sealed file that is put
//! in another's place is as good as damaged. An older file of the same name is not told from a newer one.
//!
//! The nonce is random, 96 bits, fresh for each write. A device that wrote once a second for ten years would have
//! sealed fewer than 2^29 files with one key; two nonces are then equal with a probability below 2^-39. The limit
//! that NIST SP 800-38D sets for random nonces is 2^32 files.

use ring::aead::{Aad, Nonce};

use super::{
    SealingError,
    data_key::{DataKey, fill},
};

const MAGIC: &[u8; 4] = b"HFS1";
const NONCE: usize = 12;
const TAG: usize = 16;
const HEAD: usize = MAGIC.len() + size_of::<u32>();

/// Whether these bytes are of a sealed file. The NUL (versions stay below 2^24) is in no file that was written
/// before there was sealing: these are JSON and base64.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.strip_prefix(MAGIC).is_some_and(|rest| rest.first() == Some(&0))
}

/// Which data key opens it.
pub(super) fn key_version(bytes: &[u8]) -> Option<u32> {
    let version = bytes.strip_prefix(MAGIC)?.first_chunk()?;
    Some(u32::from_be_bytes(*version))
}

/// Seals the content of the file with this name.
pub(super) fn seal(key: &DataKey, name: &str, content: &[u8]) -> Result<Vec<u8>, SealingError> {
    let mut nonce = [0; NONCE];
    fill(&mut nonce)?;
    let mut sealed = Vec::with_capacity(HEAD + NONCE + content.len() + TAG);
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(&key.version().to_be_bytes());
    let bound = bound(&sealed, name);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(content);
    let (_, body) = sealed.split_at_mut(HEAD + NONCE);
    let tag = key
        .cipher()?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), body)
        .map_err(|_| SealingError::Cipher)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

/// The content; `None` if these bytes are not what was sealed under this name with this key.
pub(super) fn open(key: &DataKey, name: &str, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let bound = bound(head, name);
    let nonce = Nonce::assume_unique_for_key(*rest.first_chunk()?);
    // In place: a device has little memory, and bundles may be large.
    let content = key.cipher().ok()?.open_within(nonce, Aad::from(bound), &mut bytes, HEAD + NONCE..).ok()?;
    let length = content.len();
    bytes.truncate(length);
    Some(bytes)
}

fn bound(head: &[u8], name: &str) -> Vec<u8> {
    [head, name.as_bytes()].concat()
}
