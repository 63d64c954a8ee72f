//! Why a daemon has no settings, for the person who wrote them.

use std::fmt;

use harmony_config::{ConfigError, error::MissingField, schema::FaultKind};

/// Everything that is wrong with the settings of one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// What is wrong; never empty.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A setting has a value that it cannot have.
    Invalid {
        /// The setting.
        key: String,
        /// What it was set to, as JSON.
        value: String,
        /// What it may be set to.
        expected: String,
        /// Where it was given: `flag --nats-url`.
        at: String,
    },
    /// There is no such setting.
    Unknown {
        /// What was given.
        key: String,
        /// What it may have meant: `did you mean nats-url?`.
        meant: String,
        /// Where it was given.
        at: String,
    },
    /// A setting that is needed is not given.
    Missing {
        /// The setting.
        key: String,
        /// What it is, if its description is to be repeated.
        description: Option<String>,
        /// What it may be set to.
        expected: String,
        /// Every way to set it, the one that wins first.
        ways: Vec<String>,
    },
    /// A source cannot be read, or another fault; it says so itself.
    Other(String),
}

impl std::error::Error for SettingsError {}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.as_slice() {
            [one] => write!(f, "{one}"),
            several => {
                write!(f, "{} settings cannot be used:", several.len())?;
                several.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { key, value, expected, at } => {
                write!(f, "setting `{key}` = {value} ({at}): expected {expected}")
            }
            Self::Unknown { key, meant, at } => write!(f, "there is no setting `{key}` ({at}): {meant}"),
            Self::Missing { key, description, expected, ways } => {
                write!(f, "setting `{key}` is missing")?;
                if let Some(description) = description {
                    write!(f, " ({})", one_line(description))?;
                }
                write!(f, ": expected {expected}; set it by {}", any_of(ways))
            }
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// A doc comment without its breaks and the full stop at its end.
pub(super) fn one_line(description: &str) -> String {
    let text = description.split_whitespace().collect::<Vec<_>>().join(" ");
    text.strip_suffix('.').filter(|rest| !rest.ends_with('.')).map_or(text.clone(), str::to_owned)
}

fn any_of(ways: &[String]) -> String {
    match ways {
        [] => "the settings".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

impl From<ConfigError> for SettingsError {
    fn from(error: ConfigError) -> Self {
        let mut faults = Vec::new();
        add(error, &mut faults);
        Self { faults }
    }
}

fn add(error: ConfigError, faults: &mut Vec<Fault>) {
    match error {
        ConfigError::Several(errors) => errors.into_iter().for_each(|error| add(error, faults)),
        ConfigError::Unfit(unfit) => faults.extend(unfit.faults.into_iter().map(|(fault, at)| {
            let key = fault.place.to_string();
            match fault.kind {
                FaultKind::Unknown => Fault::Unknown { key, meant: fault.expected, at },
                FaultKind::Missing | FaultKind::Unfit => {
                    Fault::Invalid { key, value: fault.found, expected: fault.expected, at }
                }
            }
        })),
        ConfigError::Missing { fields, away } => {
            // Who cannot read a source does not know what is missing.
            match away.is_empty() {
                true => faults.extend(fields.into_iter().map(missing)),
                false => faults.extend(away.into_iter().map(Fault::Other)),
            }
        }
        ConfigError::Source { error, .. } => faults.push(Fault::Other(error.to_string())),
        other => faults.push(Fault::Other(other.to_string())),
    }
}

fn missing(field: MissingField) -> Fault {
    Fault::Missing {
        key: field.place.to_string(),
        description: field.description,
        expected: field.expected,
        ways: field.ways,
    }
}
