//! Asks the chain, source by source, and merges what they say.
//!
//! ```text
//! source ── answers ─────────────▶ migrate ─▶ check ─▶ merge below the ones before
//!        ├─ cannot be asked ─────▶ last known good, read-only ─▶ migrate ─▶ …
//!        │                         or on without it, visibly
//!        └─ malformed, tampered ─▶ stop: to pass over it would silently use another value
//! ```
//!
//! Before it stops, the rest of the chain is asked: whoever corrects one thing is told of all.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Inner,
    asking::Given,
    known::Known,
    merge::{Merged, Origins},
};
use crate::{
    error::{ConfigError, MissingField, Unfit},
    key::FieldPath,
    metrics::ReadOutcome,
    model::SchemaVersion,
    schema::{Extent, Fault, FaultKind, Step, json_type},
    source::{Document, Layer, Source, SourceError, value_at},
};

/// Most characters of a value that an error repeats.
const SHOWN: usize = 100;

/// How far the chain is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Until no further source could add anything.
    UntilComplete,
    /// All sources.
    All,
}

/// What one source said.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It has values.
    Gave {
        /// Where.
        place: String,
        /// Version under which they were stored, if it knows.
        stored: Option<SchemaVersion>,
        /// Whether they were migrated from that version in memory.
        migrated: bool,
        /// Revision, where it counts.
        revision: Option<u64>,
    },
    /// It has nothing for this model.
    Nothing,
    /// It could not be asked; what it last gave stands in, read-only.
    LastKnownGood {
        /// Where it stood.
        place: String,
        /// Since when it has been so.
        at: Timestamp,
        /// Why the source could not be asked.
        why: String,
    },
    /// It could not be asked, and nothing stands in.
    Away {
        /// Why.
        why: String,
    },
    /// Not asked: those before had everything.
    NotAsked,
}

/// A field that a source has and the model does not. It is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Which.
    pub place: FieldPath,
    /// What it may have meant.
    pub meant: String,
    /// Where it stands.
    pub at: String,
}

/// One source's part in a resolution.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub source: Arc<dyn Source>,
    pub answer: Answer,
    /// What it gave, after migration and without unknown fields.
    pub layer: Option<Layer>,
}

/// What a source gave, as far as it fits.
struct Fitting {
    layer: Layer,
    /// Version under which it was stored.
    stored: Option<SchemaVersion>,
    migrated: bool,
}

/// The chain's answer for one model.
#[derive(Debug)]
pub(crate) struct Resolution {
    pub merged: Merged,
    pub asked: Vec<Asked>,
    pub unknown: Vec<UnknownField>,
}

impl Resolution {
    /// For each value the number of the source that gave it.
    pub fn origins(&self, known: &Known) -> Origins {
        let layers = self.asked.iter().enumerate();
        Origins::of(
            known.model.shape(),
            layers.filter_map(|(number, asked)| Some((number, &asked.layer.as_ref()?.values))),
        )
    }

    /// Where the value of a field stands, for people.
    fn at(&self, origins: &Origins, place: &FieldPath) -> String {
        let origin = origins.find(place).and_then(|number| self.asked[number].layer.as_ref());
        origin.map_or_else(|| "no source".to_owned(), |layer| layer_at(layer, place))
    }

    /// Version under which the value of a field is stored.
    fn stored(&self, origins: &Origins, place: &FieldPath) -> Option<SchemaVersion> {
        let number = origins.find(place)?;
        match &self.asked[number].answer {
            Answer::Gave { stored, .. } => stored.clone(),
            _ => self.asked[number].layer.as_ref()?.version.clone(),
        }
    }

    /// Sources that could not be asked and for which nothing stands in.
    pub fn away(&self) -> Vec<String> {
        let away = self.asked.iter().filter_map(|asked| match &asked.answer {
            Answer::Away { why } => Some(why.clone()),
            _ => None,
        });
        away.collect()
    }
}

