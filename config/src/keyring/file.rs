//! The keys' files: one for each purpose, with all its versions, and one that says that all were made.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{KEY, KeyVersion, KeyringError, Purpose};
use crate::kept::{self, Stamp};

/// Held while a file is written.
pub(super) const LOCK: &str = "lock";
/// Written last.
const COMPLETE: &str = "keyring.json";
const FORMAT: u32 = 1;
/// A version takes about 110 bytes.
const LIMIT: u64 = 1 << 20;

/// The keys of one purpose; never none.
pub(super) struct Versions {
    newest: (KeyVersion, Secret),
    older: BTreeMap<KeyVersion, Secret>,
}

struct Secret {
    made: String,
    bytes: Zeroizing<[u8; KEY]>,
}

impl Secret {
    fn generate() -> Result<Self, KeyringError> {
        let mut bytes = Zeroizing::new([0; KEY]);
        SystemRandom::new().fill(bytes.as_mut_slice()).map_err(|_| KeyringError::Cipher)?;
        Ok(Self { made: Timestamp::now().to_string(), bytes })
    }
}

impl Versions {
    pub(super) fn first() -> Result<Self, KeyringError> {
        Ok(Self { newest: (KeyVersion(1), Secret::generate()?), older: BTreeMap::new() })
    }

    pub(super) fn newest(&self) -> (KeyVersion, &[u8; KEY]) {
        (self.newest.0, &self.newest.1.bytes)
    }

    pub(super) fn get(&self, version: KeyVersion) -> Option<&[u8; KEY]> {
        match version == self.newest.0 {
            true => Some(&self.newest.1.bytes),
            false => self.older.get(&version).map(|secret| &*secret.bytes),
        }
    }

    /// Oldest first.
    pub(super) fn numbers(&self) -> impl Iterator<Item = KeyVersion> {
        self.older.keys().copied().chain([self.newest.0])
    }

    pub(super) fn add(&mut self) -> Result<KeyVersion, KeyringError> {
        let number = KeyVersion(self.newest.0.0.checked_add(1).ok_or(KeyringError::Cipher)?);
        let (version, secret) = std::mem::replace(&mut self.newest, (number, Secret::generate()?));
        self.older.insert(version, secret);
        Ok(number)
    }

    /// Whether it was one of the older ones.
    pub(super) fn remove(&mut self, version: KeyVersion) -> bool {
        self.older.remove(&version).is_some()
    }
}

#[derive(Deserialize)]
struct Complete {
    format: u32,
}

/// Keys are borrowed from the text that is wiped: serde makes no copy of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[expect(dead_code, reason = "checked before the rest is read, which may be of another format")]
    format: u32,
    purpose: Purpose,
    #[serde(borrow)]
    keys: Vec<WrittenKey<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey<'a> {
    version: KeyVersion,
    made: String,
    key: &'a str,
}

pub(super) fn path(folder: &Path, purpose: Purpose) -> PathBuf {
    folder.join(format!("{purpose}.json"))
}

/// Whether all keys were made: one that is missing then is lost.
pub(super) fn is_complete(folder: &Path) -> Result<bool, KeyringError> {
    let path = folder.join(COMPLETE);
    match kept::read(&path, LIMIT)? {
        None => Ok(false),
        Some((text, _)) => check_format(&path, &text).map(|()| true),
    }
}

/// Makes the keys that are not there yet, then says so. Under the lock.
pub(super) fn make_all(folder: &Path) -> Result<(), KeyringError> {
    for purpose in Purpose::ALL {
        // Of a start that was killed: nothing was made with it, but it is as good as another.
        if read(folder, purpose)?.is_none() {
            write(folder, purpose, &Versions::first()?)?;
        }
    }
    let text = format!("{{\"format\":{FORMAT},\"made\":\"{}\"}}\n", Timestamp::now());
    Ok(kept::replace(&folder.join(COMPLETE), text.as_bytes())?)
}

/// The keys of this purpose; `None` if there is no file.
pub(super) fn read(folder: &Path, purpose: Purpose) -> Result<Option<(Versions, Stamp)>, KeyringError> {
    let path = path(folder, purpose);
    let Some((text, stamp)) = kept::read(&path, LIMIT)? else { return Ok(None) };
    check_format(&path, &text)?;
    let damaged = |why| KeyringError::Damaged { path: path.clone(), why };
    let written: Written<'_> =
        serde_json::from_slice(&text).map_err(|_| damaged("it is not as it was written"))?;
    if written.purpose != purpose {
        return Err(damaged("it is the key of another purpose"));
    }
    let mut all = BTreeMap::new();
    for WrittenKey { version, made, key } in written.keys {
        let mut bytes = Zeroizing::new([0; KEY]);
        // Exactly as long as a key, so that the decoder writes into our buffer and nowhere else.
        if BASE64URL_NOPAD.decode_len(key.len()) != Ok(KEY)
            || BASE64URL_NOPAD.decode_mut(key.as_bytes(), bytes.as_mut_slice()).is_err()
        {
            return Err(damaged("a key is not 32 bytes in base64"));
        }
        if version.0 == 0 || all.insert(version, Secret { made, bytes }).is_some() {
            return Err(damaged("two keys have one number, or one has the number 0"));
        }
    }
    let newest = all.pop_last().ok_or_else(|| damaged("it has no key"))?;
    Ok(Some((Versions { newest, older: all }, stamp)))
}

/// Replaces the file. Under the lock.
pub(super) fn write(folder: &Path, purpose: Purpose, versions: &Versions) -> Result<(), KeyringError> {
    let older = versions.older.iter().map(|(version, secret)| (*version, secret));
    let all: Vec<_> = older.chain([(versions.newest.0, &versions.newest.1)]).collect();
    // Large enough from the start: a buffer that grows leaves copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(128 + all.len() * 192));
    text.push_str(&format!("{{\"format\":{FORMAT},\"purpose\":\"{purpose}\",\"keys\":["));
    for (at, (version, secret)) in all.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&format!(
            "\n{{\"version\":{},\"made\":\"{}\",\"key\":\"",
            version.0,
            plain(&secret.made)
        ));
        text.push_str(&Zeroizing::new(BASE64URL_NOPAD.encode(secret.bytes.as_slice())));
        text.push_str("\"}");
    }
    text.push_str("]}\n");
    Ok(kept::replace(&path(folder, purpose), text.as_bytes())?)
}

/// A time that somebody wrote by hand may have any characters.
fn plain(made: &str) -> String {
    made.chars().filter(|letter| letter.is_ascii_graphic() && !"\"\\".contains(*letter)).take(40).collect()
}

fn check_format(path: &Path, text: &[u8]) -> Result<(), KeyringError> {
    let Ok(Complete { format }) = serde_json::from_slice(text) else {
        return Err(KeyringError::Damaged { path: path.to_owned(), why: "it is not as it was written" });
    };
    match format {
        FORMAT => Ok(()),
        found => Err(KeyringError::Foreign { path: path.to_owned(), found, known: FORMAT }),
    }
}
