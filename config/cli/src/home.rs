//! The folder that a command works on: database, keys, and what lies beside them.
//!
//! Makes nothing, unless a command is to write the first settings.

use std::path::PathBuf;

use harmony_config::{
    ConfigManager, Environment, File, Key,
    database::{Database, Item, Options, default_path},
    keyring::Keyring,
    last_known_good::LastKnownGood,
    updates::{self, Updates},
};

use crate::{error::Error, output::Format};

/// Where, whose, and how to show it.
#[derive(Debug, Clone, clap::Args)]
pub struct Home {
    /// Folder of the database, its keys and what lies beside them [default: ~/.local/share/harmony/config].
    #[arg(long, global = true, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Folder of the files of settings that win over the database [default: ~/.config/harmony/config].
    #[arg(long, global = true, value_name = "DIR")]
    pub files: Option<PathBuf>,
    /// Whose settings; not needed where the database has those of one service only.
    #[arg(long, short, global = true, value_name = "NAME")]
    pub service: Option<String>,
    /// How to show the result.
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

impl Home {
    /// The folder.
    ///
    /// # Errors
    /// When none was named, and this user has no home.
    pub fn folder(&self) -> Result<PathBuf, Error> {
        let usual = || default_path().and_then(|path| path.parent().map(PathBuf::from));
        self.folder.clone().or_else(usual).ok_or_else(|| Error::Usage {
            what: "this user has no home".to_owned(),
            next: "set HOME, or name the folder with --folder".to_owned(),
        })
    }

    /// The database's file.
    ///
    /// # Errors
    /// As [`Home::folder`].
    pub fn database_path(&self) -> Result<PathBuf, Error> {
        Ok(self.folder()?.join("config.db"))
    }

    /// The folder of the backup, if none was named.
    ///
    /// # Errors
    /// As [`Home::folder`].
    pub fn backup_path(&self) -> Result<PathBuf, Error> {
        Ok(self.folder()?.join("backup"))
    }

    /// The keys, which have to be there: new ones in the place of lost ones would open nothing.
    ///
    /// # Errors
    /// When there are none, or they cannot be used.
    pub fn keyring(&self) -> Result<Keyring, Error> {
        let folder = self.folder()?.join("keys");
        if !folder.join("keyring.json").exists() {
            return Err(Error::NotFound {
                what: format!("there are no keys in {}", folder.display()),
                next: "put the folder of the keys back from a backup, or name another folder with --folder"
                    .to_owned(),
            });
        }
        Ok(Keyring::open(&folder)?)
    }

    fn options(&self, service: Option<&str>) -> Options {
        service.map_or_else(Options::default, |service| Options {
            service: service.to_owned(),
            ..Options::default()
        })
    }

    /// The database, whoever's settings it has, without looking into it.
    ///
    /// # Errors
    /// When there is none, or its keys cannot be used.
    pub fn unopened(&self) -> Result<Database, Error> {
        let path = self.database_path()?;
        if !path.exists() {
            return Err(Error::NotFound {
                what: format!("there is no database {}", path.display()),
                next: "`harmony-config set` makes one, `harmony-config restore` takes it from a backup; or name \
                       another folder with --folder"
                    .to_owned(),
            });
        }
        Ok(Database::lazy(&path, self.keyring()?, self.options(None))?)
    }

