//! A device: a network namespace, a Podman and the agent, as on a Pi behind NAT.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::enrollment::EnrollmentIntent;
use fleet_wire::keys::{CurveKey, IdentityKey};
use serde::Deserialize;
use tokio::process::Command;

use crate::answer::Answer;
use crate::binaries;
use crate::clock;
use crate::disk::SmallDisk;
use crate::fleet::FleetOptions;
use crate::image::Image;
use crate::netns::Network;
use crate::pki::write_private;
use crate::podman::Podman;
use crate::process::{Process, Spec};

/// The agent's data folder, in the device's.
const DATA: &str = "data";

/// The public keys that an agent made for itself.
#[derive(Debug, Clone, Deserialize)]
pub struct PublicKeys {
    /// `U…`: signs the login to NATS.
    pub identity: IdentityKey,
    /// `X…`: opens sealed messages.
    pub curve: CurveKey,
}

/// The secret halves.
#[derive(Clone)]
pub struct Seeds {
    /// `SU…`
    pub identity: String,
    /// `SX…`
    pub curve: String,
}

/// One real device of a fleet.
#[derive(Debug)]
pub struct Device {
    /// Its name: the Node's, too.
    pub name: String,
    /// Its Podman.
    pub podman: Podman,
    /// `device-kubelet run`.
    pub agent: Process,
    index: u8,
    network: Network,
    folder: PathBuf,
    program: Option<PathBuf>,
    disk: Option<SmallDisk>,
}

impl Device {
    /// Describes device number `index` of the fleet in `fleet`; starts nothing.
    ///
    /// # Errors
    /// When a configuration cannot be written.
    pub fn new(fleet: &Path, network: &Network, index: u8, options: &FleetOptions) -> Result<Self> {
        let name = options.devices[usize::from(index)].clone();
        let folder = fleet.join("devices").join(&name);
        let netns = network.device(index);
        let podman = Podman::new(fleet, &name, network, index)?;
        let program = options.agents.then(|| binaries::own("device-kubelet")).transpose()?;
        let config = folder.join("device-kubelet.toml").display().to_string();
        let agent = Process::new(
            fleet,
            Spec {
                name: name.clone(),
                program: program.clone().unwrap_or_default(),
                args: vec!["run".into(), "--config".into(), config],
                env: BTreeMap::new(),
                netns: Some(netns),
            },
        );
        let disk = options.small_disks.get(&name).map(|size| SmallDisk::new(&folder.join(DATA), *size));
        Ok(Self { name, podman, agent, index, network: network.clone(), folder, program, disk })
    }

    /// Writes the agent's settings; keys in `extra` win. With an intent, the agent enrolls by itself at its
    /// first start.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn configure(&self, extra: &toml::Table, intent: Option<&EnrollmentIntent>) -> Result<()> {
        let mut settings = toml::Table::new();
        let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value.into());
        set("name", self.name.clone());
        set("data-dir", self.data().display().to_string());
        set("podman-socket", self.podman.url());
        set("log-level", "info,device_kubelet=debug,fleet_daemon=debug".to_owned());
        if let Some(intent) = intent {
            let file = self.folder.join("enrollment.json");
            write_private(&file, &serde_json::to_string_pretty(intent)?)?;
            set("enrollment-file", file.display().to_string());
        }
        settings.extend(extra.clone());
        Ok(fs::write(self.config(), toml::to_string(&settings)?)?)
    }

    /// The agent's settings file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("device-kubelet.toml")
    }

    /// The agent's data folder: keys, desired pods, volumes.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    /// The small disk that its data folder lies on.
    ///
    /// # Errors
    /// When the fleet was not asked for one.
    pub fn disk(&self) -> Result<&SmallDisk> {
        self.disk.as_ref().with_context(|| format!("device `{}` has no small disk", self.name))
    }

    /// Sets the agent's clock from its next start on: so many seconds ahead of the cluster's, behind if
    /// negative. Podman's stays right, as after a step of the clock.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        let mut result = Ok(());
        self.agent.change(|spec| result = clock::set(spec, seconds));
        result?;
        // Of the clock that it had until now.
        self.agent.identity().map_or(Ok(()), |agent| clock::forget(&agent))
    }

    /// The address of the device's published ports, from the root namespace.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.network.device_address(self.index)
    }

    /// Runs a `device-kubelet` subcommand on the device, as a person logged in there.
    ///
    /// # Errors
    /// When the program is not built or cannot be started.
    pub async fn ask(&self, line: &str) -> Result<Answer> {
        let program = self.program.as_ref().context("this fleet was started without agents")?;
        let mut command = self.network.device(self.index).command(program);
        command.args(line.split_whitespace()).arg("--config").arg(self.config());
        Answer::of(&mut command).await
    }

    /// The seeds of the device's keys: what somebody has who stole its disk.
    ///
    /// # Errors
    /// When it has none yet.
    pub fn seeds(&self) -> Result<Seeds> {
        let read = |key: &str| -> Result<String> {
            let file = self.data().join("keys").join(format!("{key}.nk"));
            let seed = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            Ok(seed.trim().to_owned())
        };
        Ok(Seeds { identity: read("identity")?, curve: read("curve")? })
    }

    /// The device's public keys; the first call makes them.
    ///
    /// # Errors
    /// When the agent cannot make or print them.
    pub async fn keys(&self) -> Result<PublicKeys> {
        let text = self.ask("keys --output json").await?.success()?;
        serde_json::from_str(&text).with_context(|| format!("`device-kubelet keys` printed {text}"))
    }

    /// Makes Podman and the images ready; the agent does not run yet.
    ///
    /// # Errors
    /// When Podman does not come up.
    pub async fn prepare(&self, images: &[Image]) -> Result<()> {
        match &self.disk {
            Some(disk) => disk.mount()?,
            None => fs::create_dir_all(self.data())?,
        }
        self.podman.start().await?;
        for image in images {
            self.podman.import(image).await?;
        }
        Ok(())
    }

    /// A power cut: agent, Podman, containers and network are gone at once; what is
    /// on disk stays.
    ///
    /// # Errors
    /// When something does not end.
    pub async fn power_off(&self) -> Result<()> {
        self.agent.kill().await?;
        self.podman.power_cut().await?;
        self.network.remove_device(self.index).await
    }

    /// Switches a device on again: network, Podman, agent, in this order.
    ///
    /// # Errors
    /// When Podman does not come up.
    pub async fn power_on(&self) -> Result<()> {
        if !self.network.device(self.index).exists() {
            self.network.add_device(self.index).await?;
        }
        self.podman.start().await?;
        match self.program {
            Some(_) => self.agent.start().await,
            None => Ok(()),
        }
    }

    /// Pulls the cable; everything on the device keeps running.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn unplug(&self) -> Result<()> {
        self.network.plug(self.index, false).await
    }

    /// Plugs the cable in again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn plug(&self) -> Result<()> {
        self.network.plug(self.index, true).await
    }

    /// `curl` from the root namespace to a published port of the device.
    ///
    /// # Errors
    /// Only when curl cannot be started; a refused connection is an answer.
    pub async fn curl(&self, port: u16, path: &str) -> Result<Answer> {
        let url = format!("http://{}:{port}{path}", self.address());
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time"]);
        command.args([&Duration::from_secs(3).as_secs().to_string(), &url]);
        let mut answer = Answer::of(&mut command).await?;
        answer.command = format!("curl {url}");
        Ok(answer)
    }
}
