//! `fleet keys …`

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use fleet_wire::name::KeyVersion;
use k8s_openapi::api::core::v1::Secret;
use serde::Serialize;

use super::{
    material::RootKey,
    nats::{NatsAuth, StaticKey, entries},
    plan::{Kind, Reach},
    rotation::{self, Step},
    store::{self, Order},
};
use crate::{
    cluster::Cluster,
    error::FleetError,
    info::FleetInfo,
    output::{self, json, note, print, yaml},
    private_file,
};

/// What is done with the fleet's own keys.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Makes what is missing of the fleet's keys, and puts right what was interrupted.
    #[command(after_help = "Examples:\n  fleet keys init --root-key ./fleet-root.nk --nats-url \
                            tls://nats.example:4222 --nats-ca-file ca.pem")]
    Init(InitArgs),
    /// Makes the next version of the curve key (or of the enroller's key) and announces it.
    #[command(
        after_help = "Examples:\n  fleet keys rotate --root-key /media/stick/fleet-root.nk\n  fleet keys \
                            rotate --root-key /media/stick/fleet-root.nk --enroller"
    )]
    Rotate(RotateArgs),
    /// Takes an old version of the curve key out of use.
    #[command(after_help = "Examples:\n  fleet keys drop 1 --root-key /media/stick/fleet-root.nk")]
    Drop(DropArgs),
    /// Shows the public keys, and how many devices use which version.
    #[command(after_help = "Examples:\n  fleet keys show\n  fleet keys show -o json")]
    Show(ShowArgs),
    /// Makes the static NATS keys of the callout and the kicker, and prints nats-server's part.
    #[command(
        after_help = "Examples:\n  fleet keys nats-init -o nats-conf > auth.conf\n  fleet keys nats-init \
                            --seed-folder /etc/harmony-fleet/nats\n  fleet keys nats-init --dry-run -o yaml | kubeseal"
    )]
    NatsInit(NatsInitArgs),
    /// Replaces static NATS keys, in three steps between which the old and the new ones work.
    #[command(
        after_help = "Examples:\n  fleet keys nats-rotate begin callout kicker -o nats-conf > auth.conf\n  fleet \
                            keys nats-rotate use callout kicker\n  fleet keys nats-rotate finish callout kicker -o \
                            nats-conf > auth.conf"
    )]
    NatsRotate(NatsRotateArgs),
}

/// `fleet keys init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// File with the fleet's root key; made (mode 0600) if neither it nor the fleet exists. Keep it offline.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// Where devices reach NATS, e.g. tls://nats.example:4222.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM).
    #[arg(long, value_name = "FILE")]
    nats_ca_file: Option<PathBuf>,
}

/// `fleet keys rotate`
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// File with the fleet's root key.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// Rotate the key to which requests to enroll are sealed, not the curve key.
    #[arg(long)]
    enroller: bool,
}

/// `fleet keys drop`
#[derive(Debug, Args)]
pub struct DropArgs {
    /// The version.
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    version: u32,
    /// File with the fleet's root key.
    #[arg(long, value_name = "FILE")]
    root_key: PathBuf,
    /// Also when devices have not been seen with a newer one: they have to be enrolled again.
    #[arg(long)]
    force: bool,
}

/// `fleet keys show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Format.
    #[arg(short, long, value_enum, default_value_t)]
    output: ShowFormat,
}

/// Formats of `fleet keys show`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ShowFormat {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What is shown of the static NATS keys.
#[derive(Debug, Args)]
pub struct NatsArgs {
    /// What is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: NatsFormat,
    /// Also write the private keys into files of mode 0600, for programs outside of the cluster.
    #[arg(long, value_name = "FOLDER")]
    seed_folder: Option<PathBuf>,
}

/// `fleet keys nats-init`
#[derive(Debug, Args)]
pub struct NatsInitArgs {
    #[command(flatten)]
    show: NatsArgs,
    /// Write nothing to the cluster: what `-o yaml` prints, you apply.
    #[arg(long)]
    dry_run: bool,
}

