//! The file of a session: `login.json` in the user's configuration folder, for the user alone.
//!
//! It is replaced in one step, so that a program that is killed leaves the old or the new one. A refresh
//! token is good once: who renews holds the lock, and those who wait for it find what the first one got.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use directories::ProjectDirs;
use zeroize::Zeroizing;

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
        let file = self.file();
        let failed = |source| LoginError::File { file: file.clone(), source };
        let mut opened = match File::open(&file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if opened.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            return Err(LoginError::Exposed { file });
        }
        let mut text = Zeroizing::new(String::new());
        std::io::Read::read_to_string(&mut opened, &mut text).map_err(failed)?;
        // What serde says could repeat a token.
        serde_json::from_str(&text).map(Some).map_err(|_| LoginError::Damaged { file })
    }

    /// Keeps a session in the place of the one before; a credential that was made of it goes on with it.
    pub fn save(&self, session: &Session) -> Result<(), LoginError> {
        let file = self.file();
        let failed = |source| LoginError::File { file: file.clone(), source };
        self.make_folder()?;
        let text = serde_json::to_vec_pretty(session).map(Zeroizing::new);
        let text = text.map_err(|error| failed(error.into()))?;
        replace(&file, &text)?;
        self.renew_credential(session)
    }

    /// Forgets the session; whether there was one.
    pub fn remove(&self) -> Result<bool, LoginError> {
        self.remove_credential()?;
        match fs::remove_file(self.file()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(LoginError::File { file: self.file(), source }),
        }
    }

    /// Waits until no other program renews; the lock ends with the value.
    pub(super) async fn lock(&self) -> Result<File, LoginError> {
        self.make_folder()?;
        let path = self.folder.join("login.lock");
        let file = path.clone();
        let locking = tokio::task::spawn_blocking(move || {
            let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            lock.lock()?;
            Ok(lock)
        });
        let locked = locking.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        locked.map_err(|source| LoginError::File { file, source })
    }

    fn make_folder(&self) -> Result<(), LoginError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|source| LoginError::File { file: self.folder.clone(), source })
    }
}

/// Writes a private file as a whole or not at all.
pub(super) fn replace(file: &Path, content: &[u8]) -> Result<(), LoginError> {
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
        LoginError::File { file: file.to_owned(), source }
    })
}
