//! Where values come from: the [`Source`] trait, what it gives, and how it fails.
//!
//! A source knows nothing of the others; which one wins is the manager's business. The order of the chain is the
//! order in which the manager was given them: the first that has a field wins it.

pub mod environment;
pub mod file;
pub mod given;
pub mod prompt;

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::{Map, Value};

use crate::{
    health::Condition,
    key::{Actor, FieldPath},
    metrics::Metrics,
    model::{Model, SchemaVersion},
};

/// Values of a model, whole or in part, as JSON.
pub type Document = Map<String, Value>;

/// Puts a value at a place, with the tables around it. `false`, and nothing done, if the place is the whole or lies in
/// something that is no table.
pub fn put(values: &mut Document, place: &FieldPath, value: Value) -> bool {
    let Some((last, parents)) = place.names().split_last() else { return false };
    let mut table = values;
    for name in parents {
        let inner = table.entry(name.clone()).or_insert_with(|| Value::Object(Document::new()));
        let Some(inner) = inner.as_object_mut() else { return false };
        table = inner;
    }
    table.insert(last.clone(), value);
    true
}

/// The value at a place.
#[must_use]
pub fn value_at<'v>(values: &'v Document, place: &FieldPath) -> Option<&'v Value> {
    let (first, rest) = place.names().split_first()?;
    rest.iter().try_fold(values.get(first)?, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

/// What one source has for one model.
#[derive(Clone, PartialEq)]
pub struct Layer {
    /// The values. Secrets are plain here: a layer lives in memory only.
    pub values: Document,
    /// Where they stand, for people: `file /etc/x/Vlan.toml`, `database …/config.db, item Vlan`.
    pub place: String,
    /// Where single fields stand, if not there: `variable HARMONY_CONFIG_Vlan__id`.
    pub fields: BTreeMap<FieldPath, String>,
    /// Version of the schema under which they were written, where the source keeps it.
    pub version: Option<SchemaVersion>,
    /// Grows with every write to that source, where it counts: what a later write may expect.
    pub revision: Option<u64>,
}

// Values may be secret, and what is secret is the model's knowledge: none is shown.
impl fmt::Debug for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Layer")
            .field("values", &self.values.keys().collect::<Vec<_>>())
            .field("place", &self.place)
            .field("version", &self.version)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// A write: the whole of a model's values in that source.
pub struct Change<'a> {
    /// All values that the source shall have; what is not in it is removed.
    pub values: &'a Document,
    /// Who wants it.
    pub actor: &'a Actor,
    /// The revision that this write replaces: `Some(0)` for "there is none yet", `None` for "whatever is there".
    pub expected: Option<u64>,
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Change")
            .field("values", &self.values.keys().collect::<Vec<_>>())
            .field("actor", self.actor)
            .field("expected", &self.expected)
            .finish()
    }
}

