//! `make demo`: a fleet with two real devices on this machine.
//!
//! `up` starts it and leaves it running, `show` walks through what one does with a
//! fleet and prints every command with its answer, `down` removes it all.

mod show;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use e2e::binaries;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::ledger::{self, Owner};
use e2e::process::{read_json, write_json};

/// The devices of the demo: a Pi in the hall, and one in the attic.
const DEVICES: [&str; 2] = ["pi-hall", "pi-attic"];

/// A fleet with two real devices on this machine.
#[derive(Debug, Parser)]
#[command(name = "fleet-demo")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Start the fleet, unless it is up, and leave it running
    Up,
    /// Walk through deployments, logs, changes and a power cut on the running fleet
    Show,
    /// Print the path of the administrator's kubeconfig
    Kubeconfig,
    /// End the fleet and remove everything that belongs to it
    Down,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "e2e=info".into()),
        )
        .with_target(false)
        .without_time()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(run(Arguments::parse().action)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::say_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(action: Action) -> Result<()> {
    let folder = binaries::state()?.join("demo");
    match action {
        Action::Up => up(&folder).await,
        Action::Show => show::walk(&attach(&folder).await?).await,
        Action::Kubeconfig => {
            show::say(&e2e::control_plane::kubeconfig(&folder).display().to_string());
            Ok(())
        }
        Action::Down => {
            ledger::remove(&folder).await?;
            show::say("The fleet is gone.");
            Ok(())
        }
    }
}

async fn attach(folder: &Path) -> Result<Fleet> {
    Fleet::attach(folder).await.context("the demo is not up; run `make demo`")
}

async fn up(folder: &Path) -> Result<()> {
    let started = Instant::now();
    let built = stamp().await?;
    if read_json::<Vec<String>>(&folder.join("built.json")).ok() == Some(built.clone())
        && let Ok(fleet) = attach(folder).await
        && resume(&fleet).await.is_ok()
    {
        show::say("The fleet is up already.");
        return Ok(());
    }
    show::say("Starting a control plane, a NATS server and two devices …");
    Fleet::up_in(folder, "demo", Owner::Person, FleetOptions::with_devices(DEVICES).unobserved()).await?;
    write_json(&folder.join("built.json"), &built)?;
    show::say(&format!("The fleet came up in {} s.", started.elapsed().as_secs()));
    Ok(())
}

/// Switches on what was left switched off; anything else that does not run is a
/// reason to start anew.
async fn resume(fleet: &Fleet) -> Result<()> {
    let ours = fleet.services().map(|service| &service.process);
    for process in fleet.control_plane.processes().into_iter().chain([&fleet.nats.server]).chain(ours) {
        anyhow::ensure!(process.is_running(), "{} has ended", process.name());
    }
    for device in fleet.devices() {
        device.power_on().await?;
        fleet.node_ready(&device.name, "True", show::PATIENCE).await?;
    }
    Ok(())
}

/// Which programs the fleet runs: other ones need another fleet.
async fn stamp() -> Result<Vec<String>> {
    let tools = binaries::Tools::locate().await?;
    let mut programs: Vec<PathBuf> = Vec::new();
    for program in ["callout", "enroller", "vk-nats", "device-kubelet", "fleet"] {
        programs.push(binaries::own(program)?);
    }
    for tool in ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "nats-server"] {
        programs.push(tools.path(tool)?);
    }
    programs
        .iter()
        .map(|path| {
            let meta = path.metadata()?;
            let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_millis();
            Ok(format!("{} {} {changed}", path.display(), meta.len()))
        })
        .collect()
}
