//! Export and import: the settings of all known models as one JSON text, to move or to keep them.
//!
//! Secrets are left out, unless they are asked for by name of this act; then each source that gave one is told before,
//! and nothing is shown if one cannot write that down. An import is checked as a whole before anything is written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    ConfigManager, Inner, Known, Written,
    resolve::{Reach, Resolution, take_out},
};
use crate::{
    error::ConfigError,
    key::{FieldPath, Key},
    model::SchemaVersion,
    source::{Document, value_at},
};

/// Name and version of the format.
const FORMAT: &str = "harmony-config/1";

/// What an export does with secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// Leaves them out, and says so.
    Omitted,
    /// Has them in plain text.
    Revealed,
}

/// All settings.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    format: String,
    /// When it was made.
    pub exported_at: Timestamp,
    /// By key.
    pub items: BTreeMap<Key, ExportedItem>,
}

/// Settings of one model.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedItem {
    /// Version of their schema.
    pub schema_version: SchemaVersion,
    /// The values, merged from all sources.
    pub values: Document,
    /// Places of secrets that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<String>,
}

// Values may be secret.
impl std::fmt::Debug for Export {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.items.keys().collect();
        out.debug_struct("Export")
            .field("exported_at", &self.exported_at)
            .field("items", &keys)
            .finish_non_exhaustive()
    }
}

impl ConfigManager {
    /// The settings of all registered models that have any. Defaults that nobody set are not in it.
    ///
    /// # Errors
    /// If a source cannot be read, or does not let a secret be shown.
    pub async fn export(&self, secrets: Secrets) -> Result<Export, ConfigError> {
        let mut items = BTreeMap::new();
        for known in self.inner.registry.all() {
            let resolution = self.inner.resolve(&known, Reach::All).await?;
            if resolution.merged.values.is_empty() {
                continue;
            }
            let mut values = resolution.merged.values.clone();
            let mut omitted = Vec::new();
            let present: Vec<_> = known
                .model
                .secrets
                .iter()
                .filter(|place| value_at(&values, place).is_some())
                .cloned()
                .collect();
            match secrets {
                Secrets::Revealed => self.announce(&known, &resolution, &present).await?,
                Secrets::Omitted => {
                    for place in present {
                        take_out(&mut values, place.names());
                        omitted.push(place.to_string());
                    }
                }
            }
            let item = ExportedItem { schema_version: known.model.version.clone(), values, omitted };
            items.insert(known.model.key.clone(), item);
        }
        Ok(Export { format: FORMAT.to_owned(), exported_at: Timestamp::now(), items })
    }

    /// A secret's value, for a person. Each source that gave it is told before.
    ///
    /// # Errors
    /// If a source does not let it be shown, or cannot be read.
    pub async fn reveal(
        &self,
        key: &str,
        place: &FieldPath,
    ) -> Result<Option<serde_json::Value>, ConfigError> {
        let known = self.known(key)?;
        let resolution = self.inner.resolve(&known, Reach::All).await?;
        let Some(value) = value_at(&resolution.merged.values, place).cloned() else { return Ok(None) };
        if known.model.touches_secret(place) {
            self.announce(&known, &resolution, std::slice::from_ref(place)).await?;
        }
        Ok(Some(value))
    }

    /// Tells each source which of its secrets are about to be shown.
    async fn announce(
        &self,
        known: &Known,
        resolution: &Resolution,
        places: &[FieldPath],
    ) -> Result<(), ConfigError> {
        let origins = resolution.origins(known);
        for (number, asked) in resolution.asked.iter().enumerate() {
            let mine = |place: &FieldPath| {
                let mut from = origins.iter();
                from.any(|(known, origin)| origin == number && (place.covers(known) || known.covers(place)))
            };
            let mine: Vec<_> = places.iter().filter(|place| mine(place)).cloned().collect();
            if !mine.is_empty() {
                let told = asked.source.reveal(&known.model, &mine, &self.actor).await;
                told.map_err(|error| ConfigError::Source { key: known.model.key.clone(), error })?;
            }
        }
        Ok(())
    }

    /// Keeps what an export has, in the first source that keeps what is set. Secrets that were left out stay as they
    /// are there. Unknown models and fields are refused, before anything is written.
    ///
    /// # Errors
    /// [`ConfigError::Import`] and [`ConfigError::Several`] before anything is written; else as
    /// [`ConfigManager::set`], and then what came before it in the order of the keys is kept.
    pub async fn import(&self, export: &Export) -> Result<Vec<(Key, Written)>, ConfigError> {
        if export.format != FORMAT {
            let why = format!("its format is {:?}, and this program knows {FORMAT:?}", export.format);
            return Err(ConfigError::Import { why });
        }
        let mut wrong = Vec::new();
        let mut good = Vec::new();
        for (key, item) in &export.items {
            match self.importable(key, item) {
                Ok(found) => good.push(found),
                Err(error) => wrong.push(error),
            }
        }
        match wrong.len() {
            0 => {}
            1 => return wrong.pop().map_or(Ok(Vec::new()), Err),
            _ => return Err(ConfigError::Several(wrong)),
        }
        let mut done = Vec::new();
        for (known, values, omitted) in good {
            let written = match omitted {
                true => self.keep_fields(&known, &values, None).await?,
                false => self.keep_part(&known, &values, None).await?,
            };
            done.push((known.model.key.clone(), written));
        }
        Ok(done)
    }

    fn importable(
        &self,
        key: &Key,
        item: &ExportedItem,
    ) -> Result<(std::sync::Arc<Known>, Document, bool), ConfigError> {
        let known = self.known(key.as_str())?;
        let mut values = item.values.clone();
        let place = format!("the export, under schema {}", item.schema_version);
        let migration = known.migrations.iter().find(|migration| migration.from == item.schema_version);
        if let Some(migration) = migration.filter(|_| item.schema_version != known.model.version) {
            values = (migration.run)(values).map_err(|why| ConfigError::Migration {
                key: key.clone(),
                place: place.clone(),
                from: item.schema_version.clone(),
                to: known.model.version.clone(),
                why,
            })?;
        }
        let faults = match item.omitted.is_empty() {
            true => known.whole(&values),
            false => known.types(&values, crate::schema::Extent::Part),
        };
        Inner::refuse(&known, faults, &place)?;
        Ok((known, values, !item.omitted.is_empty()))
    }
}
