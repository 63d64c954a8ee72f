//! A sealer whose key is a file.
//!
//! It keeps backups and copies of the store alone from being read. It protects nothing from who holds the card: the
//! key lies on it, too.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::aead::{Aad, Nonce};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    DataKey, Sealer, SealingError, UnwrapError,
    data_key::{KEY, cipher, fill},
};
use crate::keys::{KeysError, make_private, read_private, sync_directory};

const FILE: &str = "sealing.key";
const NEXT: &str = "sealing.next";
/// First bytes of the hash of a key, to tell another key from damage.
const ID: usize = 8;
const NONCE: usize = 12;

/// Its key, and the one that takes its place.
pub struct KeyFileSealer {
    directory: PathBuf,
    current: Option<SealingKey>,
    next: Option<SealingKey>,
}

impl fmt::Debug for KeyFileSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFileSealer").field("directory", &self.directory).finish_non_exhaustive()
    }
}

struct SealingKey(Zeroizing<[u8; KEY]>);

impl KeyFileSealer {
    /// The key in this folder, if there is one.
    ///
    /// # Errors
    /// When others may read it, or it is no key.
    pub fn open(directory: &Path) -> Result<Self, SealingError> {
        let (current, next) = (read(&directory.join(FILE))?, read(&directory.join(NEXT))?);
        Ok(Self { directory: directory.to_owned(), current, next })
    }

    fn missing(&self) -> SealingError {
        SealingError::SealingKeyMissing { path: self.directory.join(FILE) }
    }

    fn make(&self, name: &str) -> Result<SealingKey, SealingError> {
        let path = self.directory.join(name);
        let mut key = Zeroizing::new([0; KEY]);
        fill(key.as_mut_slice())?;
        let text = Zeroizing::new(format!("{}\n", Zeroizing::new(STANDARD.encode(*key)).as_str()));
        make_private(&path, text.as_bytes())?;
        // What is on the disk counts.
        read(&path)?.ok_or(SealingError::SealingKeyMissing { path })
    }
}

impl Sealer for KeyFileSealer {
    fn name(&self) -> &'static str {
        "key-file"
    }

    fn ensure(&mut self) -> Result<(), SealingError> {
        if self.current.is_none() {
            self.current = Some(self.make(FILE)?);
        }
        Ok(())
    }

    fn wrap(&self, key: &DataKey) -> Result<Vec<u8>, SealingError> {
        let own = self.next.as_ref().or(self.current.as_ref()).ok_or_else(|| self.missing())?;
        let mut nonce = [0; NONCE];
        fill(&mut nonce)?;
        let mut body = Zeroizing::new(key.bytes().to_vec());
        let tag = cipher(&own.0)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound(key.version())),
                &mut body,
            )
            .map_err(|_| SealingError::Cipher)?;
        Ok([&own.id()[..], &nonce, &body, tag.as_ref()].concat())
    }

    fn unwrap(&self, version: u32, wrapped: &[u8]) -> Result<DataKey, UnwrapError> {
        if self.current.is_none() && self.next.is_none() {
            return Err(self.missing().into());
        }
        let (id, rest) = wrapped.split_first_chunk::<ID>().ok_or(UnwrapError::Damaged)?;
        let (nonce, body) = rest.split_first_chunk::<NONCE>().ok_or(UnwrapError::Damaged)?;
        let own = [&self.next, &self.current].into_iter().flatten().find(|own| own.id() == *id);
        let own = own.ok_or(UnwrapError::OtherKey)?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = cipher(&own.0)?
            .open_in_place(nonce, Aad::from(bound(version)), &mut body)
            .map_err(|_| UnwrapError::Damaged)?;
        DataKey::from_slice(version, opened).ok_or(UnwrapError::Damaged)
    }

    fn renew(&mut self) -> Result<(), SealingError> {
        if self.next.is_none() {
            self.next = Some(self.make(NEXT)?);
        }
        Ok(())
    }

    fn is_renewing(&self) -> bool {
        self.next.is_some()
    }

    fn retire(&mut self) -> Result<(), SealingError> {
        let (from, to) = (self.directory.join(NEXT), self.directory.join(FILE));
        if self.next.is_some() {
            fs::rename(from, &to)
                .and_then(|()| sync_directory(&to))
                .map_err(|source| KeysError::Write { path: to, source })?;
            self.current = self.next.take();
        }
        Ok(())
    }
}

impl SealingKey {
    fn id(&self) -> [u8; ID] {
        let hash = Sha256::new().chain_update(b"harmony-fleet sealing key id v1\n").chain_update(*self.0);
        let mut id = [0; ID];
        id.copy_from_slice(&hash.finalize()[..ID]);
        id
    }
}

/// A wrapped key is good for its own version only.
fn bound(version: u32) -> String {
    format!("harmony-fleet data key v1\n{version}")
}

fn read(path: &Path) -> Result<Option<SealingKey>, SealingError> {
    let Some(text) = read_private(path)? else { return Ok(None) };
    let garbage = || SealingError::SealingKeyGarbage { path: path.to_owned() };
    let bytes = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| garbage())?);
    if bytes.len() != KEY {
        return Err(garbage());
    }
    let mut key = Zeroizing::new([0; KEY]);
    key.copy_from_slice(&bytes);
    Ok(Some(SealingKey(key)))
}
