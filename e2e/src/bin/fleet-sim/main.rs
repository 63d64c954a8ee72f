//! Many simulated devices in one process: the real agent with the runtime in memory, a real NATS connection
//! and keys of its own for each.
//!
//! It is a process apart from what is measured, so that memory and processor time of the two can be told
//! from each other.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use device_kubelet::agent::Agent;
use device_kubelet::keys::DeviceKeys;
use device_kubelet::runtime::memory::{MemoryOptions, MemoryRuntime};
use device_kubelet::settings::{DeviceKubelet, RuntimeKind};
use e2e::bench::simulated::{DevicePublicKeys, Plan};
use e2e::process::read_json;
use fleet_daemon::shutdown::Shutdown;
use fleet_daemon::telemetry::{self, LogFormat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

/// Sockets and files that one device needs: NATS, the local socket, and some in passing.
const FILES_PER_DEVICE: u64 = 4;

/// Simulated devices.
#[derive(Debug, Parser)]
#[command(name = "fleet-sim")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the devices' keys and print the public ones (JSON)
    Keys {
        /// The plan (JSON)
        plan: PathBuf,
    },
    /// Run all devices until SIGTERM
    Run {
        /// The plan (JSON)
        plan: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().action {
        Action::Keys { plan } => read_json(&plan).and_then(|plan| keys(&plan)),
        Action::Run { plan } => read_json(&plan).and_then(run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if stderr is closed.
            let _ = writeln!(std::io::stderr(), "fleet-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn keys(plan: &Plan) -> Result<()> {
    let all = (0..plan.devices)
        .map(|number| {
            let folder = plan.data_dir(number);
            std::fs::create_dir_all(&folder)?;
            let keys = DeviceKeys::load_or_create(&folder)?.public();
            Ok(DevicePublicKeys {
                name: plan.name(number),
                identity: keys.identity.to_string(),
                curve: keys.curve.to_string(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    serde_json::to_writer(std::io::stdout(), &all).context("cannot write to stdout")
}

fn run(plan: Plan) -> Result<()> {
    telemetry::init(LogFormat::Text, "warn")?;
    fleet_daemon::install_crypto_provider();
    raise_file_limit(u64::try_from(plan.devices)? * FILES_PER_DEVICE + 100)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        let mut agents = JoinSet::new();
        for number in 0..plan.devices {
            agents.spawn(Box::pin(device(plan.clone(), number, shutdown.clone())));
        }
        while let Some(ended) = agents.join_next().await {
            ended?.context("a simulated device failed")?;
        }
        Ok(())
    })
}

async fn device(plan: Plan, number: usize, shutdown: Shutdown) -> Result<()> {
    let given = DeviceKubelet {
        name: Some(plan.name(number).parse()?),
        data_dir: plan.data_dir(number).display().to_string().parse()?,
        nats_url: Some(plan.nats_url.parse()?),
        nats_ca_file: Some(plan.nats_ca_file),
        fleet_root_key: Some(plan.fleet_root_key.parse()?),
        fleet_keys_file: Some(plan.fleet_keys_file),
        runtime: RuntimeKind::Memory,
        ..DeviceKubelet::default()
    };
    let options = MemoryOptions { present: plan.images.into_iter().collect(), ..MemoryOptions::default() };
    let runtime = Arc::new(MemoryRuntime::new(options));
    Agent::run(given.into(), runtime, shutdown).await.map_err(Into::into)
}

fn raise_file_limit(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|most| most >= wanted),
        "so many devices need {wanted} open files; raise the limit (ulimit -n)"
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
        .context("cannot raise the limit of open files")
}
