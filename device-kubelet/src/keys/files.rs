//! Files and folders that only their owner may use.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::KeysError;

/// A folder of mode 0700; one that exists is left as it is.
pub fn private_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Refuses what others may use.
pub fn check_mode(path: &Path, expected: u32) -> Result<(), KeysError> {
    let metadata =
        fs::symlink_metadata(path).map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Permissions { path: path.to_owned(), mode, expected });
    }
    Ok(())
}

/// A private file's text without surrounding white space; `None` if it does not exist.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<String>>, KeysError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        _ => check_mode(path, 0o600)?,
    }
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// Makes a private file as a whole, unless there is one: that is left as it is.
pub fn make_private(path: &Path, content: &[u8]) -> Result<(), KeysError> {
    let temporary = temporary(path);
    let write = |source| KeysError::Write { path: path.to_owned(), source };
    write_private(&temporary, content).map_err(write)?;
    // A link fails where a rename would replace.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(write)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(write(error)),
        _ => sync_directory(path).map_err(write),
    }
}

/// Replaces a private file as a whole.
pub fn replace_private(path: &Path, content: &[u8]) -> Result<(), KeysError> {
    let temporary = temporary(path);
    let written = write_private(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // A full disk gets back what was taken of it.
        let _ = fs::remove_file(&temporary);
    }
    written
        .and_then(|()| sync_directory(path))
        .map_err(|source| KeysError::Write { path: path.to_owned(), source })
}

/// A name beside `path` that nobody uses.
pub fn temporary(path: &Path) -> PathBuf {
    path.with_extension(format!("tmp-{:016x}", rand::random::<u64>()))
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a change of names in the folder of `path` survive a power cut.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
