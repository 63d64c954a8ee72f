//! The agent of a device: runs the pods that the cluster wants here, and tells about them when asked.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use device_kubelet::{
    agent::{Agent, request},
    enroll::{self, CREDENTIAL, Enrollment, Wish, decide::may_ask, membership::Membership},
    keys::DeviceKeys,
    local::{AgentStatus, client, table},
    runtime::{Runtime, memory::MemoryRuntime, podman::PodmanRuntime},
    settings::{DeviceKubelet, Folder, RuntimeKind, Settings},
};
use fleet_daemon::{
    install_crypto_provider,
    settings::{CommandLine, Origins},
    shutdown::Shutdown,
    telemetry,
};
use jiff::Timestamp;

/// Runs the pods that a Kubernetes cluster wants on this device, also while the cluster cannot be reached.
#[derive(Debug, Parser)]
#[command(name = "device-kubelet", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    ///
    /// Settings come from the TOML file, from the environment (which wins over the file) and from flags
    /// (which win over both). The keys of the file are the names of the flags without the dashes.
    Run {
        #[command(flatten)]
        settings: CommandLine<DeviceKubelet>,
    },
    /// Make this device a member of a fleet
    ///
    /// Either an operator enrolled it first (`fleet device enroll NAME`) and gave it a file: `--intent FILE`. Or it
    /// asks first (`--request`), with name, nats-url, nats-ca-file, fleet-root-key and fleet-keys-file from the
    /// settings, and waits until somebody approves it. Start the agent afterwards. Running this again on an
    /// enrolled device changes nothing.
    Enroll {
        /// File that `fleet device enroll` wrote; `-` reads it from stdin
        #[arg(long, value_name = "FILE", required_unless_present = "request", conflicts_with = "request")]
        intent: Option<PathBuf>,
        /// Ask for membership, and wait until somebody approves it
        #[arg(long)]
        request: bool,
        #[command(flatten)]
        settings: CommandLine<DeviceKubelet>,
    },
    /// Show this device's public keys and their fingerprint, making the keys if there are none yet
    Keys(Local),
    /// Make new keys for this device and have the fleet take them; the agent has to be running and connected
    RotateKeys(Local),
    /// Show how the agent on this device is; works without network
    Status(Local),
    /// Show the pods on this device; works without network
    Pods(Local),
    /// Write a completion script for a shell to stdout
    #[command(alias = "completions")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What the commands for people on the device need.
#[derive(Debug, clap::Args)]
struct Local {
    #[command(flatten)]
    settings: CommandLine<DeviceKubelet, Folder>,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
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
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if stderr is closed.
            let _ = writeln!(std::io::stderr(), "device-kubelet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { settings } => {
            let (given, origins) = settings.load()?;
            agent(given.into(), &origins)
        }
        Command::Keys(local) => {
            let (output, data_dir) = local.read()?;
            let keys = DeviceKeys::load_or_create(&data_dir)?.public();
            match output {
                Output::Json => print(&serde_json::to_string(&keys)?),
                Output::Table => print(&format!(
                    "IDENTITY      {}\nCURVE         {}\nFINGERPRINT   {}",
                    keys.identity, keys.curve, keys.fingerprint
                )),
            }
        }
        Command::RotateKeys(local) => {
            let (output, data_dir) = local.read()?;
            let answer: serde_json::Value = client::ask(&data_dir, "rotate-keys")?;
            match output {
                Output::Json => print(&answer.to_string()),
                Output::Table => print(answer["begun"].as_str().unwrap_or("begun")),
            }
        }
        Command::Enroll { intent, request: _, settings } => {
            let (given, origins) = settings.load()?;
            enroll(intent.as_deref(), &given.into(), &origins)
        }
        Command::Status(local) => {
            let (output, data_dir) = local.read()?;
            match output {
                Output::Json => print(&client::ask::<serde_json::Value>(&data_dir, "status")?.to_string()),
                Output::Table => {
                    let status: AgentStatus = client::ask(&data_dir, "status")?;
                    print(table::status(&status, Timestamp::now()).trim_end())
                }
            }
        }
        Command::Pods(local) => {
            let (output, data_dir) = local.read()?;
            match output {
                Output::Json => print(&client::ask::<serde_json::Value>(&data_dir, "pods")?.to_string()),
                Output::Table => {
                    let pods: Vec<table::PodRow> = client::ask(&data_dir, "pods")?;
                    print(table::pods(&pods, Timestamp::now()).trim_end())
                }
            }
        }
        Command::Completion { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(shell, &mut command, "device-kubelet", &mut std::io::stdout());
            Ok(())
        }
    }
}

impl Local {
    /// Form of the answer, and the folder of everything durable.
    fn read(self) -> anyhow::Result<(Output, PathBuf)> {
        let (given, _) = self.settings.load()?;
        Ok((self.output, given.data_dir.into()))
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // `device-kubelet pods | head` is no error.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Enrolls in the foreground: a person waits, or a script.
fn enroll(intent: Option<&Path>, settings: &Settings, origins: &Origins) -> anyhow::Result<()> {
    let level = match settings.log_level.as_str() {
        "info" => "warn",
        other => other,
    };
    telemetry::init(settings.log_format, level)?;
    origins.log();
    install_crypto_provider();
    let data_dir = &settings.data_dir;
    let wish: Wish = match intent {
        Some(file) => enroll::read_intent(file)?.into(),
        None => request(settings)?,
    };
    let membership = Membership::load(data_dir)?;
    if membership.revoked.is_none() && membership.device.is_some() && data_dir.join(CREDENTIAL).exists() {
        may_ask(&membership, &wish.device, &wish.root_key)?;
        return print(&format!("This device is enrolled as {} already.", wish.device));
    }
    let device = wish.device.clone();
    let enrollment = Enrollment::prepare(data_dir, wish)?;
    print(&format!("Device        {device}\nFingerprint   {}", enrollment.fingerprint()))?;
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    executor.block_on(enrollment.run(|progress| {
        // Who does not read it still gets the exit code.
        let _ = print(&progress.to_string());
    }))?;
    print(&format!(
        "This device is enrolled as {device}. (Re)start the agent: systemctl restart device-kubelet"
    ))
}

fn agent(settings: Settings, origins: &Origins) -> anyhow::Result<()> {
    telemetry::init(settings.log_format, settings.log_level.as_str())?;
    origins.log();
    install_crypto_provider();
    // One thread: the agent waits nearly always, and each further thread costs memory of a small machine.
    let executor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    executor.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot watch for signals")?;
        let runtime: Arc<dyn Runtime> = match settings.runtime {
            RuntimeKind::Podman => Arc::new(PodmanRuntime::new(&settings.podman_socket)),
            RuntimeKind::Memory => Arc::new(MemoryRuntime::default()),
        };
        Agent::run(settings, runtime, shutdown).await.map_err(anyhow::Error::from)
    })
}
