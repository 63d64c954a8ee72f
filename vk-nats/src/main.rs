//! `vk-nats`: the cluster side of Harmony Fleet as a process.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use fleet_daemon::{settings::CommandLine, shutdown, telemetry};
use vk_nats::settings::VkNats;

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
        #[command(flatten)]
        settings: CommandLine<VkNats>,
    },
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
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "vk-nats", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
    };
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up, or go elsewhere: the reason of the end is for stderr.
            eprintln!("vk-nats: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: CommandLine<VkNats>) -> anyhow::Result<()> {
    let (given, origins) = settings.load()?;
    telemetry::init(given.log_format, given.log_level.as_str())?;
    origins.log();
    let settings = given.check(&origins)?;
    fleet_daemon::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let grace = settings.shutdown_grace;
    runtime
        .block_on(shutdown::live(grace, async |tasks| Box::pin(vk_nats::run::start(settings, tasks)).await))
}
