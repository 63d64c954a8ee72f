//! Signed updates as a source of the chain, kept beside the keys.

use std::path::Path;

use super::Builder;
use crate::{
    error::ConfigError,
    keyring::Keyring,
    model::Model,
    updates::{PublicKey, Settings, Updates},
};

impl Builder {
    /// Adds signed updates below the sources that are there: its place is after environment and file, and before the
    /// database. The last accepted one is kept in `updates.json` in this folder, with its keys in `keys`; both are made
    /// where they are not. What is given beside the builder is for whoever delivers updates:
    /// [`FileFeed::run`](crate::updates::FileFeed::run) and others.
    ///
    /// `audience` is for whom updates have to be, usually the service; `trusted` are the keys whose signatures count;
    /// `models` are those of the program.
    ///
    /// # Errors
    /// [`ConfigError::Local`] if the keys cannot be made or kept, or what was accepted was changed, put back or
    /// removed: which updates are old is not known then, and a person has to say how to go on.
    pub fn updates_in(
        self,
        folder: &Path,
        audience: &str,
        trusted: Vec<PublicKey>,
        models: Vec<Model>,
    ) -> Result<(Self, Updates), ConfigError> {
        let failed = |error: &dyn std::error::Error| ConfigError::Local {
            folder: folder.to_owned(),
            why: error.to_string(),
        };
        let keyring = Keyring::open(&folder.join("keys")).map_err(|error| failed(&error))?;
        let file = folder.join("updates.json");
        let settings = Settings { file, audience: audience.to_owned(), trusted, models };
        let updates = Updates::open(settings, keyring).map_err(|error| failed(&error))?;
        Ok((self.source(updates.clone()), updates))
    }
}
