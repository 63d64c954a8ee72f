//! `callout`: says to nats-server who may connect, as a process.

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use callout::{explain, settings::Callout};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use fleet_daemon::{settings::CommandLine, shutdown, telemetry};

/// Decides who may connect to NATS, and what they may do there.
#[derive(Debug, Parser)]
#[command(name = "callout", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        settings: CommandLine<Callout>,
    },
    /// Prints what an identity may do at NATS.
    Explain {
        /// device:NAME, component:vk-nats, component:enroller, token[:ID], applicant[:KEY] or person[:KEY].
        identity: String,
        /// Form of the output.
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

fn main() -> ExitCode {
    let done = match Command::parse().verb {
        Verb::Run { settings } => run(settings),
        Verb::Explain { identity, output } => print_explanation(&identity, output),
        Verb::Version => print(&format!("callout {}\n", env!("CARGO_PKG_VERSION"))),
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "callout", &mut std::io::stdout());
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up, or go elsewhere: the reason of the end is for stderr.
            eprintln!("callout: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_explanation(identity: &str, output: Output) -> anyhow::Result<()> {
    let explanation = explain::explain(identity)?;
    match output {
        Output::Table => print(&explanation.table()),
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&explanation)?)),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing to stdout")
}

fn run(settings: CommandLine<Callout>) -> anyhow::Result<()> {
    let (given, origins) = settings.load()?;
    telemetry::init(given.log_format, given.log_level.as_str())?;
    origins.log();
    let settings = given.check(&origins)?;
    fleet_daemon::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let grace = settings.shutdown_grace;
    runtime
        .block_on(shutdown::live(grace, async |tasks| Box::pin(callout::run::start(settings, tasks)).await))
}
