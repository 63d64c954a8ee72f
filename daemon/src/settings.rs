//! Settings: a TOML file, overridden by the environment, overridden by flags.
//!
//! A process describes its settings once, as a `clap::Args` struct whose fields are all `Option`, with
//! `#[arg(long, env = "…")]` and serde's `kebab-case` names. clap merges flags and environment; [`merge`]
//! puts the file below them. What was found is then turned into typed values with [`required`] and
//! [`parse`], so that a wrong setting ends the process at its start and says which, what and why.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{
    Deserialize, Serialize,
    de::{DeserializeOwned, Deserializer, Visitor},
    forward_to_deserialize_any,
};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("the settings file {file} cannot be read", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the settings file {file} is not TOML: {message}", file = file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The file has a key that does not exist.
    #[error("the settings file {file} has an unknown key `{key}`; {}", suggestion(nearest, known), file = file.display())]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The known key that looks most like it, if any does.
        nearest: Option<String>,
        /// All known keys.
        known: Vec<String>,
    },
    /// A setting has a value that it cannot have.
    #[error("setting `{key}` = {value}: expected {expected}")]
    Invalid {
        /// The setting.
        key: String,
        /// What it was set to.
        value: String,
        /// What it may be set to.
        expected: String,
    },
    /// A setting without a default is not set.
    #[error("setting `{key}` is missing: expected {expected}; {how}")]
    Missing {
        /// The setting.
        key: String,
        /// What it may be set to.
        expected: String,
        /// How it is set.
        how: String,
    },
    /// The flags cannot be brought into the file's form: a fault of the program.
    #[error("the flags cannot be merged with the settings file: {0}")]
    Flags(String),
}

fn suggestion(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("known keys are {}", known.join(", ")),
    }
}

/// The settings of a file below those of flags and environment, which `flags` holds already merged.
///
/// Without a file the result is `flags`. A key that `T` does not know, and a value of a wrong type, are
/// errors that name the key.
pub fn merge<T: Serialize + DeserializeOwned>(file: Option<&Path>, flags: T) -> Result<T, SettingsError> {
    let Some(file) = file else { return Ok(flags) };
    let text = std::fs::read_to_string(file)
        .map_err(|source| SettingsError::Read { file: file.to_owned(), source })?;
    let mut table: toml::Table = toml::from_str(&text).map_err(|error| SettingsError::Syntax {
        file: file.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })?;
    check_keys::<T>(file, &table)?;
    check_values::<T>(&table)?;
    let flags = toml::Table::try_from(flags).map_err(|error| SettingsError::Flags(error.to_string()))?;
    table.extend(flags);
    toml::Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| SettingsError::Flags(error.to_string()))
}

/// The value of a setting that has no default.
pub fn required<T>(key: &str, value: Option<T>, expected: &str) -> Result<T, SettingsError> {
    value.ok_or_else(|| SettingsError::Missing {
        key: key.to_owned(),
        expected: expected.to_owned(),
        how: format!("set `{key}` in the settings file, or pass --{key}"),
    })
}

/// A setting's text as the type that it stands for.
pub fn parse<T: FromStr>(key: &str, value: &str, expected: &str) -> Result<T, SettingsError> {
    value.parse().map_err(|_| invalid(key, value, expected))
}

/// The error for a value that parses but cannot be used, e.g. because it is out of bounds.
pub fn invalid(key: &str, value: impl fmt::Display, expected: &str) -> SettingsError {
    SettingsError::Invalid {
        key: key.to_owned(),
        value: format!("\"{value}\""),
        expected: expected.to_owned(),
    }
}

fn check_keys<T: DeserializeOwned>(file: &Path, table: &toml::Table) -> Result<(), SettingsError> {
    let known = known_keys::<T>();
    // A type that is not a plain struct does not tell its keys; its own deserializer judges then.
    if known.is_empty() {
        return Ok(());
    }
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(SettingsError::Unknown {
            file: file.to_owned(),
            key: key.clone(),
            nearest: nearest(key, known).map(str::to_owned),
            known: known.iter().map(|key| (*key).to_owned()).collect(),
        }),
    }
}

/// Reads each key alone, so that an error can name it.
fn check_values<T: DeserializeOwned>(table: &toml::Table) -> Result<(), SettingsError> {
    for (key, value) in table {
        let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = T::deserialize(toml::Value::Table(alone)) {
            return Err(SettingsError::Invalid {
                key: key.clone(),
                value: value.to_string(),
                expected: expectation(error.message()),
            });
        }
    }
    Ok(())
}

/// serde says `invalid type: string "x", expected u32`; the value is shown already.
fn expectation(message: &str) -> String {
    match message.rsplit_once("expected ") {
        Some((_, expected)) => expected.lines().next().unwrap_or(expected).to_owned(),
        None => format!("another value ({message})"),
    }
}

/// The key with the smallest edit distance, if it is small enough to be a slip.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let key = key.replace('_', "-").to_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&key, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

/// The field names that `T`'s derived `Deserialize` asks for.
fn known_keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // It always fails: it was only to say what it would read.
    let _ = T::deserialize(AskFields(&mut fields));
    fields
}

/// A deserializer that holds nothing and notes which fields were asked for.
struct AskFields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for AskFields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only a struct has keys"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(serde::de::Error::custom("fields noted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A duration in whole seconds as settings give it, e.g. `heartbeat-interval = 10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl FromStr for Seconds {
    type Err = std::num::ParseIntError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        value.strip_suffix('s').unwrap_or(value).parse().map(Self)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl From<Seconds> for std::time::Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0)
    }
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
