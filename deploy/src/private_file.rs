//! Files that only their owner reads: the root key, intents.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use zeroize::Zeroizing;

use crate::error::FleetError;

/// Writes a new file of mode 0600; one that exists is left alone.
///
/// # Errors
/// [`FleetError::Refused`] when the file exists; when it cannot be written.
pub fn create(path: &Path, content: &str) -> Result<(), FleetError> {
    let failed = |source| FleetError::File { action: "write", path: path.to_owned(), source };
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(FleetError::refused(
                format!("{} exists, and is not overwritten", path.display()),
                "name another file, or remove this one",
            ));
        }
        other => other.map_err(failed)?,
    };
    let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key is worse than none.
        let _ = fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(())
}

/// Keeps a file of mode 0600 as it should be: written anew when its content is another one, removed for `None`.
/// Makes the folder around it.
///
/// # Errors
/// When it cannot be written or removed.
pub fn keep(path: &Path, content: Option<&str>) -> Result<(), FleetError> {
    let failed = |source| FleetError::File { action: "write", path: path.to_owned(), source };
    let Some(content) = content else {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
    };
    let private = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o777 == 0o600);
    if private && read(path).is_ok_and(|present| present.as_str() == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // Whoever reads it meanwhile has the old one or the new one, and never half of it.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let _ = fs::remove_file(fresh);
    create(fresh, content)?;
    fs::rename(fresh, path).map_err(failed)
}

/// Reads a file; the memory is wiped afterwards.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Zeroizing<String>, FleetError> {
    fs::read_to_string(path).map(Zeroizing::new).map_err(|source| FleetError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_kept_follows_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nats").join("callout.nk");
        keep(&path, None).unwrap();
        for content in ["first", "first", "second", "second"] {
            keep(&path, Some(content)).unwrap();
            assert_eq!(read(&path).unwrap().as_str(), content);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        keep(&path, None).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_private_file_is_its_owners_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.nk");
        create(&path, "first").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = create(&path, "second").unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert_eq!(read(&path).unwrap().as_str(), "first");
    }
}
