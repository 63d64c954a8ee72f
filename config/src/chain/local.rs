//! The usual chain of one machine: environment, files, a database with its keys and its last-known-good file.

use std::path::{Path, PathBuf};

use super::{Builder, ConfigManager};
use crate::{
    database::{Database, Options, default_path},
    error::ConfigError,
    keyring::Keyring,
    last_known_good::LastKnownGood,
    source::{environment::Environment, file::File},
};

impl ConfigManager {
    /// The usual chain of this user: the environment, files in `~/.config/harmony/config`, and the database in
    /// `~/.local/share/harmony/config`. More sources, and a [`Prompter`](crate::source::prompt::Prompter), can be added.
    ///
    /// `service` is whose settings these are in the database, usually the program's name.
    ///
    /// # Errors
    /// [`ConfigError::Local`] if the keys of the database cannot be made or kept.
    pub fn of_this_user(service: &str) -> Result<Builder, ConfigError> {
        let homeless = || ConfigError::Local {
            folder: PathBuf::from("~"),
            why: "this user has no home. Set HOME, or name a folder with Builder::database_in".to_owned(),
        };
        let files = directories::BaseDirs::new().map(|dirs| dirs.config_dir().join("harmony/config"));
        let database = default_path().ok_or_else(homeless)?;
        let folder = database.parent().ok_or_else(homeless)?;
        Self::builder()
            .source(Environment::new())
            .source(File::folder(files.ok_or_else(homeless)?))
            .database_in(folder, service)
    }
}

impl Builder {
    /// Adds the database `config.db` in a folder, with its keys in `keys` and the last-known-good file
    /// `config.lkg.json` beside it; all are made where they are not. The database itself is opened with the first use.
    ///
    /// # Errors
    /// [`ConfigError::Local`] if the keys cannot be made or kept: without them a secret could not be kept, either.
    pub fn database_in(self, folder: &Path, service: &str) -> Result<Self, ConfigError> {
        let failed = |error: &dyn std::error::Error| ConfigError::Local {
            folder: folder.to_owned(),
            why: error.to_string(),
        };
        let keyring = Keyring::open(&folder.join("keys")).map_err(|error| failed(&error))?;
        let options = Options { service: service.to_owned(), ..Options::default() };
        let database = Database::lazy(&folder.join("config.db"), keyring.clone(), options)
            .map_err(|error| failed(&error))?;

        let file = folder.join("config.lkg.json");
        let (last_good, refused) = match LastKnownGood::open(&file, keyring.clone()) {
            Ok(opened) => (opened, None),
            // It stands aside for whoever looks into it; the program goes on with a new one, and says so.
            Err(error) => {
                let (renewed, aside) =
                    LastKnownGood::renew(&file, keyring).map_err(|error| failed(&error))?;
                let aside =
                    aside.map_or_else(String::new, |aside| format!(". It is now {}", aside.display()));
                (renewed, Some(format!("{error}{aside}")))
            }
        };
        let mut builder = self.source(database).last_known_good(last_good.for_owner(service));
        if let Some(refused) = refused {
            tracing::error!("{refused}");
            builder.refused = Some(refused);
        }
        Ok(builder)
    }
}
