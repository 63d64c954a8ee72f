//! Flags of a command line, made of the schema of a daemon's settings: there is no second list of them.
//!
//! Each setting is a flag with its name. Its description is the help text, with the variable and the default; choices,
//! whole numbers and lists are what the schema says. What a flag's text means is for the same rule to say as for a
//! variable, so that a wrong value is told alike, with the flag.

use std::{ffi::OsString, fmt, marker::PhantomData, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Command, FromArgMatches, ValueHint,
    builder::{PossibleValue, PossibleValuesParser},
    value_parser,
};
use harmony_config::{FieldPath, Given, Key, Model, schema::Place};
use serde_json::Value;

use super::{Daemon, Origins, SettingsError, error::one_line, load::load};

/// Which settings are flags of a subcommand.
pub trait Part: 'static {
    /// Whether this one is.
    fn has(key: &str) -> bool;
}

/// All of them.
#[derive(Debug)]
pub struct Whole;

impl Part for Whole {
    fn has(_: &str) -> bool {
        true
    }
}

/// The settings `T` as flags of a command, with `--config` for the file: for `#[command(flatten)]`.
pub struct CommandLine<T, P = Whole> {
    config: Option<PathBuf>,
    given: Given,
    of: PhantomData<fn() -> (T, P)>,
}

impl<T, P> fmt::Debug for CommandLine<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandLine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl<T: Daemon, P: Part> CommandLine<T, P> {
    /// Reads the settings: these flags, over the variables of this process, over the file.
    ///
    /// Not from within an async runtime.
    ///
    /// # Errors
    /// [`SettingsError`] with everything that does not fit, and everything that is missing.
    pub fn load(self) -> Result<(T, Origins), SettingsError> {
        self.load_with(std::env::vars_os())
    }

    /// The same with these variables instead of those of this process.
    ///
    /// # Errors
    /// As [`CommandLine::load`].
    pub fn load_with(
        self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(T, Origins), SettingsError> {
        load(self.given, variables, self.config)
    }
}

impl<T: Daemon, P: Part> clap::Args for CommandLine<T, P> {
    fn augment_args(command: Command) -> Command {
        let usual = T::FILE.map_or_else(String::new, |file| format!(" [default: {file}, if it exists]"));
        let config = Arg::new("config")
            .long("config")
            .env(format!("{}CONFIG", T::PREFIX))
            // As the other flags show it.
            .hide_env(true)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!(
                "Settings file (TOML); its keys are the names of the flags [env: {}CONFIG]{usual}",
                T::PREFIX
            ));
        // That the type is no model is a mistake of the program, which reading the settings tells.
        let Ok(model) = Model::of::<T>() else { return command.arg(config) };
        command.arg(config).args(flags::<P>(&model).map(|(key, place)| flag(T::PREFIX, key, place)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<T: Daemon, P: Part> FromArgMatches for CommandLine<T, P> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Given::new("flags").settable_by(|place| format!("the flag --{place}"));
        if let Ok(model) = Model::of::<T>() {
            for (key, place) in flags::<P>(&model) {
                let texts = matches.try_get_many::<String>(key).ok().flatten();
                if let Some(texts) = texts {
                    let at = FieldPath::root().join(key);
                    given = with(given, &model.key, at, meant(place, texts), key);
                }
            }
        }
        Ok(Self { config: matches.get_one("config").cloned(), given, of: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn with(given: Given, model: &Key, at: FieldPath, value: Value, key: &str) -> Given {
    given.with(model.clone(), at, value, &format!("flag --{key}"))
}

/// Tables have no flags: they stand in the file, or in the environment as JSON.
fn flags<P: Part>(model: &Model) -> impl Iterator<Item = (&str, Place<'_>)> {
    let fields = model.root().fields().into_iter();
    fields.filter(|(key, place)| P::has(key) && !place.types().contains(&"object"))
}

fn is_list(place: Place<'_>) -> bool {
    place.types().contains(&"array")
}

/// The value that the texts of a flag mean; those of a list add up.
fn meant<'t>(place: Place<'_>, texts: impl DoubleEndedIterator<Item = &'t String>) -> Value {
    let mut values = texts.map(|text| place.read_text(text));
    if !is_list(place) {
        return values.next_back().unwrap_or_default();
    }
    let items = values.flat_map(|value| match value {
        Value::Array(items) => items,
        other => vec![other],
    });
    items.collect()
}

fn flag(prefix: &str, key: &str, place: Place<'_>) -> Arg {
    let name = value_name(key, place);
    // For completion in shells.
    let hint = match name.as_str() {
        "FILE" | "FILES" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        "URL" => ValueHint::Url,
        _ => ValueHint::Unknown,
    };
    let flag = Arg::new(key.to_owned())
        .long(key.to_owned())
        .value_name(name)
        .value_hint(hint)
        .help(help(prefix, key, place));
    if is_list(place) {
        return flag.action(ArgAction::Append);
    }
    if place.types().contains(&"boolean") {
        let yes_or_no = PossibleValuesParser::new(["true", "false"]);
        return flag.num_args(0..=1).default_missing_value("true").value_parser(yes_or_no);
    }
    match choices(place) {
        choices if choices.is_empty() => flag.value_parser(value_parser!(String)),
        choices => flag.value_parser(PossibleValuesParser::new(choices)),
    }
}

fn choices(place: Place<'_>) -> Vec<PossibleValue> {
    let one = |value: &Value, description: Option<&str>| {
        let choice = PossibleValue::new(value.as_str()?.to_owned());
        Some(match description {
            Some(description) => choice.help(one_line(description)),
            None => choice,
        })
    };
    let alternatives = place.alternatives();
    let described = alternatives.iter().flat_map(|alternative| {
        let values = alternative.choices().unwrap_or_default();
        values.into_iter().filter_map(|value| one(value, alternative.description()))
    });
    match alternatives.is_empty() {
        true => {
            place.choices().unwrap_or_default().into_iter().filter_map(|value| one(value, None)).collect()
        }
        false => described.collect(),
    }
}

/// What the schema calls it, else the last word of its key: `--nats-ca-file <FILE>`.
fn value_name(key: &str, place: Place<'_>) -> String {
    let types = place.types();
    let named = [Some(place), place.items()]
        .into_iter()
        .flatten()
        .find_map(|place| place.extension("x-value-name")?.as_str());
    match named {
        Some(name) => name.to_owned(),
        None if types.contains(&"boolean") => "BOOL".to_owned(),
        None if types.contains(&"integer") => "NUMBER".to_owned(),
        None => key.rsplit('-').next().unwrap_or(key).to_uppercase(),
    }
}

fn help(prefix: &str, key: &str, place: Place<'_>) -> String {
    let description = one_line(place.description().unwrap_or_default());
    let variable = format!("{prefix}{}", key.replace('-', "_").to_uppercase());
    let default = match place.default_value() {
        Some(Value::Null) | None => String::new(),
        Some(Value::String(text)) => format!(" [default: {text}]"),
        Some(Value::Array(items)) if items.is_empty() => String::new(),
        Some(other) => format!(" [default: {other}]"),
    };
    format!("{description} [env: {variable}]{default}")
}
