//! The file of a login: for the user alone, replaced in one step, renewed by one program at a time.
//!
//! A program that is killed leaves the old or the new one. A refresh token is good once: who renews holds the lock, and
//! those who wait for it find what the first one got.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::PersonError;

/// Where a login is kept.
#[derive(Debug, Clone)]
pub struct PrivateFile {
    path: PathBuf,
}

impl PrivateFile {
    /// This file, whose name ends in `.json`; its folder is made when something is kept.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept, if anything is.
    ///
    /// # Errors
    /// [`PersonError::Exposed`], [`PersonError::Damaged`], [`PersonError::File`].
    pub fn load<T: DeserializeOwned>(&self) -> Result<Option<T>, PersonError> {
        let failed = |source| failed(&self.path, source);
        let mut opened = match File::open(&self.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if opened.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(PersonError::Exposed { file: self.path.clone() });
        }
        let mut text = Zeroizing::new(String::new());
        opened.read_to_string(&mut text).map_err(failed)?;
        // What serde says could repeat a token.
        serde_json::from_str(&text).map(Some).map_err(|_| PersonError::Damaged { file: self.path.clone() })
    }

    /// Keeps this in the place of what was there.
    ///
    /// # Errors
    /// [`PersonError::File`].
    pub fn save(&self, content: &impl Serialize) -> Result<(), PersonError> {
        self.make_folder()?;
        let text = serde_json::to_vec_pretty(content).map(Zeroizing::new);
        replace(&self.path, &text.map_err(|error| failed(&self.path, error.into()))?)
    }

    /// Removes it; whether there was one.
    ///
    /// # Errors
    /// [`PersonError::File`].
    pub fn remove(&self) -> Result<bool, PersonError> {
        match fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&self.path, error)),
        }
    }

    /// Waits until no other program renews; the lock ends with the value.
    ///
    /// # Errors
    /// [`PersonError::File`].
    pub async fn lock(&self) -> Result<File, PersonError> {
        self.make_folder()?;
        let path = self.path.with_extension("lock");
        let file = path.clone();
        let locking = tokio::task::spawn_blocking(move || {
            let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            lock.lock()?;
            Ok(lock)
        });
        let locked = locking.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        locked.map_err(|source| failed(&file, source))
    }

    fn make_folder(&self) -> Result<(), PersonError> {
        let Some(folder) = self.path.parent() else { return Ok(()) };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| failed(folder, source))
    }
}

fn failed(file: &Path, source: io::Error) -> PersonError {
    PersonError::File { file: file.to_owned(), source }
}

/// Writes a file of mode 0600 as a whole or not at all.
///
/// # Errors
/// [`PersonError::File`].
pub fn replace(file: &Path, content: &[u8]) -> Result<(), PersonError> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = (|| {
        let _ = fs::remove_file(&partial);
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        new.write_all(content)?;
        new.sync_all()?;
        fs::rename(&partial, file)
    })();
    written.map_err(|source| {
        let _ = fs::remove_file(&partial);
        failed(file, source)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_is_for_the_user_alone_and_replaced_in_one_step() {
        let folder = tempfile::tempdir().unwrap();
        let file = PrivateFile::at(folder.path().join("deep/login.json"));
        assert_eq!(file.load::<Vec<String>>().unwrap(), None);
        file.save(&["first"]).unwrap();
        file.save(&["second"]).unwrap();
        assert_eq!(file.load::<Vec<String>>().unwrap(), Some(vec!["second".to_owned()]));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.path()), mode(file.path().parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(file.load::<Vec<String>>(), Err(PersonError::Exposed { .. })));
        assert!(file.remove().unwrap());
        assert!(!file.remove().unwrap());
    }

    #[test]
    fn what_is_damaged_is_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let file = PrivateFile::at(folder.path().join("login.json"));
        replace(file.path(), b"{\"token\": \"canary\"").unwrap();
        let damaged = file.load::<Vec<String>>().unwrap_err();
        assert!(matches!(damaged, PersonError::Damaged { .. }));
        assert!(!format!("{damaged} {damaged:?}").contains("canary"));
    }
}