/// One place that has values.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Short, stable, lower-case, no other source's in the chain; stands in messages, metrics and `explain`: `environment`, `file`, `sqlite`.
    fn name(&self) -> &str;

    /// How a person sets this model here, in one line: `the variable HARMONY_CONFIG_Vlan`.
    fn how_to_set(&self, model: &Model) -> String;

    /// How a person sets one field here, in one line: `the variable HARMONY_CONFIG_Vlan__ID`.
    fn how_to_set_field(&self, model: &Model, place: &FieldPath) -> String {
        let _ = place;
        self.how_to_set(model)
    }

    /// Whether values that a person typed may be kept here.
    fn should_persist(&self) -> bool {
        false
    }

    /// Whether what it last gave may stand in for it, read-only, while it cannot be asked. For sources that can be
    /// away (a database, a store); not for those whose absence is an answer (a variable, a file).
    fn keep_last_known_good(&self) -> bool {
        false
    }

    /// Whether a field that the model does not have is an error here, and not only reported: where a person writes for
    /// this program alone, so that it is a slip.
    fn refuses_unknown_fields(&self) -> bool {
        false
    }

    /// How secrets are kept here, for the health report: `AES-256-GCM, key 3`. `None` if nothing is kept.
    fn encryption(&self) -> Option<String> {
        None
    }

    /// What it says of itself in the health report, besides whether it answers. Asked with each report: from memory.
    fn condition(&self) -> Condition {
        Condition::default()
    }

    /// The time after which it gives up by itself, with an error that says what had no answer. The manager waits longer
    /// than that. `None`: it knows no such time.
    fn answers_within(&self) -> Option<Duration> {
        None
    }

    /// Called when it becomes part of a chain. A source that finds things out by itself (a refused update) counts
    /// them there.
    fn count_in(&self, metrics: &Metrics) {
        let _ = metrics;
    }

    /// Called before secrets at `places` that this source gave are shown to a person. A source with an audit log
    /// writes its line; nothing is shown unless this succeeds.
    ///
    /// # Errors
    /// [`SourceError::Audit`] if the line cannot be written.
    async fn reveal(&self, model: &Model, places: &[FieldPath], actor: &Actor) -> Result<(), SourceError> {
        let _ = (model, places, actor);
        Ok(())
    }

    /// What it has; `None` if it has nothing for this model.
    ///
    /// # Errors
    /// See [`SourceError`]; bounded in time by the source itself.
    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError>;

    /// Keeps values, durably before it returns. Gives the new revision.
    ///
    /// # Errors
    /// [`SourceError::ReadOnly`] where nothing can be kept; else see [`SourceError`].
    async fn write(&self, model: &Model, change: Change<'_>) -> Result<u64, SourceError> {
        let _ = (model, change);
        Err(SourceError::ReadOnly { name: self.name().to_owned() })
    }

    /// Removes what it has for the model; whether there was something.
    ///
    /// # Errors
    /// As [`Source::write`].
    async fn delete(&self, model: &Model, actor: &Actor) -> Result<bool, SourceError> {
        let _ = (model, actor);
        Err(SourceError::ReadOnly { name: self.name().to_owned() })
    }

    /// Ticks when the values may have changed; the manager then reads again. `None` if it cannot tell.
    fn changes(&self, model: &Model) -> Option<BoxStream<'static, ()>> {
        let _ = model;
        None
    }
}

/// Why a source gave or kept nothing.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be reached, or did not answer in time. The chain goes on without it, visibly.
    #[error("{name} cannot be reached: {why}. {hint}")]
    Unavailable {
        /// The source.
        name: String,
        /// What happened.
        why: String,
        /// What to look at.
        hint: String,
    },
    /// It refuses. The chain goes on without it, visibly.
    #[error("{name} refuses access to {place}: {why}. {hint}")]
    Denied {
        /// The source.
        name: String,
        /// What was asked for.
        place: String,
        /// Its answer.
        why: String,
        /// What to look at.
        hint: String,
    },
    /// What stands there cannot be read. The chain stops: to skip it would silently use another value.
    #[error("{place} cannot be understood: {why}. {hint}")]
    Malformed {
        /// The file, variable, row or path.
        place: String,
        /// What is wrong, never a value.
        why: String,
        /// What to do.
        hint: String,
    },
    /// A seal, signature or chain does not hold: somebody changed it, or the key is another.
    #[error("{place} was changed outside of this library, or belongs to other keys: {why}. {hint}")]
    Tampered {
        /// The file, row or path.
        place: String,
        /// Which check failed.
        why: String,
        /// What to do.
        hint: String,
    },
    /// It keeps nothing.
    #[error("{name} is read-only: set the value where it comes from, or choose another source")]
    ReadOnly {
        /// The source.
        name: String,
    },
    /// Somebody else wrote in between.
    #[error(
        "{place} was written by somebody else: this change was made for revision {expected}, and it is at {found}. \
         Read it again and repeat the change"
    )]
    Conflict {
        /// The row or path.
        place: String,
        /// What the change replaces.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// More than it takes.
    #[error(
        "{place} takes at most {limit} bytes, and this is {size}. Keep large files elsewhere and their path here"
    )]
    TooLarge {
        /// The row or path.
        place: String,
        /// Bytes.
        size: usize,
        /// Bytes.
        limit: usize,
    },
    /// The audit line could not be written, so nothing was done.
    #[error("nothing was done, since its line in the audit log could not be written: {why}. {hint}")]
    Audit {
        /// What happened.
        why: String,
        /// What to look at.
        hint: String,
    },
}

impl SourceError {
    /// Whether the chain goes on without this source (and takes its last known good values, where they are kept).
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Denied { .. })
    }
}
