//! Reads the settings of a daemon from all its sources, once, before anything else runs.

use std::{ffi::OsString, path::PathBuf};

use harmony_config::{Config, ConfigManager, Environment, File, Given, Model, chain::Answer};

use super::{
    checks::Origins,
    error::{Fault, SettingsError},
};

/// The settings of a process: the one definition, of which flags, variables and keys of the file are made.
pub trait Daemon: Config {
    /// What the names of its variables begin with: `VK_NATS_`.
    const PREFIX: &'static str;
    /// The file that is read when none is named, if it exists.
    const FILE: Option<&'static str> = None;
}

fn in_a_file(key: &str) -> String {
    format!("{key} in a file that --config names")
}

/// Flags over variables over the file.
pub(super) fn load<T: Daemon>(
    flags: Given,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    file: Option<PathBuf>,
) -> Result<(T, Origins), SettingsError> {
    // It names the file, and is no setting in it.
    let config = format!("{}CONFIG", T::PREFIX);
    let variables = variables.into_iter().filter(|(name, _)| *name != *config);
    let mut chain = ConfigManager::builder()
        .show_values()
        .source(flags)
        .source(Environment::flat(T::PREFIX).with_variables(variables));
    let has_file = file.is_some() || T::FILE.is_some();
    if let Some(file) = file {
        chain = chain.source(File::named(file).strict());
    } else if let Some(usual) = T::FILE {
        chain = chain.source(File::usual_at(usual).strict());
    }
    let chain = chain.build();
    let other = |error: String| SettingsError { faults: vec![Fault::Other(error)] };
    let model = Model::of::<T>().map_err(|error| other(error.to_string()))?;
    // For the patience with sources; none of these needs a network.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|error| other(format!("the settings cannot be read: no async runtime: {error}")))?;
    let got = runtime.block_on(chain.get_explained::<T>());
    let (settings, explanation) = got.map_err(|error| {
        let mut error = SettingsError::from(error);
        for fault in error.faults.iter_mut().filter(|_| !has_file) {
            if let Fault::Missing { key, ways, .. } = fault {
                ways.push(in_a_file(key));
            }
        }
        error
    })?;
    // A library goes on without a source that is away. A daemon whose file may not be read would run with defaults.
    let away: Vec<_> = explanation
        .sources
        .iter()
        .filter_map(|(_, answer)| match answer {
            Answer::Away { why } => Some(Fault::Other(why.clone())),
            _ => None,
        })
        .collect();
    match away.is_empty() {
        true => {
            let further = (!has_file).then_some(in_a_file as fn(&str) -> String);
            Ok((settings, Origins::of(&explanation, &model, &chain, further)))
        }
        false => Err(SettingsError { faults: away }),
    }
}
