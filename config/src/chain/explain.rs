//! Says where values come from: which source gave which field, which ones were asked, what was not used.
//!
//! Secrets are masked; nothing else shows them.

use std::{collections::BTreeSet, fmt};

use serde_json::Value;
use tracing::Instrument as _;

use super::{
    Answer, ConfigManager, Known, Resolution, UnknownField,
    resolve::{Reach, layer_at},
};
use crate::{
    error::{ConfigError, MissingField},
    key::{FieldPath, Key},
    model::{Config, SchemaVersion},
    schema::Fault,
    source::value_at,
};

/// What stands for a secret.
const MASK: &str = "[secret]";

/// Where the settings of one model come from.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The model.
    pub key: Key,
    /// Version of this program's schema.
    pub version: SchemaVersion,
    /// Each value, by its field.
    pub fields: Vec<Explained>,
    /// What each source said, the one that wins first.
    pub sources: Vec<(String, Answer)>,
    /// Fields that a source has and the model does not.
    pub unknown: Vec<UnknownField>,
    /// What is required and nowhere.
    pub missing: Vec<MissingField>,
    /// What is wrong with the whole.
    pub faults: Vec<Fault>,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The field.
    pub place: FieldPath,
    /// Its value; a secret is masked.
    pub value: Value,
    /// The source that gave it; `None`: its default.
    pub source: Option<String>,
    /// Where it stands there.
    pub at: String,
    /// Where else it stands, hidden by that: (source, where).
    pub hides: Vec<(String, String)>,
}

impl ConfigManager {
    /// Where the settings of a model come from. Asks all sources.
    ///
    /// # Errors
    /// If a source has something that must not be passed over. Values that are missing or unfit are part of the answer.
    pub async fn explain<T: Config>(&self) -> Result<Explanation, ConfigError> {
        self.register::<T>()?;
        self.explain_key(T::KEY).await
    }

    /// The same for a registered model.
    ///
    /// # Errors
    /// As [`ConfigManager::explain`], and [`ConfigError::NoSuchModel`].
    pub async fn explain_key(&self, key: &str) -> Result<Explanation, ConfigError> {
        let known = self.known(key)?;
        let resolution = self.inner.resolve(&known, Reach::All).await?;
        Ok(self.explained(&known, resolution))
    }

    /// Settings, and where they come from, of one look at the chain. Asks all sources.
    ///
    /// # Errors
    /// As [`ConfigManager::get`].
    pub async fn get_explained<T: Config>(&self) -> Result<(T, Explanation), ConfigError> {
        let known = self.inner.registry.of::<T>()?;
        let got = async {
            let resolution = self.inner.resolve(&known, Reach::All).await?;
            self.inner.complete(&known, &resolution)?;
            let value = known
                .parse(&resolution.merged.values)
                .map_err(|faults| self.inner.unfit(&known, &resolution, faults))?;
            Ok((value, resolution))
        };
        let got = got.instrument(self.span(&known.model.key)).await;
        self.inner.health.model(&known, got.as_ref().err());
        got.map(|(value, resolution)| (value, self.explained(&known, resolution)))
    }

    fn explained(&self, known: &Known, resolution: Resolution) -> Explanation {
        let model = &known.model;
        let shown = |place: &FieldPath, value: &Value| match model.touches_secret(place) {
            true => MASK.into(),
            false => value.clone(),
        };
        let mut fields = Vec::new();
        for (place, number) in resolution.origins(known).iter() {
            let Some(value) = value_at(&resolution.merged.values, place) else { continue };
            let asked = &resolution.asked[number];
            let hides = resolution.asked[number + 1..].iter().filter_map(|lower| {
                let layer = lower.layer.as_ref()?;
                value_at(&layer.values, place)?;
                Some((lower.source.name().to_owned(), layer_at(layer, place)))
            });
            fields.push(Explained {
                place: place.clone(),
                value: shown(place, value),
                source: Some(asked.source.name().to_owned()),
                at: asked.layer.as_ref().map_or_else(String::new, |layer| layer_at(layer, place)),
                hides: hides.collect(),
            });
        }
        let missing = self.inner.missing(known, &resolution.merged.values);
        // Faults of serde and bounds make sense for what is complete.
        let faults = if missing.is_empty() { known.whole(&resolution.merged.values) } else { Vec::new() };
        let given: BTreeSet<_> = fields.iter().map(|field| field.place.clone()).collect();
        let absent: BTreeSet<_> = missing.iter().map(|field| field.place.clone()).collect();
        for (name, place) in model.root().fields() {
            let path = FieldPath::root().join(name);
            let is = |places: &BTreeSet<FieldPath>| places.iter().any(|known| path.covers(known));
            if !is(&given) && !is(&absent) {
                let value = place.default_value().cloned().unwrap_or(Value::Null);
                let value = shown(&path, &value);
                fields.push(Explained {
                    place: path,
                    value,
                    source: None,
                    at: "default".to_owned(),
                    hides: Vec::new(),
                });
            }
        }
        fields.sort_by(|one, other| one.place.cmp(&other.place));
        Explanation {
            key: model.key.clone(),
            version: model.version.clone(),
            fields,
            sources: resolution
                .asked
                .iter()
                .map(|asked| (asked.source.name().to_owned(), asked.answer.clone()))
                .collect(),
            unknown: resolution.unknown,
            missing,
            faults,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gave { place, stored, migrated, revision } => {
                write!(out, "has values in {place}")?;
                if let Some(revision) = revision {
                    write!(out, ", revision {revision}")?;
                }
                match (stored, migrated) {
                    (Some(stored), true) => write!(out, ", migrated from schema {stored}"),
                    (Some(stored), false) => write!(out, ", schema {stored}"),
                    (None, _) => Ok(()),
                }
            }
            Self::Nothing => write!(out, "has nothing"),
            Self::LastKnownGood { place, at, why } => {
                write!(out, "is away, last known good values of {at} from {place} stand in, read-only: {why}")
            }
            Self::Away { why } => write!(out, "is away, nothing stands in: {why}"),
            Self::NotAsked => write!(out, "was not asked"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{} (schema {})", self.key, self.version)?;
        for field in &self.fields {
            write!(out, "  {} = {}  ({})", field.place, field.value, field.at)?;
            for (source, at) in &field.hides {
                write!(out, "\n      hides that of {source} ({at})")?;
            }
            writeln!(out)?;
        }
        for field in &self.missing {
            writeln!(out, "  MISSING {field}")?;
        }
        for fault in &self.faults {
            writeln!(out, "  UNFIT {fault}")?;
        }
        for field in &self.unknown {
            writeln!(out, "  NOT USED {}, in {} ({})", field.place, field.at, field.meant)?;
        }
        writeln!(out, "asked, the one that wins first:")?;
        for (source, answer) in &self.sources {
            writeln!(out, "  {source} {answer}")?;
        }
        Ok(())
    }
}
