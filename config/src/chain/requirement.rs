//! Fails fast: everything that a program needs, checked at once before it starts to work.

use std::sync::Arc;

use super::{ConfigManager, Known, resolve::Reach};
use crate::{
    error::ConfigError,
    model::{Config, ModelError},
};

/// The models that a program needs.
#[derive(Debug)]
#[must_use = "nothing is checked before `check`"]
pub struct Requirements<'m> {
    manager: &'m ConfigManager,
    models: Vec<Arc<Known>>,
    wrong: Vec<ModelError>,
}

impl ConfigManager {
    /// Begins a list of the models that a program needs: `manager.require_all().of::<A>().of::<B>().check().await?`.
    pub fn require_all(&self) -> Requirements<'_> {
        Requirements { manager: self, models: Vec::new(), wrong: Vec::new() }
    }
}

impl Requirements<'_> {
    /// Adds one.
    pub fn of<T: Config>(mut self) -> Self {
        match self.manager.inner.registry.of::<T>() {
            Ok(known) => self.models.push(known),
            Err(error) => self.wrong.push(error),
        }
        self
    }

    /// Checks all of them.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] with every missing value of every model; [`ConfigError::Several`] if other things are
    /// wrong, too.
    pub async fn check(self) -> Result<(), ConfigError> {
        let inner = &self.manager.inner;
        let mut errors: Vec<ConfigError> = self.wrong.into_iter().map(ConfigError::Model).collect();
        let (mut fields, mut away, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for known in &self.models {
            let error = match inner.resolve_noting(known, Reach::UntilComplete, &mut given).await {
                Err(error) => Some(error),
                Ok(resolution) => {
                    let missing = inner.missing(known, &resolution.merged.values);
                    let faults =
                        if missing.is_empty() { known.whole(&resolution.merged.values) } else { Vec::new() };
                    if !missing.is_empty() {
                        away.extend(
                            resolution
                                .away()
                                .into_iter()
                                .filter(|source| !away.contains(source))
                                .collect::<Vec<_>>(),
                        );
                        fields.extend(missing);
                        None
                    } else if faults.is_empty() {
                        inner.health.model(known, None);
                        None
                    } else {
                        Some(inner.unfit(known, &resolution, faults))
                    }
                }
            };
            if let Some(error) = error {
                inner.health.model(known, Some(&error));
                errors.push(error);
            }
        }
        inner.remember(given).await;
        if !fields.is_empty() {
            errors.push(ConfigError::Missing { fields, away });
        }
        match errors.len() {
            0 => Ok(()),
            1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(ConfigError::Several(errors)),
        }
    }
}