/// Where a field of a layer stands.
pub(crate) fn layer_at(layer: &Layer, place: &FieldPath) -> String {
    let exact = layer.fields.iter().filter(|(known, _)| known.covers(place)).map(|(_, at)| at).next_back();
    let inside = layer.fields.iter().find(|(known, _)| place.covers(known)).map(|(_, at)| at);
    exact.or(inside).unwrap_or(&layer.place).clone()
}

impl Inner {
    /// Asks the chain.
    pub(crate) async fn resolve(&self, known: &Arc<Known>, reach: Reach) -> Result<Resolution, ConfigError> {
        let mut given = Vec::new();
        let resolution = self.resolve_noting(known, reach, &mut given).await;
        self.remember(given).await;
        resolution
    }

    /// Asks the chain, and leaves it to the caller to [remember](Self::remember) what was given.
    pub(super) async fn resolve_noting(
        &self,
        known: &Arc<Known>,
        reach: Reach,
        given: &mut Vec<Given>,
    ) -> Result<Resolution, ConfigError> {
        let mut wrong = Vec::new();
        let mut resolution = Resolution { merged: Merged::default(), asked: Vec::new(), unknown: Vec::new() };
        for source in &self.sources {
            let number = resolution.asked.len();
            if reach == Reach::UntilComplete
                && number > 0
                && resolution.merged.is_complete(known.model.shape())
            {
                resolution.asked.push(Asked {
                    source: source.clone(),
                    answer: Answer::NotAsked,
                    layer: None,
                });
                continue;
            }
            let asked = self.ask(source, known, &mut resolution.unknown, &mut wrong, given).await;
            let (answer, layer) = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    wrong.push(error);
                    (Answer::Nothing, None)
                }
            };
            if let Some(layer) = &layer {
                resolution.merged.add(known.model.shape(), &layer.values);
            }
            resolution.asked.push(Asked { source: source.clone(), answer, layer });
        }
        if wrong.is_empty() {
            self.health.asked(known, &resolution);
            return Ok(resolution);
        }
        Err(self.all_that_is_wrong(known, &resolution, wrong))
    }

    /// Adds to what some sources have wrong what else is wrong, so that nobody has to start a program once for each.
    fn all_that_is_wrong(
        &self,
        known: &Known,
        resolution: &Resolution,
        mut wrong: Vec<ConfigError>,
    ) -> ConfigError {
        let mut fields = self.missing(known, &resolution.merged.values);
        let refused: Vec<FieldPath> = wrong
            .iter()
            .filter_map(|error| match error {
                ConfigError::Unfit(unfit) => Some(unfit.faults.iter().map(|(fault, _)| fault.place.clone())),
                _ => None,
            })
            .flatten()
            .collect();
        let mut faults = known.part(&resolution.merged.values);
        // Not what only follows from something that is told anyway.
        faults.retain(|Fault { place, .. }| {
            let told = |other: &FieldPath| place.covers(other) || other.covers(place);
            !refused.iter().any(told) && !fields.iter().any(|field| place.covers(&field.place))
        });
        if !faults.is_empty() {
            wrong.push(self.unfit(known, resolution, faults));
        }
        fields.retain(|field| !refused.iter().any(|place| place.covers(&field.place)));
        // A source that cannot be read may have what seems to be missing.
        let all_read = wrong.iter().all(|error| matches!(error, ConfigError::Unfit(_)));
        if all_read && !fields.is_empty() {
            wrong.push(ConfigError::Missing { fields, away: resolution.away() });
        }
        match wrong.len() {
            1 => wrong.remove(0),
            _ => ConfigError::Several(wrong),
        }
    }

    async fn ask(
        &self,
        source: &Arc<dyn Source>,
        known: &Arc<Known>,
        unknown: &mut Vec<UnknownField>,
        wrong: &mut Vec<ConfigError>,
        given: &mut Vec<Given>,
    ) -> Result<(Answer, Option<Layer>), ConfigError> {
        let model = &known.model;
        let error = match self.read_in_time(source, known).await {
            Ok(None) => {
                self.answered(source, ReadOutcome::Nothing);
                self.note(source, known, None, given);
                return Ok((Answer::Nothing, None));
            }
            Ok(Some(layer)) => {
                let is_kept = self.last_good.is_some() && source.keep_last_known_good();
                let raw = is_kept.then(|| layer.clone());
                let (Fitting { layer, stored, migrated }, error) =
                    self.fit_what_fits(source, known, layer, unknown)?;
                if let Some(error) = error {
                    wrong.push(error);
                } else {
                    self.answered(source, ReadOutcome::Gave);
                    if let Some(raw) = raw {
                        self.note(source, known, Some(&raw), given);
                    }
                }
                let revision = layer.revision;
                let answer = Answer::Gave { place: layer.place.clone(), stored, migrated, revision };
                return Ok((answer, Some(layer)));
            }
            Err(error) => error,
        };
        if !error.is_absence() {
            self.metrics.read(source.name(), ReadOutcome::Refused);
            if matches!(error, SourceError::Tampered { .. }) {
                self.metrics.signature_failure(source.name(), "tampered");
            }
            self.health.source_failed(source.name(), &error.to_string());
            return Err(ConfigError::Source { key: model.key.clone(), error });
        }
        let why = error.to_string();
        self.metrics.read(source.name(), ReadOutcome::Away);
        if self.health.source_away(source.name(), &why) {
            tracing::warn!(source = source.name(), "{why}");
        }
        match self.recall(source, known).await {
            None => Ok((Answer::Away { why }, None)),
            Some(recalled) => {
                let (layer, ..) = self.fit(source, known, recalled.layer, unknown)?;
                self.metrics.fallback(source.name());
                if self.health.fell_back(source.name(), &model.key) {
                    tracing::warn!(source = source.name(), since = %recalled.at,
                        "the last known good values are in use, read-only");
                }
                Ok((Answer::LastKnownGood { place: layer.place.clone(), at: recalled.at, why }, Some(layer)))
            }
        }
    }

    fn answered(&self, source: &Arc<dyn Source>, outcome: ReadOutcome) {
        self.metrics.read(source.name(), outcome);
        if self.health.source_answered(source.name()) {
            tracing::info!(source = source.name(), "the source answers again");
        }
    }

    /// Migrates and checks what a source gave. Unknown fields are taken out and reported.
    pub(super) fn fit(
        &self,
        source: &Arc<dyn Source>,
        known: &Known,
        layer: Layer,
        unknown: &mut Vec<UnknownField>,
    ) -> Result<(Layer, Option<SchemaVersion>, bool), ConfigError> {
        match self.fit_what_fits(source, known, layer, unknown)? {
            (_, Some(error)) => Err(error),
            (Fitting { layer, stored, migrated }, None) => Ok((layer, stored, migrated)),
        }
    }

    /// The same; unfit fields are taken out, too, and told.
    fn fit_what_fits(
        &self,
        source: &Arc<dyn Source>,
        known: &Known,
        mut layer: Layer,
        unknown: &mut Vec<UnknownField>,
    ) -> Result<(Fitting, Option<ConfigError>), ConfigError> {
        let model = &known.model;
        let stored = layer.version.clone().filter(|stored| *stored != model.version);
        let migration = stored
            .as_ref()
            .and_then(|stored| known.migrations.iter().find(|migration| migration.from == *stored));
        if let Some(migration) = migration {
            layer.values =
                (migration.run)(std::mem::take(&mut layer.values)).map_err(|why| ConfigError::Migration {
                    key: model.key.clone(),
                    place: layer.place.clone(),
                    from: migration.from.clone(),
                    to: model.version.clone(),
                    why,
                })?;
        }
        let (nameless, unfit): (Vec<Fault>, Vec<Fault>) = known
            .types(&layer.values, Extent::Part)
            .into_iter()
            .partition(|fault| fault.kind == FaultKind::Unknown && !source.refuses_unknown_fields());
        let mut refused = None;
        if !unfit.is_empty() {
            let mut error = Unfit::of(model, &known.migrations, layer.version.clone());
            error.faults = unfit
                .into_iter()
                .map(|fault| {
                    let at = layer_at(&layer, &fault.place);
                    (self.showing(known, fault, &layer.values), at)
                })
                .collect();
            for (fault, _) in &error.faults {
                take_out(&mut layer.values, fault.place.names());
            }
            let error = ConfigError::Unfit(Box::new(error));
            self.metrics.read(source.name(), ReadOutcome::Refused);
            self.health.source_failed(source.name(), &error.to_string());
            refused = Some(error);
        }
        for fault in nameless {
            let at = layer_at(&layer, &fault.place);
            take_out(&mut layer.values, fault.place.names());
            unknown.push(UnknownField { place: fault.place, meant: fault.expected, at });
        }
        let stored = layer.version.clone();
        Ok((Fitting { layer, stored, migrated: migration.is_some() }, refused))
    }

    /// The fault with the value instead of its type, where that may be told.
    fn showing(&self, known: &Known, mut fault: Fault, values: &Document) -> Fault {
        // A name that nobody knows may be a secret's, misspelled.
        let is_known = fault.kind != FaultKind::Unknown;
        let may = self.show_values && is_known && !known.model.touches_secret(&fault.place);
        let Some(value) = may.then(|| value_at(values, &fault.place)).flatten() else { return fault };
        let says_itself = match known.model.root().find(&fault.place) {
            Step::To(place) => place.extension("x-expected").is_some(),
            Step::Open | Step::Unknown => false,
        };
        // What serde says of it stands behind its type.
        let reason = fault.found.strip_prefix(json_type(value)).filter(|_| !says_itself).unwrap_or_default();
        let text = value.to_string();
        fault.found = match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…{reason}", &text[..end]),
            None => format!("{text}{reason}"),
        };
        fault
    }

    /// Everything that is required and nowhere, with every way to set it.
    pub(crate) fn missing(&self, known: &Known, values: &Document) -> Vec<MissingField> {
        let model = &known.model;
        let mut faults = known.types(values, Extent::Whole);
        faults.retain(|fault| fault.kind == FaultKind::Missing);
        faults.sort_by(|one, other| one.place.cmp(&other.place));
        faults
            .into_iter()
            .map(|fault| {
                let described = match model.root().find(&fault.place) {
                    Step::To(place) => place.description().map(str::to_owned),
                    Step::Open | Step::Unknown => None,
                };
                MissingField {
                    key: model.key.clone(),
                    description: described,
                    expected: fault.expected,
                    secret: model.touches_secret(&fault.place),
                    ways: self
                        .sources
                        .iter()
                        .map(|source| source.how_to_set_field(model, &fault.place))
                        .collect(),
                    place: fault.place,
                }
            })
            .collect()
    }

    /// The error for whole values that do not fit, each with where it stands.
    pub(crate) fn unfit(&self, known: &Known, resolution: &Resolution, faults: Vec<Fault>) -> ConfigError {
        let origins = resolution.origins(known);
        let stored = faults.iter().find_map(|fault| resolution.stored(&origins, &fault.place));
        let mut error = Unfit::of(&known.model, &known.migrations, stored);
        error.faults = faults
            .into_iter()
            .map(|fault| {
                let at = resolution.at(&origins, &fault.place);
                (self.showing(known, fault, &resolution.merged.values), at)
            })
            .collect();
        ConfigError::Unfit(Box::new(error))
    }

    /// Fails if something required is missing.
    pub(crate) fn complete(&self, known: &Known, resolution: &Resolution) -> Result<(), ConfigError> {
        let fields = self.missing(known, &resolution.merged.values);
        match fields.is_empty() {
            true => Ok(()),
            false => Err(ConfigError::Missing { fields, away: resolution.away() }),
        }
    }
}

pub(super) fn take_out(values: &mut Document, names: &[String]) {
    let Some((first, rest)) = names.split_first() else { return };
    if rest.is_empty() {
        values.remove(first);
        return;
    }
    let mut here = values.get_mut(first);
    for (at, name) in rest.iter().enumerate() {
        let Some(value) = here else { return };
        if at + 1 == rest.len() {
            if let Some(table) = value.as_object_mut() {
                table.remove(name);
            }
            return;
        }
        here = match value {
            serde_json::Value::Array(items) => name.parse::<usize>().ok().and_then(|at| items.get_mut(at)),
            other => other.get_mut(name),
        };
    }
}
