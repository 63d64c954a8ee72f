//! A file whose newest content is witnessed beside the keys: what was changed, cut or put back is refused.
//!
//! ```text
//! <anywhere>/config.lkg.json      {"format":1,"generation":17,"mac":"v1.…","body":{…}}
//! <keys>/<kind>-<id>.json         {"format":1,"file":"…","last":17,"accepted":{17, digest},"pending":null}
//! ```
//!
//! An older file has a good tag, too: only what is kept outside of it tells that it is older. Two files cannot be
//! written at once, so a write has three steps, and after a crash between any two the file is accepted as it stands:
//!
//! ```text
//!            witness           file          accepted
//!            17                17            17
//! 1. announce 17, pending 18   17            17, or 18
//! 2. replace  17, pending 18   18            17, or 18
//! 3. settle   18               18            18
//! ```
//!
//! What a crash left pending is settled at the next reading, for the file that is there: from then on the other one
//! is refused. Somebody who swaps files between a crash and that reading gains no more than by the crash itself.
//! Numbers are never given twice. The witness needs no tag: who can write beside the keys can read them.
//!
//! It owns the frame and the witness; the body is its caller's. It never replaces a file that it refuses.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::{
    kept::{self, KeptError, Lock, Stamp},
    keyring::{Keyring, KeyringError, Mac},
};

const FORMAT: u32 = 1;
/// A witness takes about 400 bytes and a path.
const WITNESS_LIMIT: u64 = 64 << 10;

/// What a person can do about a file that is refused.
const REMEDY: &str = "It is not used. If nobody is known to have restored or edited it, take it for an attack, and keep \
     it to be looked at";

/// Why a witnessed file is refused, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// A file cannot be used.
    #[error(transparent)]
    Kept(#[from] KeptError),
    /// The keys cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// It is cut, or was never such a file.
    #[error("{} is cut or damaged: {why}. {REMEDY}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way; never its content.
        why: String,
    },
    /// Its tag does not hold.
    #[error("{} was changed outside of this library, or is of another machine. {REMEDY}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// It is one of earlier.
    #[error(
        "{} is an older one that was put back: its generation is {found}, and {last} was written since. {REMEDY}",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its generation.
        found: u64,
        /// The last that was written.
        last: u64,
    },
    /// It is genuine, and nothing is known of it beside the keys.
    #[error(
        "{} has a good tag, but {} knows nothing of it: one of them was restored, moved or removed without the \
         other, so it cannot be told from an older one. {REMEDY}",
        path.display(), witness.display()
    )]
    Unwitnessed {
        /// The file.
        path: PathBuf,
        /// What is kept outside of it.
        witness: PathBuf,
    },
    /// A newer version of this library wrote it.
    #[error(
        "{} has format {found}, and this program knows format {FORMAT}: run the version that wrote it",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// What was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// There was never one, or it was set aside.
    New,
    /// One was written, and is gone.
    Gone,
    /// It is genuine and the newest.
    Body {
        /// Grows with each write.
        generation: u64,
        /// As it was written.
        body: Vec<u8>,
    },
}

/// Which content this is, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps(Option<Stamp>, Option<Stamp>);

