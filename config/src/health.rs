//! How a chain does: the payload of a health endpoint, and what it is made of.
//!
//! Has names, versions and reasons, never values. State is kept here so that each change of it is logged once, and not
//! with each read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    chain::{Answer, Known, Resolution},
    error::ConfigError,
    key::Key,
    model::SchemaVersion,
};

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All sources answer, all values fit.
    Ok,
    /// The values are good, but something needs a person: a source is away, the last known good is in use, unknown
    /// fields stand somewhere.
    Degraded,
    /// Some values cannot be had.
    Failing,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceHealth {
    /// Its name.
    pub name: String,
    /// Whether it answered when it was asked last; `None` if it never was.
    pub answers: Option<bool>,
    /// Since when that is so.
    pub since: Option<Timestamp>,
    /// How it encrypts, if it keeps anything.
    pub encryption: Option<String>,
    /// Its last error, which may be over.
    pub last_error: Option<LastError>,
    /// What it says of itself.
    pub condition: Condition,
}

/// What a source says of itself: names and reasons, never values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What needs a person, though the source answers. The report is `degraded` with it.
    pub problem: Option<Problem>,
    /// Facts, by name: `epoch`, `signed_by`, `backup_line`.
    pub facts: BTreeMap<&'static str, String>,
}

/// What needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// In one word, as in metrics: `replayed`.
    pub reason: String,
    /// For people, with what to do.
    pub text: String,
}

/// An error, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// Its text.
    pub text: String,
    /// When.
    pub at: Timestamp,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelHealth {
    /// Its key.
    pub key: Key,
    /// Version of this program's schema.
    pub schema_version: SchemaVersion,
    /// Other versions under which a source keeps values that still fit, or were migrated.
    pub stored_versions: BTreeSet<SchemaVersion>,
    /// When it was read last.
    pub read_at: Option<Timestamp>,
    /// Seconds since then.
    pub age_seconds: Option<i64>,
    /// Sources for which the last known good values stand in.
    pub last_known_good_for: BTreeSet<String>,
    /// Fields that a source has and the model does not: (field, where).
    pub unknown_fields: Vec<(String, String)>,
    /// Why it cannot be had now, or why a change was not taken.
    pub error: Option<LastError>,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// In one word.
    pub status: Status,
    /// Number of changes of settings that this process took, from 0. Stands in log lines as `config_epoch`.
    pub epoch: u64,
    /// The chain, the source that wins first.
    pub sources: Vec<SourceHealth>,
    /// The models that were asked for.
    pub models: Vec<ModelHealth>,
    /// Whether last known good values are in use anywhere.
    pub last_known_good_in_use: bool,
    /// Why last known good values could not be kept or used.
    pub last_known_good_error: Option<LastError>,
    /// The newest of all errors.
    pub last_error: Option<LastError>,
}

#[derive(Debug, Default)]
struct State {
    sources: BTreeMap<String, SourceState>,
    models: BTreeMap<Key, ModelState>,
    last_known_good_error: Option<LastError>,
    /// Stays until the process ends: somebody has to look into it.
    last_known_good_refused: Option<LastError>,
}

#[derive(Debug, Default)]
struct SourceState {
    answers: Option<bool>,
    since: Option<Timestamp>,
    last_error: Option<LastError>,
    /// Keys for which the last known good stands in.
    fallback: BTreeSet<Key>,
}

#[derive(Debug)]
struct ModelState {
    version: SchemaVersion,
    stored: BTreeSet<SchemaVersion>,
    read_at: Option<Timestamp>,
    unknown: Vec<(String, String)>,
    error: Option<LastError>,
}

impl State {
    fn model(&mut self, known: &Known) -> &mut ModelState {
        self.models.entry(known.model.key.clone()).or_insert_with(|| ModelState {
            version: known.model.version.clone(),
            stored: BTreeSet::new(),
            read_at: None,
            unknown: Vec::new(),
            error: None,
        })
    }
}

/// What is known of sources and models by now.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    state: Mutex<State>,
}

fn now(text: &str) -> LastError {
    LastError { text: text.to_owned(), at: Timestamp::now() }
}

