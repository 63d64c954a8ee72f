//! Values that the program itself was given, e.g. by flags of its command line. Read-only, and usually first.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use super::{Document, Layer, Source, SourceError};
use crate::{
    key::{FieldPath, Key},
    model::Model,
};

/// Values in memory, each with the place where it was given.
#[derive(Debug, Clone)]
pub struct Given {
    name: String,
    layers: BTreeMap<Key, Layer>,
    how: Option<fn(&FieldPath) -> String>,
}

impl Given {
    /// `name` stands in `explain` and in messages: `flags`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), layers: BTreeMap::new(), how: None }
    }

    /// How a person sets a field here, in one line: `the flag --listen`.
    #[must_use]
    pub fn settable_by(mut self, how: fn(&FieldPath) -> String) -> Self {
        self.how = Some(how);
        self
    }

    /// Adds a value; `from` says where it was given (`flag --listen`). The last one for a place wins.
    #[must_use]
    pub fn with(mut self, key: Key, place: FieldPath, value: impl Into<Value>, from: &str) -> Self {
        let layer = self.layers.entry(key).or_insert_with(|| Layer {
            values: Document::new(),
            place: self.name.clone(),
            fields: BTreeMap::new(),
            version: None,
            revision: None,
        });
        if super::put(&mut layer.values, &place, value.into()) {
            layer.fields.insert(place, from.to_owned());
        }
        self
    }
}

#[async_trait]
impl Source for Given {
    fn name(&self) -> &str {
        &self.name
    }

    fn how_to_set(&self, _model: &Model) -> String {
        format!("the {} of this program", self.name)
    }

    fn how_to_set_field(&self, model: &Model, place: &FieldPath) -> String {
        self.how.map_or_else(|| self.how_to_set(model), |how| how(place))
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        Ok(self.layers.get(&model.key).cloned())
    }
}
