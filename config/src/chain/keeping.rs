//! Writes: which source keeps a value, what is refused before it does, and who else still has one.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    ConfigManager, Inner,
    known::Known,
    resolve::{Answer, Reach, layer_at},
};
use crate::{
    error::{ConfigError, Unfit},
    key::FieldPath,
    metrics::WriteOutcome,
    model::{Config, Model},
    schema::{Extent, Fault},
    source::{Change, Document, Source, SourceError, put, value_at},
};

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The source that keeps it.
    pub source: String,
    /// Its revision there.
    pub revision: u64,
    /// Fields that have another value all the same, since a source before this one has it: (field, where).
    pub overridden: Vec<(FieldPath, String)>,
}

/// What became of a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The source that kept it.
    pub source: String,
    /// Whether there was something.
    pub removed: bool,
    /// Where values still stand.
    pub still: Vec<String>,
}

impl Inner {
    /// The first source that keeps what is set.
    pub(super) fn keeper(&self, known: &Known) -> Result<&Arc<dyn Source>, ConfigError> {
        self.sources
            .iter()
            .find(|source| source.should_persist())
            .ok_or_else(|| ConfigError::NowhereToKeep { key: known.model.key.clone(), sources: self.names() })
    }

    pub(super) fn names(&self) -> String {
        self.sources.iter().map(|source| source.name()).collect::<Vec<_>>().join(", ")
    }

    /// Refuses values that do not fit; `place` says where they come from.
    pub(super) fn refuse(known: &Known, faults: Vec<Fault>, place: &str) -> Result<(), ConfigError> {
        if faults.is_empty() {
            return Ok(());
        }
        let mut error = Unfit::of(&known.model, &known.migrations, None);
        error.faults = faults.into_iter().map(|fault| (fault, place.to_owned())).collect();
        Err(ConfigError::Unfit(Box::new(error)))
    }

    fn source_error(&self, known: &Known, source: &Arc<dyn Source>, error: SourceError) -> ConfigError {
        let outcome = match error {
            SourceError::Conflict { .. } => WriteOutcome::Conflict,
            _ => WriteOutcome::Failed,
        };
        self.metrics.write(source.name(), outcome);
        self.health.source_failed(source.name(), &error.to_string());
        ConfigError::Source { key: known.model.key.clone(), error }
    }
}