impl Observed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turned(&self, source: &str, answers: bool) -> bool {
        let mut state = self.state();
        if !state.sources.contains_key(source) {
            state.sources.insert(source.to_owned(), SourceState::default());
        }
        let Some(source) = state.sources.get_mut(source) else { return false };
        if source.answers == Some(answers) {
            return false;
        }
        let before = source.answers.replace(answers);
        source.since = Some(Timestamp::now());
        before.is_some() || !answers
    }

    /// The source answered; whether that is news after it did not.
    pub fn source_answered(&self, source: &str) -> bool {
        self.turned(source, true)
    }

    /// The source could not be asked; whether that is news.
    pub fn source_away(&self, source: &str, why: &str) -> bool {
        let news = self.turned(source, false);
        self.source_failed(source, why);
        news
    }

    /// The source has something that cannot be used, or did not keep something.
    pub fn source_failed(&self, source: &str, why: &str) {
        self.state().sources.entry(source.to_owned()).or_default().last_error = Some(now(why));
    }

    /// The last known good stands in; whether that is news.
    pub fn fell_back(&self, source: &str, key: &Key) -> bool {
        self.state().sources.entry(source.to_owned()).or_default().fallback.insert(key.clone())
    }

    /// The last known good could not be kept or used; whether that is news.
    pub fn last_known_good_failed(&self, why: &str) -> bool {
        let mut state = self.state();
        let news = state.last_known_good_error.as_ref().is_none_or(|known| known.text != why);
        state.last_known_good_error = Some(now(why));
        news
    }

    /// The last-known-good file was tampered with, and is not used.
    pub fn last_known_good_refused(&self, why: &str) {
        self.state().last_known_good_refused = Some(now(why));
    }

    /// The last known good works.
    pub fn last_known_good_works(&self) {
        self.state().last_known_good_error = None;
    }

    /// The chain was asked. Unknown fields that are news are logged.
    pub fn asked(&self, known: &Known, resolution: &Resolution) {
        let key = &known.model.key;
        let mut state = self.state();
        let mut stored = BTreeSet::new();
        for asked in &resolution.asked {
            if let Answer::Gave { stored: Some(version), .. } = &asked.answer
                && *version != known.model.version
            {
                stored.insert(version.clone());
            }
            if !matches!(asked.answer, Answer::LastKnownGood { .. } | Answer::NotAsked)
                && let Some(source) = state.sources.get_mut(asked.source.name())
            {
                source.fallback.remove(key);
            }
        }
        let unknown: Vec<_> =
            resolution.unknown.iter().map(|field| (field.place.to_string(), field.at.clone())).collect();
        let model = state.model(known);
        let news: Vec<_> = resolution
            .unknown
            .iter()
            .filter(|field| !model.unknown.contains(&(field.place.to_string(), field.at.clone())))
            .collect();
        for field in news {
            tracing::warn!(field = %field.place, at = %field.at, "not used: the model has no such field ({})", field.meant);
        }
        for version in stored.difference(&model.stored) {
            tracing::info!(%key, stored = %version, current = %model.version, "values are stored under another schema");
        }
        model.stored = stored;
        model.unknown = unknown;
        model.read_at = Some(Timestamp::now());
    }

    /// The model is there, or not. What is news is logged.
    pub fn model(&self, known: &Known, error: Option<&ConfigError>) {
        let error = error.map(|error| (error.reason(), now(&error.to_string())));
        let mut state = self.state();
        let model = state.model(known);
        match (&model.error, &error) {
            (before, Some((reason, now))) if before.as_ref().is_none_or(|before| before.text != now.text) => {
                tracing::warn!(reason, "no good settings: {}", now.text);
            }
            (Some(_), None) => tracing::info!("the settings are good again"),
            _ => {}
        }
        model.error = error.map(|(_, error)| error);
    }

    /// The report.
    pub fn report(&self, sources: &[std::sync::Arc<dyn crate::source::Source>], epoch: u64) -> Health {
        let state = self.state();
        let sources: Vec<_> = sources
            .iter()
            .map(|source| {
                let known = state.sources.get(source.name());
                SourceHealth {
                    name: source.name().to_owned(),
                    answers: known.and_then(|known| known.answers),
                    since: known.and_then(|known| known.since),
                    encryption: source.encryption(),
                    last_error: known.and_then(|known| known.last_error.clone()),
                    condition: source.condition(),
                }
            })
            .collect();
        let models: Vec<_> = state
            .models
            .iter()
            .map(|(key, model)| ModelHealth {
                key: key.clone(),
                schema_version: model.version.clone(),
                stored_versions: model.stored.clone(),
                read_at: model.read_at,
                age_seconds: model.read_at.map(|at| Timestamp::now().as_second() - at.as_second()),
                last_known_good_for: state
                    .sources
                    .iter()
                    .filter(|(_, source)| source.fallback.contains(key))
                    .map(|(name, _)| name.clone())
                    .collect(),
                unknown_fields: model.unknown.clone(),
                error: model.error.clone(),
            })
            .collect();
        let last_known_good_error =
            state.last_known_good_error.clone().or_else(|| state.last_known_good_refused.clone());
        let last_known_good_in_use = models.iter().any(|model| !model.last_known_good_for.is_empty());
        let degraded = last_known_good_in_use
            || last_known_good_error.is_some()
            || sources
                .iter()
                .any(|source| source.answers == Some(false) || source.condition.problem.is_some())
            || models.iter().any(|model| !model.unknown_fields.is_empty());
        let status = match (models.iter().any(|model| model.error.is_some()), degraded) {
            (true, _) => Status::Failing,
            (false, true) => Status::Degraded,
            (false, false) => Status::Ok,
        };
        let last_error = sources
            .iter()
            .filter_map(|source| source.last_error.as_ref())
            .chain(models.iter().filter_map(|model| model.error.as_ref()))
            .chain(&last_known_good_error)
            .max_by_key(|error| error.at)
            .cloned();
        Health { status, epoch, sources, models, last_known_good_in_use, last_known_good_error, last_error }
    }
}
