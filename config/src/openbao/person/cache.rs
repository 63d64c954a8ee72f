//! The file of a person's session: for the user alone, replaced in one step.
//!
//! A refresh token is good once: who renews holds the lock, and those who wait for it find what the first one got.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
};

use zeroize::Zeroizing;

use super::{ProviderError, Session};

/// Where it is.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("openbao-login.json")
    }

    pub(super) fn load(&self) -> Result<Option<Session>, ProviderError> {
        let file = self.file();
        let failed =
            |source: std::io::Error| ProviderError::Cache { file: file.clone(), why: source.to_string() };
        let mut opened = match File::open(&file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if opened.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
            let why =
                "others may read it; run `chmod 600` on it, or log in again after removing it".to_owned();
            return Err(ProviderError::Cache { file, why });
        }
        let mut text = Zeroizing::new(String::new());
        opened.read_to_string(&mut text).map_err(failed)?;
        // What serde says could repeat a token.
        let why = || "it is damaged; remove it and log in again".to_owned();
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|_| ProviderError::Cache { file: file.clone(), why: why() })
    }

    pub(super) fn save(&self, session: &Session) -> Result<(), ProviderError> {
        let file = self.file();
        let partial = self.folder.join(format!("openbao-login.{}.partial", std::process::id()));
        let written = (|| {
            self.make_folder()?;
            let text = Zeroizing::new(serde_json::to_vec(session)?);
            let _ = fs::remove_file(&partial);
            let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
            new.write_all(&text)?;
            new.sync_all()?;
            fs::rename(&partial, &file)
        })();
        written.map_err(|error: std::io::Error| {
            let _ = fs::remove_file(&partial);
            ProviderError::Cache { file, why: error.to_string() }
        })
    }

    pub(super) fn remove(&self) -> Result<bool, ProviderError> {
        match fs::remove_file(self.file()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ProviderError::Cache { file: self.file(), why: error.to_string() }),
        }
    }

    /// Waits until no other program renews; the lock ends with the value.
    pub(super) async fn lock(&self) -> Result<File, ProviderError> {
        let file = self.folder.join("openbao-login.lock");
        let path = file.clone();
        let made = self.make_folder();
        let locking = tokio::task::spawn_blocking(move || {
            made?;
            let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            lock.lock()?;
            Ok(lock)
        });
        let locked = locking.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        locked.map_err(|error| ProviderError::Cache { file, why: error.to_string() })
    }

    fn make_folder(&self) -> std::io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }
}
