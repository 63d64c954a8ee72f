//! `enroller`: makes devices members of the fleet, and throws them out.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use callout::enroller::{run::start, settings::Flags};
use clap::{CommandFactory as _, Parser, Subcommand};
use fleet_daemon::{
    settings, shutdown,
    telemetry::{self, LogFormat},
};

/// Makes devices members of the fleet, and throws them out.
#[derive(Debug, Parser)]
#[command(name = "enroller", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs until SIGTERM or SIGINT.
    Run {
        /// Settings file (TOML); its keys are the names of the flags below.
        #[arg(long, env = "ENROLLER_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Prints the version.
    Version,
    /// Prints a completion script for a shell.
    #[command(alias = "completions")]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let (config, flags) = match Command::parse().verb {
        Verb::Run { config, flags } => (config, *flags),
        Verb::Version => {
            use std::io::Write as _;
            let shown = writeln!(std::io::stdout(), "enroller {}", env!("CARGO_PKG_VERSION"));
            return if shown.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "enroller", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
    };
    match run(config, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up, or go elsewhere: the reason of the end is for stderr.
            eprintln!("enroller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Option<PathBuf>, flags: Flags) -> anyhow::Result<()> {
    let flags = settings::merge(config.as_deref(), flags)?;
    let (format, level): (LogFormat, &str) = flags.log();
    telemetry::init(format, level)?;
    let settings = flags.check()?;
    fleet_daemon::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let grace = settings.shutdown_grace;
    runtime.block_on(shutdown::live(grace, async |tasks| Box::pin(start(settings, tasks)).await))
}
