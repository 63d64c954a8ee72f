//! `callout`: says to nats-server who may connect, as a process.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use callout::{explain, settings::Flags};
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use fleet_daemon::{
    settings, shutdown,
    telemetry::{self, LogFormat},
};

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
        /// Settings file (TOML); its keys are the names of the flags below.
        #[arg(long, env = "CALLOUT_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<Flags>,
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
        Verb::Run { config, flags } => run(config, *flags),
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

fn run(config: Option<PathBuf>, flags: Flags) -> anyhow::Result<()> {
    let flags = settings::merge(config.as_deref(), flags)?;
    let (format, level): (LogFormat, &str) = flags.log();
    telemetry::init(format, level)?;
    let settings = flags.check()?;
    fleet_daemon::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let grace = settings.shutdown_grace;
    runtime
        .block_on(shutdown::live(grace, async |tasks| Box::pin(callout::run::start(settings, tasks)).await))
}