impl ConfigManager {
    /// Keeps a value: the whole of it goes to the first source that keeps what is set, durably before this returns.
    ///
    /// # Errors
    /// If no source keeps anything, the value does not fit its own schema, or the source fails.
    pub async fn set<T: Config>(&self, value: &T) -> Result<Written, ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        let values = document(&known.model, value)?;
        self.keep(&known, values, None).await
    }

    /// Keeps values of a registered model, as JSON: what an editor or an import does. Unknown fields are refused.
    /// `expected` is the revision that this replaces: `Some(0)` for "there is none yet", `None` for "whatever is there".
    ///
    /// # Errors
    /// As [`ConfigManager::set`], and [`ConfigError::NoSuchModel`].
    pub async fn set_values(
        &self,
        key: &str,
        values: Document,
        expected: Option<u64>,
    ) -> Result<Written, ConfigError> {
        let known = self.known(key)?;
        self.keep(&known, values, expected).await
    }

    async fn keep(
        &self,
        known: &Arc<Known>,
        values: Document,
        expected: Option<u64>,
    ) -> Result<Written, ConfigError> {
        Inner::refuse(known, known.whole(&values), "what is to be set")?;
        self.keep_part(known, &values, expected).await
    }

    /// Keeps one field of a model, and leaves the others that the keeping source has as they are. `None` removes it.
    ///
    /// # Errors
    /// As [`ConfigManager::set_values`]. A write in between by somebody else is found out, and this one repeated.
    pub async fn set_field(
        &self,
        key: &str,
        place: &FieldPath,
        value: Option<Value>,
    ) -> Result<Written, ConfigError> {
        let known = self.known(key)?;
        let mut attempt = 0;
        loop {
            let mut one = Document::new();
            if let Some(value) = value.clone() {
                put(&mut one, place, value);
            }
            attempt += 1;
            match self.keep_fields(&known, &one, value.is_none().then_some(place)).await {
                Err(ConfigError::Source { error: SourceError::Conflict { .. }, .. }) if attempt < 5 => {}
                done => return done,
            }
        }
    }

    /// Writes what the keeping source has under an older schema again, as its migration makes it. `None` if there is
    /// nothing to do. Reading migrates, too, and writes nothing.
    ///
    /// # Errors
    /// [`ConfigError::Migration`], and as [`ConfigManager::set`].
    pub async fn migrate<T: Config>(&self) -> Result<Option<Written>, ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        let keeper = self.inner.keeper(&known)?;
        let found = self.inner.read_in_time(keeper, &known).await;
        let layer = found.map_err(|error| self.inner.source_error(&known, keeper, error))?;
        let stored = layer.and_then(|layer| layer.version);
        if stored.is_none_or(|stored| stored == known.model.version) {
            return Ok(None);
        }
        self.keep_fields(&known, &Document::new(), None).await.map(Some)
    }

    /// Adds fields to what the keeping source has.
    pub(super) async fn keep_fields(
        &self,
        known: &Arc<Known>,
        fields: &Document,
        remove: Option<&FieldPath>,
    ) -> Result<Written, ConfigError> {
        let inner = &self.inner;
        let keeper = inner.keeper(known)?;
        let found = inner.read_in_time(keeper, known).await;
        let layer = found.map_err(|error| inner.source_error(known, keeper, error))?;
        let revision = layer.as_ref().map_or(Some(0), |layer| layer.revision);
        let there = match layer {
            None => Document::new(),
            // Written back under today's version: so they have to be of today's shape.
            Some(layer) => inner.fit(keeper, known, layer, &mut Vec::new())?.0.values,
        };
        let mut values = super::merge::Merged::default();
        values.add(known.model.shape(), fields);
        values.add(known.model.shape(), &there);
        let mut values = values.values;
        if let Some(place) = remove {
            super::resolve::take_out(&mut values, place.names());
        }
        Inner::refuse(known, known.types(&values, Extent::Part), "what is to be set")?;
        self.keep_part(known, &values, revision).await
    }

    pub(super) async fn keep_part(
        &self,
        known: &Arc<Known>,
        values: &Document,
        expected: Option<u64>,
    ) -> Result<Written, ConfigError> {
        let inner = &self.inner;
        let keeper = inner.keeper(known)?;
        let change = Change { values, actor: &self.actor, expected };
        let written = keeper.write(&known.model, change).await;
        let revision = written.map_err(|error| inner.source_error(known, keeper, error))?;
        inner.metrics.write(keeper.name(), WriteOutcome::Kept);
        tracing::info!(key = %known.model.key, source = keeper.name(), revision, who = self.actor.who,
            request_id = self.actor.request_id, config_epoch = inner.epoch(), "settings were set");
        inner.wrote.send_modify(|writes| *writes += 1);
        let overridden = self.overridden(known, keeper.name(), values).await;
        Ok(Written { source: keeper.name().to_owned(), revision, overridden })
    }

    /// Fields of `values` that a source before the keeper has otherwise.
    async fn overridden(
        &self,
        known: &Arc<Known>,
        keeper: &str,
        values: &Document,
    ) -> Vec<(FieldPath, String)> {
        // The write is done; what cannot be asked now cannot be compared.
        // All sources: what was written is remembered as the last known good at once.
        let Ok(resolution) = self.inner.resolve(known, Reach::All).await else { return Vec::new() };
        let mut found = BTreeMap::new();
        for (place, number) in resolution.origins(known).iter() {
            let asked = &resolution.asked[number];
            if asked.source.name() == keeper {
                continue;
            }
            let (Some(layer), Some(mine)) = (&asked.layer, value_at(values, place)) else { continue };
            if value_at(&layer.values, place) != Some(mine) {
                found.insert(place.clone(), layer_at(layer, place));
            }
        }
        found.into_iter().collect()
    }

    /// Removes what the first keeping source has for a model.
    ///
    /// # Errors
    /// If no source keeps anything, or the source fails.
    pub async fn delete<T: Config>(&self) -> Result<Deleted, ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        self.delete_known(&known).await
    }

    /// Removes what the first keeping source has for a registered model.
    ///
    /// # Errors
    /// As [`ConfigManager::delete`], and [`ConfigError::NoSuchModel`].
    pub async fn delete_values(&self, key: &str) -> Result<Deleted, ConfigError> {
        let known = self.known(key)?;
        self.delete_known(&known).await
    }

    async fn delete_known(&self, known: &Arc<Known>) -> Result<Deleted, ConfigError> {
        let inner = &self.inner;
        let keeper = inner.keeper(known)?;
        let removed = keeper.delete(&known.model, &self.actor).await;
        let removed = removed.map_err(|error| inner.source_error(known, keeper, error))?;
        inner.metrics.write(keeper.name(), WriteOutcome::Kept);
        tracing::info!(key = %known.model.key, source = keeper.name(), removed, who = self.actor.who,
            request_id = self.actor.request_id, config_epoch = inner.epoch(), "settings were deleted");
        inner.wrote.send_modify(|writes| *writes += 1);
        let resolution = inner.resolve(known, Reach::All).await?;
        let still = resolution
            .asked
            .iter()
            .filter_map(|asked| match &asked.answer {
                Answer::Gave { place, .. } | Answer::LastKnownGood { place, .. } => Some(place.clone()),
                _ => None,
            })
            .collect();
        Ok(Deleted { source: keeper.name().to_owned(), removed, still })
    }
}

/// A value of a type as JSON.
pub(super) fn document<T: Config>(model: &Model, value: &T) -> Result<Document, ConfigError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(values)) => Ok(values),
        Ok(other) => Err(ConfigError::NotJson {
            key: model.key.clone(),
            why: format!("it is {}", crate::schema::json_type(&other)),
        }),
        // A message of serde's own `Serialize`: it has names of types, not values.
        Err(error) => Err(ConfigError::NotJson { key: model.key.clone(), why: error.to_string() }),
    }
}