/// `fleet keys nats-rotate`
#[derive(Debug, Args)]
pub struct NatsRotateArgs {
    /// Which step.
    step: Step,
    /// Which keys.
    #[arg(required = true)]
    keys: Vec<StaticKey>,
    #[command(flatten)]
    show: NatsArgs,
}

/// Formats of the static NATS keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum NatsFormat {
    /// For people.
    #[default]
    Text,
    /// `accounts` and `authorization` of nats-server.
    NatsConf,
    /// The public keys as JSON.
    Json,
    /// The Secret itself, private keys included.
    Yaml,
}

/// Does it.
///
/// # Errors
/// [`FleetError`], with an exit code.
pub async fn run(cluster: &Cluster, verb: Verb) -> Result<(), FleetError> {
    match verb {
        Verb::Init(args) => {
            let InitArgs { root_key, nats_url, nats_ca_file } = args;
            let nats_ca = nats_ca_file.map(|file| private_file::read(&file)).transpose()?;
            let reach = Reach { nats_url, nats_ca: nats_ca.map(|ca| ca.to_string()) };
            report(init(cluster, &root_key, reach).await?)
        }
        Verb::Rotate(RotateArgs { root_key, enroller }) => {
            let root = root_from(&root_key)?;
            let kind = if enroller { Kind::Enroller } else { Kind::Curve };
            let snapshot = store::read(cluster).await?;
            let desired = snapshot.stored.rotated(kind, root)?;
            report(store::write(cluster, snapshot, &desired, Order::SecretsFirst).await?)
        }
        Verb::Drop(DropArgs { version, root_key, force }) => {
            let root = root_from(&root_key)?;
            let snapshot = store::read(cluster).await?;
            let in_use = store::in_use(cluster).await?;
            let desired = snapshot.stored.without(KeyVersion(version), &in_use, force, root)?;
            report(store::write(cluster, snapshot, &desired, Order::StatementFirst).await?)
        }
        Verb::Show(ShowArgs { output }) => show(cluster, output).await,
        Verb::NatsInit(NatsInitArgs { show, dry_run }) => {
            if dry_run && show.output != NatsFormat::Yaml {
                return Err(FleetError::Usage {
                    what: "--dry-run makes keys that only its output has".to_owned(),
                    next: "add `-o yaml`, and apply what it prints".to_owned(),
                });
            }
            let (keys, secret) = store::read_nats(cluster).await?;
            let (keys, _) = keys.complete()?;
            if !dry_run {
                write_nats(cluster, &keys, secret).await?;
            }
            show_nats(cluster, &keys, &show)
        }
        Verb::NatsRotate(NatsRotateArgs { step, keys: chosen, show }) => {
            let (keys, secret) = store::read_nats(cluster).await?;
            if secret.is_none() {
                return Err(FleetError::not_found(
                    "this fleet has no static NATS keys that could be rotated",
                    "make them with `fleet keys nats-init`",
                ));
            }
            let keys = keys.rotated(step, &chosen)?;
            write_nats(cluster, &keys, secret).await?;
            show_nats(cluster, &keys, &show)?;
            note(&rotation::afterwards(step, &chosen));
            Ok(())
        }
    }
}

/// Makes what is missing of the fleet's keys; says what was written. The file is made only for a fleet that
/// has no root key.
///
/// # Errors
/// When the root key belongs to another fleet, or something cannot be read or written.
pub async fn init(
    cluster: &Cluster,
    root_key: &std::path::Path,
    reach: Reach,
) -> Result<Vec<String>, FleetError> {
    let snapshot = store::read(cluster).await?;
    let mut made = None;
    let known = snapshot.stored.root().is_some() || snapshot.stored.sequence > 0;
    let desired = snapshot.stored.complete(reach, || {
        if root_key.exists() {
            return root_from(root_key);
        }
        if known {
            return Err(FleetError::not_found(
                format!("there is no file {}, and something has to be signed", root_key.display()),
                "this fleet has a root key already: name the file that holds it",
            ));
        }
        let root = RootKey::generate();
        private_file::create(root_key, &format!("{}\n", root.seed()?.as_str()))?;
        made = Some(format!("{} created: the root key, keep it offline", root_key.display()));
        Ok(root)
    })?;
    let written = store::write(cluster, snapshot, &desired, Order::SecretsFirst).await?;
    Ok(made.into_iter().chain(written).collect())
}