/// Such a file.
#[derive(Debug)]
pub(crate) struct Witnessed {
    file: PathBuf,
    witness: PathBuf,
    lock: PathBuf,
    keyring: Keyring,
    kind: &'static str,
    limit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    generation: u64,
    /// SHA-256 of the whole file.
    digest: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Witness {
    format: u32,
    /// For people.
    file: String,
    /// The highest number that was given.
    last: u64,
    accepted: Option<Seen>,
    pending: Option<Seen>,
}

#[derive(Serialize, Deserialize)]
struct Frame<'a> {
    format: u32,
    generation: u64,
    mac: Mac,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Witnessed {
    /// `kind`: what the file is, in its witness' name and tag; `limit`: its largest size in bytes.
    pub(crate) fn new(
        file: &Path,
        keyring: Keyring,
        kind: &'static str,
        limit: u64,
    ) -> Result<Self, WitnessError> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| KeptError::Read { path: path.to_owned(), source })
        };
        let (file, keys) = (absolute(file)?, absolute(keyring.folder())?);
        // As it lies to the keys: the whole folder can be moved or restored elsewhere.
        let place = keys.parent().and_then(|beside| file.strip_prefix(beside).ok()).unwrap_or(&file);
        let id = Sha256::digest(place.as_os_str().as_encoded_bytes());
        let name = format!("{kind}-{}", HEXLOWER.encode(&id[..8]));
        let (witness, lock) = (keys.join(format!("{name}.json")), keys.join(format!("{name}.lock")));
        Ok(Self { file, witness, lock, keyring, kind, limit })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.file
    }

    /// Another content has other stamps.
    pub(crate) fn stamps(&self) -> Result<Stamps, WitnessError> {
        Ok(Stamps(kept::stamp(&self.file)?, kept::stamp(&self.witness)?))
    }

    /// The newest content, and its stamps.
    pub(crate) fn read(&self) -> Result<(Found, Stamps), WitnessError> {
        if self.read_witness()?.is_some_and(|witness| witness.pending.is_some()) {
            // Where nothing can be written, it stays pending.
            let _ = Lock::alone(&self.lock).map_err(WitnessError::from).and_then(|_lock| self.settle());
        }
        let _lock = Lock::shared(&self.lock)?;
        let stamps = self.stamps()?;
        Ok((self.judge()?.0, stamps))
    }

    /// Replaces the content by what `change` makes of it; leaves it where that is `None`. Nobody writes in between.
    pub(crate) fn update<E: From<WitnessError>>(
        &self,
        change: impl FnOnce(Found) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let _lock = Lock::alone(&self.lock).map_err(WitnessError::from)?;
        self.settle()?;
        let (found, witness) = self.judge()?;
        let Some(body) = change(found)? else { return Ok(()) };
        let (witness, bytes) = self.announce(witness, &body)?;
        self.replace(&bytes)?;
        self.write_witness(&Witness { accepted: witness.pending.clone(), pending: None, ..witness })?;
        Ok(())
    }

    /// Renames the file, whatever it is, to `<file>.refused`, and begins anew; gives the new name if there was one.
    pub(crate) fn set_aside(&self) -> Result<Option<PathBuf>, WitnessError> {
        let _lock = Lock::alone(&self.lock)?;
        let mut name = self.file.clone().into_os_string();
        name.push(".refused");
        let aside = PathBuf::from(name);
        let moved = match fs::rename(&self.file, &aside) {
            Ok(()) => Some(aside),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(KeptError::Write { path: aside, source }.into()),
        };
        // A witness that cannot be read is replaced: what it knew is gone, and so are the files that it accepted.
        let last = self.read_witness().ok().flatten().map_or(0, |witness| witness.last);
        self.write_witness(&Witness { last, ..self.no_witness() })?;
        Ok(moved)
    }

    /// Step 1: from here on the new content is acceptable, too.
    fn announce(&self, mut witness: Witness, body: &[u8]) -> Result<(Witness, Vec<u8>), WitnessError> {
        let generation = witness.last.saturating_add(1);
        let bytes = self.frame(generation, body)?;
        if bytes.len() as u64 > self.limit {
            let (path, size) = (self.file.clone(), bytes.len() as u64);
            return Err(KeptError::TooLarge { path, size, limit: self.limit }.into());
        }
        witness.last = generation;
        witness.pending = Some(Seen { generation, digest: digest(&bytes) });
        self.write_witness(&witness)?;
        Ok((witness, bytes))
    }

    /// Step 2.
    fn replace(&self, bytes: &[u8]) -> Result<(), WitnessError> {
        if let Some(folder) = self.file.parent().filter(|folder| !folder.is_dir()) {
            kept::folder(folder)?;
        }
        Ok(kept::replace(&self.file, bytes)?)
    }

    /// Step 3, also after a crash. Under the lock.
    fn settle(&self) -> Result<(), WitnessError> {
        let Some(mut witness) = self.read_witness()? else { return Ok(()) };
        let Some(pending) = witness.pending.take() else { return Ok(()) };
        if self.bytes()?.is_some_and(|bytes| digest(&bytes) == pending.digest) {
            witness.accepted = Some(pending);
        }
        self.write_witness(&witness)
    }

    /// Whether the file may be used. Under the lock.
    fn judge(&self) -> Result<(Found, Witness), WitnessError> {
        let witness = self.read_witness()?;
        let Some(bytes) = self.bytes()? else {
            let witness = witness.unwrap_or_else(|| self.no_witness());
            let found = if witness.accepted.is_some() { Found::Gone } else { Found::New };
            return Ok((found, witness));
        };
        let (generation, body) = self.open(&bytes)?;
        let unwitnessed =
            || WitnessError::Unwitnessed { path: self.file.clone(), witness: self.witness.clone() };
        let witness = witness.ok_or_else(unwitnessed)?;
        let digest = digest(&bytes);
        let known = |seen: &&Seen| seen.generation == generation && seen.digest == digest;
        if [&witness.accepted, &witness.pending].into_iter().flatten().any(|seen| known(&seen)) {
            return Ok((Found::Body { generation, body: body.to_vec() }, witness));
        }
        let newest = witness.accepted.as_ref().map(|seen| seen.generation);
        Err(match newest {
            // The same number with other bytes: its tag holds, so what differs is not under it.
            Some(newest) if newest == generation => WitnessError::Changed { path: self.file.clone() },
            _ if generation <= witness.last => {
                WitnessError::Older { path: self.file.clone(), found: generation, last: witness.last }
            }
            _ => unwitnessed(),
        })
    }

    fn open<'a>(&self, bytes: &'a [u8]) -> Result<(u64, &'a [u8]), WitnessError> {
        let damaged = |why: serde_json::Error| WitnessError::Damaged {
            path: self.file.clone(),
            // Where it broke off, never what stands there.
            why: format!("no JSON of this kind, at line {} column {}", why.line(), why.column()),
        };
        // Of another format, all else may be different.
        let Format { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format != FORMAT {
            return Err(WitnessError::Foreign { path: self.file.clone(), found: format });
        }
        let frame: Frame<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
        let body = frame.body.get().as_bytes();
        match self.keyring.verify(&self.bound(frame.generation, body), &frame.mac) {
            Ok(()) => Ok((frame.generation, body)),
            Err(KeyringError::WrongMac) => Err(WitnessError::Changed { path: self.file.clone() }),
            Err(error) => Err(error.into()),
        }
    }

    fn frame(&self, generation: u64, body: &[u8]) -> Result<Vec<u8>, WitnessError> {
        let failed = |error: serde_json::Error| WitnessError::Damaged {
            path: self.file.clone(),
            why: format!("it cannot be written ({:?})", error.classify()),
        };
        let body: &RawValue = serde_json::from_slice(body).map_err(failed)?;
        let mac = self.keyring.mac(&self.bound(generation, body.get().as_bytes()));
        let mut bytes =
            serde_json::to_vec(&Frame { format: FORMAT, generation, mac, body }).map_err(failed)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn bound(&self, generation: u64, body: &[u8]) -> Vec<u8> {
        let kind = self.kind.as_bytes();
        [b"harmony-config witnessed file 1\0", kind, b"\0", &generation.to_be_bytes(), body].concat()
    }

    fn bytes(&self) -> Result<Option<kept::Content>, WitnessError> {
        Ok(kept::read(&self.file, self.limit)?.map(|(bytes, _)| bytes))
    }

    fn no_witness(&self) -> Witness {
        Witness { format: FORMAT, file: self.file.display().to_string(), ..Witness::default() }
    }

    fn read_witness(&self) -> Result<Option<Witness>, WitnessError> {
        let Some((bytes, _)) = kept::read(&self.witness, WITNESS_LIMIT)? else { return Ok(None) };
        let path = self.witness.clone();
        match serde_json::from_slice::<Witness>(&bytes) {
            Ok(witness) if witness.format == FORMAT => Ok(Some(witness)),
            Ok(witness) => Err(WitnessError::Foreign { path, found: witness.format }),
            Err(_) => Err(WitnessError::Damaged { path, why: "no JSON of this kind".to_owned() }),
        }
    }

    fn write_witness(&self, witness: &Witness) -> Result<(), WitnessError> {
        let bytes = serde_json::to_vec(witness).map_err(|error| WitnessError::Damaged {
            path: self.witness.clone(),
            why: format!("it cannot be written ({:?})", error.classify()),
        })?;
        Ok(kept::replace(&self.witness, &bytes)?)
    }
}

fn digest(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
#[path = "witness/tests.rs"]
mod tests;
