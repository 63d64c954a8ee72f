//! `enroller`: makes devices members of the fleet, and throws them out.

use std::process::ExitCode;

use anyhow::Context as _;
use callout::enroller::{run::start, settings::Enroller};
use clap::{CommandFactory as _, Parser, Subcommand};
use fleet_daemon::{settings::CommandLine, shutdown, telemetry};

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
        #[command(flatten)]
        settings: CommandLine<Enroller>,
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
    let settings = match Command::parse().verb {
        Verb::Run { settings } => settings,
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
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up, or go elsewhere: the reason of the end is for stderr.
            eprintln!("enroller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: CommandLine<Enroller>) -> anyhow::Result<()> {
    let (given, origins) = settings.load()?;
    telemetry::init(given.log_format, given.log_level.as_str())?;
    origins.log();
    let settings = given.check(&origins)?;
    fleet_daemon::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let grace = settings.shutdown_grace;
    runtime.block_on(shutdown::live(grace, async |tasks| Box::pin(start(settings, tasks)).await))
}
