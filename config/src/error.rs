//! Why a program has no settings: [`ConfigError`], whose text is for the person who has to put it right.
//!
//! It names field, source, expectation, the type that was found, the version under which it was stored, and how to go
//! on; never a value.

use std::fmt;

use crate::{
    key::{FieldPath, Key},
    model::{Migration, Model, ModelError, SchemaVersion},
    schema::Fault,
    source::SourceError,
};

/// A required value that no source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingField {
    /// Of which model.
    pub key: Key,
    /// Which field.
    pub place: FieldPath,
    /// What its doc comment says.
    pub description: Option<String>,
    /// What belongs there.
    pub expected: String,
    /// Whether it is secret.
    pub secret: bool,
    /// Every way to set it, the one that wins first.
    pub ways: Vec<String>,
}

impl fmt::Display for MissingField {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.key, self.place)?;
        if let Some(description) = &self.description {
            write!(out, ": {}", description.lines().map(str::trim).collect::<Vec<_>>().join(" "))?;
        }
        write!(out, " (expected {}{})", self.expected, if self.secret { ", secret" } else { "" })?;
        for way in &self.ways {
            write!(out, "\n    set it by {way}")?;
        }
        Ok(())
    }
}

/// Values that do not fit the model, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// The model.
    pub key: Key,
    /// What is wrong, each with the place where the value stands: (fault, `file /etc/x/Vlan.toml`).
    pub faults: Vec<(Fault, String)>,
    /// Version under which they were stored, where the source knows it.
    pub stored: Option<SchemaVersion>,
    /// Version that this program has.
    pub current: SchemaVersion,
    /// Versions that this program can migrate from.
    pub migrations: Vec<SchemaVersion>,
}

impl Unfit {
    pub(crate) fn of(model: &Model, migrations: &[Migration], stored: Option<SchemaVersion>) -> Self {
        Self {
            key: model.key.clone(),
            faults: Vec::new(),
            stored,
            current: model.version.clone(),
            migrations: migrations.iter().map(|migration| migration.from.clone()).collect(),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} has values that do not fit:", self.key)?;
        for (fault, place) in &self.faults {
            write!(out, "\n    {fault}; in {place}")?;
        }
        match &self.stored {
            Some(stored) if *stored != self.current => {
                write!(
                    out,
                    "\n  They were stored under schema {stored}; this program has schema {}. ",
                    self.current
                )?;
                match self.migrations.contains(stored) {
                    true => write!(
                        out,
                        "Its migration from {stored} leaves them so: correct that function, or set the values again"
                    ),
                    false => write!(
                        out,
                        "To migrate: set the values again (or delete them), or give the model \
                         #[config(migrate_from(\"{stored}\", function))]"
                    ),
                }
            }
            Some(stored) => write!(
                out,
                "\n  They were stored under schema {stored}, which this program has: set the values again"
            ),
            None => write!(out, "\n  This program has schema {}. Correct the values there", self.current),
        }
    }
}

/// Why settings could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The type is no model: a mistake of the program.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Required values that no source has, all at once.
    #[error("{}", missing(fields, away))]
    Missing {
        /// The values.
        fields: Vec<MissingField>,
        /// Sources that could not be asked, and why: the values may be there.
        away: Vec<String>,
    },
    /// Values do not fit the model. Boxed: errors are returned by value.
    #[error("{0}")]
    Unfit(Box<Unfit>),
    /// Several models cannot be had; all of them.
    #[error("{}", several(.0))]
    Several(Vec<ConfigError>),
    /// A source has something that must not be passed over, or did not keep what it was told to.
    #[error("{key}: {error}")]
    Source {
        /// The model.
        key: Key,
        /// What the source says. Part of this error's text, so not its source.
        error: SourceError,
    },
    /// A migration says that it cannot.
    #[error(
        "{key} in {place} was stored under schema {from}, and its migration to {to} says: {why}. Set the values again, \
         or correct the migration"
    )]
    Migration {
        /// The model.
        key: Key,
        /// Where the values stand.
        place: String,
        /// Under which they were stored.
        from: SchemaVersion,
        /// That of this program.
        to: SchemaVersion,
        /// What the function says.
        why: String,
    },
    /// No source of the chain keeps what is set.
    #[error(
        "{key} cannot be kept: none of the sources ({sources}) keeps what is set. Add a database or a store to the \
         chain, or set the values where they come from"
    )]
    NowhereToKeep {
        /// The model.
        key: Key,
        /// Names of the sources.
        sources: String,
    },
    /// No source of that name.
    #[error("there is no source {name:?}; this program has {sources}")]
    NoSuchSource {
        /// What was asked for.
        name: String,
        /// Names of the sources.
        sources: String,
    },
    /// A model that this program does not have.
    #[error(
        "this program has no settings {key:?}; it has {known}. Check the name, or register the model first"
    )]
    NoSuchModel {
        /// What was asked for.
        key: String,
        /// Keys of the known models.
        known: String,
    },
    /// The values cannot be written as JSON.
    #[error(
        "{key} cannot be written as JSON: {why}. Every field has to be text, number, list or table under a name"
    )]
    NotJson {
        /// The model.
        key: Key,
        /// What serde says.
        why: String,
    },
    /// A person could not be asked.
    #[error("{key} is incomplete, and nobody could be asked: {why}")]
    Prompt {
        /// The model.
        key: Key,
        /// Why, and what to do.
        why: String,
    },
    /// What is to be imported, as a whole, is not an export.
    #[error("this is no export of settings: {why}. Nothing was changed")]
    Import {
        /// What is wrong.
        why: String,
    },
    /// Keys or folder of the database cannot be had.
    #[error("settings cannot be kept in {folder}: {why}", folder = folder.display())]
    Local {
        /// The folder.
        folder: std::path::PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The global manager is asked for before it was made.
    #[error(
        "there is no global manager of settings yet: call harmony_config::init first, once, at the start"
    )]
    NotInitialised,
    /// The global manager is made twice.
    #[error("there already is a global manager of settings: call harmony_config::init once, at the start")]
    AlreadyInitialised,
}

fn missing(fields: &[MissingField], away: &[String]) -> String {
    let mut text = match fields.len() {
        1 => "a required setting is missing:".to_owned(),
        many => format!("{many} required settings are missing:"),
    };
    for field in fields {
        text.push_str(&format!("\n  {field}"));
    }
    for source in away {
        text.push_str(&format!("\n  Not asked, the values may be there: {source}"));
    }
    text
}

fn several(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl ConfigError {
    /// Short word for metrics and the health report.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Model(_) => "model",
            Self::Missing { .. } => "missing",
            Self::Unfit(_) => "unfit",
            Self::Several(_) => "several",
            Self::Source { .. } => "source",
            Self::Migration { .. } => "migration",
            Self::NowhereToKeep { .. } => "nowhere_to_keep",
            Self::NoSuchSource { .. } => "no_such_source",
            Self::NoSuchModel { .. } => "no_such_model",
            Self::NotJson { .. } => "not_json",
            Self::Prompt { .. } => "prompt",
            Self::Import { .. } => "import",
            Self::Local { .. } => "local",
            Self::NotInitialised | Self::AlreadyInitialised => "global",
        }
    }
}
