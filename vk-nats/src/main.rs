//! `vk-nats`: the cluster side of Harmony Fleet as a process.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use fleet_daemon::{
    settings, shutdown,
    telemetry::{self, LogFormat},
};
use vk_nats::settings::Flags;

/// Shows a fleet of devices to a Kubernetes cluster as its Nodes, over NATS.
#[derive(Debug, Parser)]
#[command(name = "vk-nats", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs until SIGTERM or SIGINT.
    Run {
        /// Settings file (TOML); its keys are the names of the flags below.
        #[arg(long, env = "VK_NATS_CONFIG", value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<Flags>,
    },
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
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "vk-nats", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
    };
    match run(config, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up, or go elsewhere: the reason of the end is for stderr.
            eprintln!("vk-nats: {error:#}");
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
    runtime
        .block_on(shutdown::live(grace, async |tasks| Box::pin(vk_nats::run::start(settings, tasks)).await))
}
