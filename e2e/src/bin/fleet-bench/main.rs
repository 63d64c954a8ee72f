//! `make bench`: what a fleet costs and how fast it is, measured beside something else in the same run.
//!
//! | part | measured | beside it |
//! |---|---|---|
//! | `pods` | creation → Running, deletion → gone, on real Podman | `podman` on the same device, in the same minute |
//! | `idle` | memory, processor, network and disk of an agent with one running pod | – |
//! | `sealing` | sealing and opening on one core; a log stream | what the log stream's processes use in all |
//! | `callout` | logins of devices through the callout | logins that nats-server decides alone; the cryptography |
//! | `storm` | all devices lose the server; some are revoked | – |
//! | `scale` | Nodes, pods and deletions a second, memory and idle load of `vk-nats` | `kwok` on the same control plane |
//!
//! It judges nothing: on a busy machine every time is longer. Ratios within one run are what to compare.

mod authorizer;
mod idle;
mod kwok;
mod logins;
mod pods;
mod report;
mod scale;
mod sealing;
mod simulation;
mod storm;
mod table;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use e2e::bench::machine::{self, Machine};
use e2e::binaries;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::process::write_json;

use report::Report;

/// The one real device.
const DEVICE: &str = "pi";

/// Measures a fleet on this machine.
#[derive(Debug, Parser)]
#[command(name = "fleet-bench")]
struct Arguments {
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Pods that are started one at a time
    #[arg(long, default_value_t = 30)]
    starts: usize,
    /// Seconds for which an idle process is watched
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Simulated devices, and nodes of kwok
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Pods on them
    #[arg(long, default_value_t = 2000)]
    pods: usize,
    /// Logins of each kind
    #[arg(long, default_value_t = 4800)]
    logins: usize,
    /// Simulated devices that lose the server at once
    #[arg(long, default_value_t = 2000)]
    storm_devices: usize,
    /// Of these, how many are revoked
    #[arg(long, default_value_t = 20)]
    revoked: usize,
    /// What is printed; the JSON is always written to a file, too
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Starts and deletions of pods on real Podman
    Pods,
    /// An idle agent
    Idle,
    /// Sealing, and a log stream
    Sealing,
    /// Logins through the callout
    Callout,
    /// Devices that lose the server, and devices that are revoked
    Storm,
    /// A thousand devices
    Scale,
}

impl Part {
    const ALL: [Self; 6] = [Self::Pods, Self::Idle, Self::Sealing, Self::Callout, Self::Storm, Self::Scale];
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "e2e=info,fleet_bench=info".into()),
        )
        .with_target(false)
        .without_time()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(Box::pin(run(Arguments::parse()))));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if stderr is closed.
            let _ = writeln!(std::io::stderr(), "fleet-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let wants = |part| arguments.only.contains(&part);
    let machine = Machine::this().await;
    let fleet = Fleet::up(options()).await?;
    let idle = Duration::from_secs(arguments.idle_seconds);

    let measured = async {
        let mut report = Report::new(machine);
        if wants(Part::Pods) {
            report.pods = Some(pods::measure(&fleet, arguments.starts).await?);
        }
        if wants(Part::Idle) {
            report.idle = Some(idle::measure(&fleet, idle).await?);
        }
        if wants(Part::Sealing) {
            report.sealing = Some(sealing::measure(&fleet).await?);
        }
        if wants(Part::Callout) {
            report.authorizations = Some(logins::measure(&fleet, arguments.logins).await?);
        }
        if wants(Part::Storm) {
            let measured = storm::measure(&fleet, arguments.storm_devices, arguments.revoked);
            let (storm, revocation) = Box::pin(measured).await?;
            (report.storm, report.revocation) = (Some(storm), Some(revocation));
        }
        if wants(Part::Scale) {
            report.scale = Some(scale::measure(&fleet, arguments.devices, arguments.pods, idle).await?);
        }
        report.load_after = machine::load();
        anyhow::Ok(report)
    };
    let measured = Box::pin(measured).await;
    if measured.is_err() {
        let kept = e2e::logs::collect(fleet.folder(), &e2e::logs::folder()?.join("bench"))?;
        tracing::info!("the logs are in {}", kept.display());
    }
    fleet.down().await?;
    let report = measured?;

    let folder = binaries::state()?.join("bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{}.json", report.machine.measured_at.replace(':', "-")));
    write_json(&file, &report)?;
    let text = match arguments.output {
        Output::Json => serde_json::to_string_pretty(&report)?,
        Output::Table => format!("{}\n{}", table::of(&report), file.display()),
    };
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")
}

fn options() -> FleetOptions {
    let mut options = FleetOptions::with_devices([DEVICE])
        .agent_setting("log-level", "info")
        .vk_setting("log-level", "info")
        .callout_setting("log-level", "info")
        // So that the log that is read is one file as it was written.
        .agent_setting("container-log-max-size", "256Mi");
    options.images = vec!["v1".to_owned()];
    // Kubernetes' default: scenarios wait less, but here the machine may be busy.
    options.control_plane.node_monitor_grace_period = Duration::from_secs(50);
    options
}
