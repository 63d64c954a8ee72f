//! Checks of a daemon that no type can do: files that must be readable, settings that belong together.

use std::{collections::BTreeMap, fmt};

use harmony_config::{ConfigManager, FieldPath, Model, chain::Explanation};

use super::error::{Fault, SettingsError};

/// Which source gave which setting; never a value.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    /// Setting → where it was given. Those that have their defaults are not there.
    at: BTreeMap<String, String>,
    /// Setting → every way to set it.
    ways: BTreeMap<String, Vec<String>>,
    /// What is no setting, where it stands, and what it may have meant.
    unknown: Vec<(String, String, String)>,
}

impl Origins {
    /// `further`: one more way to set a setting, which no source of the chain stands for.
    pub(super) fn of(
        explanation: &Explanation,
        model: &Model,
        manager: &ConfigManager,
        further: Option<fn(&str) -> String>,
    ) -> Self {
        let given = explanation.fields.iter().filter(|field| field.source.is_some());
        let ways = |name: &str| {
            let place = FieldPath::root().join(name);
            let ways = manager.sources().iter().map(|source| source.how_to_set_field(model, &place));
            ways.chain(further.map(|further| further(name))).collect()
        };
        let text = |place: &FieldPath| place.to_string();
        Self {
            at: given.map(|field| (text(&field.place), field.at.clone())).collect(),
            ways: model.root().fields().iter().map(|(name, _)| ((*name).to_owned(), ways(name))).collect(),
            unknown: explanation
                .unknown
                .iter()
                .map(|field| (text(&field.place), field.at.clone(), field.meant.clone()))
                .collect(),
        }
    }

    /// Where a setting was given: `variable VK_NATS_NATS_URL`.
    #[must_use]
    pub fn at(&self, key: &str) -> &str {
        self.at.get(key).map_or("default", String::as_str)
    }

    /// Says once, at debug level, which source gave what; and warns of variables that mean nothing.
    pub fn log(&self) {
        for (setting, from) in &self.at {
            tracing::debug!(setting, from, "a setting was given");
        }
        for (setting, at, meant) in &self.unknown {
            tracing::warn!(at, "there is no setting `{setting}`, so this has no effect: {meant}");
        }
    }
}

/// Collects what is wrong, so that a person is told all of it at once.
#[derive(Debug)]
pub struct Checks<'o> {
    origins: &'o Origins,
    faults: Vec<Fault>,
}

impl<'o> Checks<'o> {
    /// Nothing is wrong yet.
    #[must_use]
    pub fn new(origins: &'o Origins) -> Self {
        Self { origins, faults: Vec::new() }
    }

    /// A value cannot be used.
    pub fn invalid(&mut self, key: &str, value: impl fmt::Display, expected: &str) {
        self.faults.push(Fault::Invalid {
            key: key.to_owned(),
            value: serde_json::Value::from(value.to_string()).to_string(),
            expected: expected.to_owned(),
            at: self.origins.at(key).to_owned(),
        });
    }

    /// A setting is needed because of others.
    pub fn missing(&mut self, key: &str, expected: &str) {
        self.faults.push(Fault::Missing {
            key: key.to_owned(),
            description: None,
            expected: expected.to_owned(),
            ways: self.origins.ways.get(key).cloned().unwrap_or_default(),
        });
    }

    /// The setting, which is needed because of others.
    pub fn required<T>(&mut self, key: &str, value: Option<T>, expected: &str) -> Option<T> {
        if value.is_none() {
            self.missing(key, expected);
        }
        value
    }

    /// What was wrong; for whoever cannot go on.
    #[must_use]
    pub fn refused(self) -> SettingsError {
        SettingsError { faults: self.faults }
    }

    /// Ends the checks.
    ///
    /// # Errors
    /// [`SettingsError`], if anything was wrong.
    pub fn done(self) -> Result<(), SettingsError> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(self.refused()),
        }
    }
}
