//! Log lines: to stderr, as text for people or as JSON for collectors.

use std::{fmt, io::IsTerminal as _, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Form of the log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text each; colours on terminals only.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// Which lines are written: a level (`info`), or a list of `target=level` with one default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for LogLevel {
    type Err = TelemetryError;

    fn from_str(level: &str) -> Result<Self, TelemetryError> {
        filter(level).map(|_| Self(level.to_owned()))
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

crate::text_setting!(
    LogLevel,
    "LEVEL",
    "off, error, warn, info, debug or trace, or a list such as info,device_kubelet=debug"
);

/// Why logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is neither a level nor a list of `target=level`.
    #[error(
        "setting `log-level` = {level:?}: expected off, error, warn, info, debug or trace, or a list such as `info,device_kubelet=debug`"
    )]
    Level {
        /// What was given.
        level: String,
    },
    /// Logging was set up before in this process.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets up logging for the process, once.
///
/// `level` is a level (`info`) or a list of `target=level` with one default. Unless the list names it, or the level is
/// plainly `debug` or `trace`, async-nats stays silent: this crate logs its connection states itself, and it would
/// otherwise add a line to each of its endless reconnection attempts, and to each message that a device
/// sends too much.
pub fn init(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    let registry = tracing_subscriber::registry();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let layer = layer.with_ansi(std::io::stderr().is_terminal()).with_filter(filter);
            registry.with(layer).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_filter(filter)).try_init(),
    }
    .map_err(TelemetryError::Twice)
}

fn filter(level: &str) -> Result<Targets, TelemetryError> {
    let refused = || TelemetryError::Level { level: level.to_owned() };
    // `Targets` would take a bare word that is no level for the name of a target.
    if level.split(',').any(|part| !part.contains('=') && part.trim().parse::<LevelFilter>().is_err()) {
        return Err(refused());
    }
    let targets: Targets = level.parse().map_err(|_| refused())?;
    let names_it = level.contains("async_nats");
    let is_all = level.trim().parse::<LevelFilter>().is_ok_and(|plain| plain > LevelFilter::INFO);
    Ok(if names_it || is_all { targets } else { targets.with_target("async_nats", LevelFilter::OFF) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tracing::Level;

    use super::*;

    #[test]
    fn what_this_crate_logs_itself_is_silent_unless_it_is_named() {
        for level in ["info", "info,vk_nats=debug", "debug,vk_nats=trace"] {
            let filter = filter(level).unwrap();
            assert!(filter.would_enable("device_kubelet::link", &Level::INFO), "{level}");
            assert!(!filter.would_enable("device_kubelet::link", &Level::TRACE), "{level}");
            assert!(!filter.would_enable("async_nats::connector", &Level::ERROR), "{level}");
        }
    }

    #[test]
    fn debug_and_who_names_it_see_all_of_it() {
        assert!(filter("debug").unwrap().would_enable("async_nats::connector", &Level::DEBUG));
        let list = filter("warn,async_nats=info").unwrap();
        assert!(list.would_enable("async_nats", &Level::INFO));
        assert!(!list.would_enable("vk_nats", &Level::INFO));
    }

    #[test]
    fn a_wrong_level_is_shown_with_what_was_expected() {
        for wrong in ["loud", "info,loud", "device_kubelet=loud"] {
            let error = filter(wrong).unwrap_err().to_string();
            assert!(
                error.contains("log-level") && error.contains(wrong) && error.contains("trace"),
                "{error}"
            );
        }
    }
}
