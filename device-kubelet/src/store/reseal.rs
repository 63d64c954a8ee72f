//! Keys of the store: the first ones, new ones, and the files that still have older ones.
//!
//! A file is rewritten as every file is: the old or the new one is there. The older keys go when all files are
//! rewritten, so a power cut at any moment leaves a store that opens, and the next start goes on.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{Disk, State, Store, StoreError, file, lock, name};
use crate::{
    keys,
    sealing::{Keyring, Opened, Sealer, SealingError, is_sealed},
};

/// The store's keys; made if nothing was sealed yet.
pub(super) fn keyring(data_dir: &Path, dir: &Path, sealer: Box<dyn Sealer>) -> Result<Keyring, StoreError> {
    let folder = keys::directory(data_dir).map_err(SealingError::from)?;
    if Keyring::exists(&folder)? {
        return Ok(Keyring::load(&folder, sealer)?);
    }
    let mut plain = false;
    for path in paths(dir)? {
        if begins_sealed(&path)? {
            let path = Keyring::file(&folder);
            return Err(SealingError::DataKeyMissing { path, store: dir.to_owned() }.into());
        }
        plain = true;
    }
    if plain {
        tracing::info!("stored files of an earlier version are being sealed");
    }
    Ok(Keyring::create(&folder, sealer, plain || dir.join("broken").exists())?)
}

impl Store {
    /// Makes new keys. What was written before is still sealed with the older ones: see [`Store::reseal`].
    ///
    /// # Errors
    /// When they cannot be written: the keys so far stay in use.
    pub fn renew_keys(&self) -> Result<(), StoreError> {
        let Some(Disk { state, .. }) = &self.disk else { return Ok(()) };
        Ok(lock(state).keyring.renew()?)
    }

    /// Seals everything with the newest key, and forgets the older ones. Writes nothing if there are none.
    ///
    /// # Errors
    /// When a file cannot be written: the older keys stay, and it can be done again.
    pub fn reseal(&self) -> Result<(), StoreError> {
        let Some(Disk { dir, state }) = &self.disk else { return Ok(()) };
        let mut state = lock(state);
        let State { keyring, .. } = &mut *state;
        if !keyring.has_old() {
            return Ok(());
        }
        for path in paths(dir)? {
            let Some(bytes) = file::read(&path)? else { continue };
            // What opens with no key is left for the next start to find, and set aside.
            if let Some(Opened::Old(content)) = keyring.open(&name(dir, &path), bytes) {
                self.write(keyring, dir, &path, &content)?;
            }
        }
        if keyring.has_plain() {
            // It may hold secrets as they are.
            remove_broken(dir)?;
        }
        Ok(keyring.drop_old()?)
    }

    /// Removes what was set aside.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_broken(&self) -> Result<(), StoreError> {
        self.disk.as_ref().map_or(Ok(()), |disk| remove_broken(&disk.dir))
    }
}

/// All files; what an interrupted write left is removed.
fn paths(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = file::list(&dir.join("bundles"))?;
    paths.extend(file::list(&dir.join("records"))?);
    let _ = fs::remove_file(dir.join("index.new"));
    let index = dir.join("index");
    if index.exists() {
        paths.push(index);
    }
    Ok(paths)
}

fn begins_sealed(path: &Path) -> Result<bool, StoreError> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(8).read_to_end(&mut head));
    match read {
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(StoreError::Read { path: path.to_owned(), source })
        }
        _ => Ok(is_sealed(&head)),
    }
}

fn remove_broken(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("broken");
    match fs::remove_dir_all(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Write { path, source }),
        Ok(()) => {
            tracing::warn!(path = %path.display(), "damaged files that were set aside were removed");
            Ok(())
        }
        Err(_) => Ok(()),
    }
}