    /// The database of one service's settings.
    ///
    /// # Errors
    /// When there is none, or it is not clear whose settings are meant.
    pub async fn database(&self) -> Result<Database, Error> {
        let any = self.unopened()?;
        let known: Vec<_> = any.epochs().await?.into_keys().collect();
        let all = || known.join(", ");
        let service = match (&self.service, known.as_slice()) {
            (Some(service), known) if known.contains(service) => service,
            (None, [only]) => only,
            (Some(service), []) => {
                return Err(Error::NotFound {
                    what: format!("there are no settings of {service:?}: the database is empty"),
                    next: "`harmony-config set` writes the first".to_owned(),
                });
            }
            (Some(service), _) => {
                return Err(Error::NotFound {
                    what: format!("there are no settings of {service:?}"),
                    next: format!("--service takes one of: {}", all()),
                });
            }
            (None, []) => {
                return Err(Error::NotFound {
                    what: "the database is empty".to_owned(),
                    next: "`harmony-config set --service NAME` writes the first".to_owned(),
                });
            }
            (None, _) => {
                return Err(Error::Usage {
                    what: "the database has settings of several services".to_owned(),
                    next: format!("add --service with one of: {}", all()),
                });
            }
        };
        let (path, keyring) = (self.database_path()?, self.keyring()?);
        Ok(Database::open(&path, keyring, self.options(Some(service)))?)
    }

    /// The same; database and keys are made where there are none.
    ///
    /// # Errors
    /// When it cannot be made, or it is not clear for whom.
    pub async fn database_or_new(&self) -> Result<Database, Error> {
        let path = self.database_path()?;
        let Some(service) = &self.service else {
            if path.exists() {
                return self.database().await;
            }
            return Err(Error::Usage {
                what: format!(
                    "there is no database {} yet, so it is not known whose settings these are",
                    path.display()
                ),
                next: "add --service with the name of the program".to_owned(),
            });
        };
        // New keys for an old database would open nothing of it.
        let keyring = match path.exists() {
            true => self.keyring()?,
            false => Keyring::open(&self.folder()?.join("keys"))?,
        };
        Ok(Database::open(&path, keyring, self.options(Some(service)))?)
    }

    /// The chain that a program of this user has: environment, files, this database.
    pub fn chain(&self, database: Database) -> ConfigManager {
        let usual = || directories::BaseDirs::new().map(|dirs| dirs.config_dir().join("harmony/config"));
        let builder = ConfigManager::builder().source(Environment::new());
        let builder = match self.files.clone().or_else(usual) {
            Some(files) => builder.source(File::folder(files)),
            None => builder,
        };
        builder.source(database).build()
    }

    /// The last-known-good file; `None` if there is none.
    ///
    /// # Errors
    /// When it was changed, cut or is an older one.
    pub fn last_known_good(&self, keyring: &Keyring) -> Result<Option<LastKnownGood>, Error> {
        let file = self.folder()?.join("config.lkg.json");
        match file.exists() {
            true => Ok(Some(LastKnownGood::open(&file, keyring.clone())?)),
            false => Ok(None),
        }
    }

    /// What keeps the last accepted update; `None` if there is nothing. Trusts nobody: good for looking and resealing.
    ///
    /// # Errors
    /// When it was changed, cut or is an older one.
    pub fn updates(&self, keyring: &Keyring) -> Result<Option<Updates>, Error> {
        let file = self.folder()?.join("updates.json");
        if !file.exists() {
            return Ok(None);
        }
        let settings =
            updates::Settings { file, audience: String::new(), trusted: Vec::new(), models: Vec::new() };
        Ok(Some(Updates::open(settings, keyring.clone())?))
    }
}

/// An item as it stands now.
///
/// # Errors
/// When there is none.
pub async fn item(database: &Database, key: &Key) -> Result<Item, Error> {
    let mut items = database.list(Some(database.service())).await?;
    match items.iter().position(|item| item.key == *key) {
        Some(at) => Ok(items.swap_remove(at)),
        None => Err(no_item(database, key, &items)),
    }
}

/// There is no such item, but others.
pub fn no_item(database: &Database, key: &Key, items: &[Item]) -> Error {
    let keys: Vec<_> = items.iter().map(|item| item.key.as_str()).collect();
    let has = if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
    Error::NotFound {
        what: format!("{} has no {key} in the database", database.service()),
        next: format!("it has: {has}; what it had is in `harmony-config history --all`"),
    }
}
