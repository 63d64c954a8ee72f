//! `subPath`: a part of a volume, never anything outside of it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

/// Why a part of a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// It would lead out of the volume.
    #[error("subPath {0:?} leads out of the volume")]
    Outside(String),
    /// It cannot be made or looked at.
    #[error("failed to prepare subPath {path:?}: {source}")]
    Io {
        /// The part.
        path: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// The real path of a part of a volume. A directory is made if there is nothing and the volume is writable.
///
/// What a container put there may be a link to anywhere; so the result is the path after all links, and it is
/// refused if that is not inside. (A container that swaps a directory for a link in the moment between this check
/// and the mount is not stopped by it.)
pub fn resolve(volume: &Path, sub_path: &str, writable: bool) -> Result<PathBuf, SubPathError> {
    let outside = || SubPathError::Outside(sub_path.to_owned());
    let failed = |source| SubPathError::Io { path: sub_path.to_owned(), source };
    let part = Path::new(sub_path);
    if !part.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let root = fs::canonicalize(volume).map_err(failed)?;
    let mut current = root.clone();
    for component in part.components() {
        let next = current.join(component);
        if next.symlink_metadata().is_err() && writable {
            fs::DirBuilder::new().mode(0o750).create(&next).map_err(failed)?;
            let mode = fs::metadata(&current).map_err(failed)?.permissions().mode() & 0o7777;
            fs::set_permissions(&next, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        current = fs::canonicalize(&next).map_err(failed)?;
        if !current.starts_with(&root) {
            return Err(outside());
        }
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_are_made_and_links_to_the_outside_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        assert!(resolve(&volume, "a/b", true).unwrap().ends_with("volume/a/b"));
        assert!(resolve(&volume, "none", false).is_err());
        std::os::unix::fs::symlink("/etc", volume.join("link")).unwrap();
        for path in ["link", "link/passwd", "../x", "/etc", "a/../../x"] {
            assert!(matches!(resolve(&volume, path, true), Err(SubPathError::Outside(_))), "{path}");
        }
    }
}
