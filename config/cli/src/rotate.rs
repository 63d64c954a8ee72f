//! `rotate`: a new key, everything sealed again with it, and then, where that was asked for, the old ones dropped.

use clap::ValueEnum;
use harmony_config::{
    Actor,
    keyring::{Keyring, Purpose},
};
use serde_json::json;

use crate::{
    error::Error,
    home::Home,
    output::{self, Format},
};

/// Which key.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Which {
    /// Seals secret values at rest.
    Encryption,
    /// Authenticates caches, histories and the audit log.
    Cache,
    /// Signs updates for other programs.
    Updates,
}

/// Makes a new key and seals database and last-known-good file again with it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Services that run use the new key at once, and need no restart. Older keys stay, so that backups \
                        open, until --drop-old. Who was able to read the old key may know the secrets: change them, too.

Examples:
  harmony-config rotate encryption
  harmony-config rotate cache --drop-old"
)]
pub struct Rotate {
    /// The key.
    #[arg(value_enum)]
    purpose: Which,
    /// Makes no new key: seals again with the newest, after a rotation that was broken off or before --drop-old.
    #[arg(long)]
    no_new_key: bool,
    /// Forgets all older keys of this purpose, once nothing but backups needs them.
    #[arg(long)]
    drop_old: bool,
}

impl Rotate {
    /// Does it. Can be repeated when it was broken off: nothing is dropped before all is sealed again.
    pub async fn run(self, home: &Home) -> Result<(), Error> {
        let purpose = match self.purpose {
            Which::Encryption => Purpose::Encryption,
            Which::Cache => Purpose::Cache,
            Which::Updates => Purpose::Updates,
        };
        let keyring = home.keyring()?;
        // What cannot be sealed again is known before there is a new key.
        let last_good = home.last_known_good(&keyring)?;
        let updates = home.updates(&keyring)?;
        let database = match home.database_path()?.exists() {
            true => {
                let database = home.unopened()?;
                if let Some(finding) = database.verify().await?.findings.first() {
                    return Err(Error::Refused {
                        what: format!(
                            "there is no new key, since the database is not what was written: {finding}"
                        ),
                        next: "see `harmony-config verify`".to_owned(),
                    });
                }
                Some(database)
            }
            false => None,
        };
        let newest = if self.no_new_key { keyring.newest(purpose)? } else { keyring.rotate(purpose)? };
        let mut resealed = harmony_config::database::Resealed::default();
        if purpose != Purpose::Updates {
            if let Some(database) = &database {
                resealed = database.reseal(&Actor::of_this_process()).await?;
            }
            if let Some(last_good) = &last_good {
                last_good.reseal()?;
            }
            if let Some(updates) = &updates {
                updates.reseal()?;
            }
        }
        let dropped = if self.drop_old { drop_older(&keyring, purpose)? } else { Vec::new() };
        match home.output {
            Format::Json => output::json(&json!({
                "purpose": purpose.as_str(),
                "key": newest.to_string(),
                "items": resealed.items,
                "versions": resealed.versions,
                "dropped": dropped,
            }))?,
            Format::Table => output::print(&format!(
                "the {purpose} key is {newest}; sealed again: {} items, {} earlier values; dropped: {}\n",
                resealed.items,
                resealed.versions,
                if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") }
            ))?,
        }
        if !dropped.is_empty() && purpose != Purpose::Updates {
            output::note(
                "note: backups of before need the keys that were dropped: make a new one with `harmony-config backup`, in \
                 an empty folder",
            );
        }
        if purpose == Purpose::Updates && !self.no_new_key {
            output::note("note: tell those who take updates from here the new public key");
        }
        if purpose == Purpose::Encryption && !self.no_new_key {
            output::note("note: tell those who sign updates for this machine its new recipient");
        }
        Ok(())
    }
}

fn drop_older(keyring: &Keyring, purpose: Purpose) -> Result<Vec<String>, Error> {
    let newest = keyring.newest(purpose)?;
    let mut dropped = Vec::new();
    for version in keyring.versions(purpose)?.into_iter().filter(|version| *version != newest) {
        keyring.drop_version(purpose, version)?;
        dropped.push(version.to_string());
    }
    Ok(dropped)
}
