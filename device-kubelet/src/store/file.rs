//! Files that are old or new, never in between, and their owner's alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::StoreError;

/// Replaces a file: written beside it, flushed, renamed, directory flushed.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = write_flushed(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // A full disk gets back what was taken of it.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn write_flushed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The content, or `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A sector that cannot be read is as good as a file that says nothing.
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(StoreError::Read { path: path.to_owned(), source })
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot be read");
            Ok(Some(Vec::new()))
        }
    }
}

/// Paths in a directory; what an interrupted write left there is removed.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |source| StoreError::Read { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            let _ = fs::remove_file(&path);
        } else {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Moves a broken file out of the way, for people to look at.
pub(super) fn set_aside(dir: &Path, path: &Path) {
    let broken = dir.join("broken");
    let target = broken.join(path.file_name().unwrap_or_default());
    let moved = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&broken)
        .and_then(|()| fs::rename(path, &target));
    match moved {
        Ok(()) => tracing::error!(
            path = %path.display(), kept = %target.display(),
            "checksum does not match (torn write or failing storage); set aside, and treated as absent"
        ),
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "checksum does not match; cannot set it aside")
        }
    }
}