fn root_from(path: &std::path::Path) -> Result<RootKey, FleetError> {
    Ok(RootKey::from_seed(&private_file::read(path)?)?)
}

fn report(changes: Vec<String>) -> Result<(), FleetError> {
    if changes.is_empty() {
        return print("nothing to change\n");
    }
    print(&(changes.join("\n") + "\n"))
}

async fn write_nats(cluster: &Cluster, keys: &NatsAuth, secret: Option<Secret>) -> Result<(), FleetError> {
    let written = store::write_nats(cluster, keys, secret).await?;
    note(written.as_deref().unwrap_or("nothing to change"));
    Ok(())
}

fn show_nats(cluster: &Cluster, keys: &NatsAuth, show: &NatsArgs) -> Result<(), FleetError> {
    let public = keys.public()?;
    if let Some(folder) = &show.seed_folder {
        for entry in entries() {
            let seed = keys.seeds().find(|(name, _)| *name == entry).map(|(_, seed)| seed.as_str());
            private_file::keep(&folder.join(&entry), seed)?;
        }
    }
    print(&match show.output {
        NatsFormat::Text => {
            let other = |key: &Option<String>| {
                key.as_ref().map(|key| format!("\n         {key} (also accepted)")).unwrap_or_default()
            };
            format!(
                "callout  {}{}\nissuer   {}\nxkey     {}\nkicker   {}{}\n",
                public.callout,
                other(&public.other_callout),
                public.issuer,
                public.xkey,
                public.kicker,
                other(&public.other_kicker)
            )
        }
        NatsFormat::NatsConf => public.server_config(),
        NatsFormat::Json => json(&public)?,
        NatsFormat::Yaml => yaml(&keys.secret(cluster.namespace()))?,
    })
}

/// The public side of a fleet's keys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    nats_url: Option<String>,
    root_key: String,
    sequence: u64,
    enroller_key: Option<String>,
    curve_keys: BTreeMap<u32, ShownVersion>,
    /// Devices that have not said which version they use.
    silent_devices: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownVersion {
    public: String,
    devices: usize,
}

async fn show(cluster: &Cluster, format: ShowFormat) -> Result<(), FleetError> {
    let info = FleetInfo::of(cluster).await?;
    let statement = info.statement()?;
    let in_use = store::in_use(cluster).await?;
    let users = |version| in_use.iter().filter(|device| device.version == version).count();
    let shown = Shown {
        nats_url: info.nats_url,
        root_key: info.root_key,
        sequence: statement.sequence,
        enroller_key: statement.enroller_key.map(|key| key.to_string()),
        curve_keys: statement
            .curve_keys
            .into_iter()
            .map(|(version, public)| (version.0, ShownVersion { public, devices: users(Some(version)) }))
            .collect(),
        silent_devices: users(None),
    };
    print(&match format {
        ShowFormat::Json => json(&shown)?,
        ShowFormat::Yaml => yaml(&shown)?,
        ShowFormat::Text => shown.text(),
    })
}

impl Shown {
    fn text(&self) -> String {
        let mut text = format!(
            "NATS           {}\nRoot key       {}\nStatement      {}\nEnroller key   {}\nSilent devices {}\n\n",
            self.nats_url.as_deref().unwrap_or("not set: `fleet keys init --nats-url …`"),
            self.root_key,
            self.sequence,
            self.enroller_key.as_deref().unwrap_or("none"),
            self.silent_devices
        );
        let rows: Vec<output::Row> = self
            .curve_keys
            .iter()
            .map(|(version, key)| output::Row {
                cells: vec![version.to_string(), key.devices.to_string(), key.public.clone()],
                accent: (0, output::Colour::Green),
            })
            .collect();
        let _ = write!(text, "{}", output::table(&["CURVE KEY", "DEVICES", "PUBLIC"], &rows, false));
        text
    }
}
