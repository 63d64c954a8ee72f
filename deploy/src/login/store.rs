//! The file of a session: `login.json` in the user's configuration folder, for the user alone.
//!
//! It is replaced in one step, so that a program that is killed leaves the old or the new one. A refresh
//! token is good once: who renews holds the lock, and those who wait for it find what the first one got.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use directories::ProjectDirs;
use harmony_login::PrivateFile;

use super::{LoginError, Session};

/// Where the session is kept.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// The user's: `$XDG_CONFIG_HOME/harmony-fleet` on Linux.
    pub fn of_user() -> Result<Self, LoginError> {
        let folders = ProjectDirs::from("", "", "harmony-fleet").ok_or(LoginError::Folder)?;
        Ok(Self::at(folders.config_dir()))
    }

    /// In a folder of the caller's choice; it is made when something is kept.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.folder.join("login.json")
    }

    /// What is kept, if anything is.
    pub fn load(&self) -> Result<Option<Session>, LoginError> {
        Ok(self.private().load()?)
    }

    /// Keeps a session in the place of the one before; a credential that was made of it goes on with it.
    pub fn save(&self, session: &Session) -> Result<(), LoginError> {
        self.private().save(session)?;
        self.renew_credential(session)
    }

    /// Forgets the session; whether there was one.
    pub fn remove(&self) -> Result<bool, LoginError> {
        self.remove_credential()?;
        Ok(self.private().remove()?)
    }

    /// Waits until no other program renews; the lock ends with the value.
    pub(super) async fn lock(&self) -> Result<File, LoginError> {
        Ok(self.private().lock().await?)
    }

    fn private(&self) -> PrivateFile {
        PrivateFile::at(self.file())
    }
}
