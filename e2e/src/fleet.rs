//! A whole fleet: brought up, looked at, taken down.

mod options;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::enrollment::{Enrollment, RECORDS_NAMESPACE, Record};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::accounts::{self, NAMESPACE};
use crate::answer::Answer;
use crate::binaries::{self, Tools};
use crate::callout;
use crate::control_plane::{self, ControlPlane};
use crate::device::Device;
use crate::enroller;
use crate::image::{self, Image};
use crate::issuers::Issuers;
use crate::keys::FleetKeyFiles;
use crate::kubectl::Kubectl;
use crate::ledger::{self, Owner};
use crate::logs;
use crate::nats::Nats;
use crate::netns::Network;
use crate::process::{Identity as ProcessIdentity, Process, read_json, write_json};
use crate::service::Service;
use crate::vk;
use crate::wait::{Look, until};

pub use options::FleetOptions;

/// What a second program needs to find a fleet that a first one started.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    options: FleetOptions,
    network: Network,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    /// The Kubernetes control plane.
    pub control_plane: ControlPlane,
    /// The broker.
    pub nats: Nats,
    /// The identity providers, if it was asked for some.
    pub issuers: Option<Issuers>,
    /// The auth callouts; none in a bare fleet, where NATS lets in nobody but its observer.
    pub callouts: Vec<Service>,
    /// The enroller, unless the fleet is bare.
    pub enroller: Option<Service>,
    /// `vk-nats`, unless the fleet is bare.
    pub vk: Option<Service>,
    /// `kubectl` as the cluster's administrator.
    pub kubectl: Kubectl,
    /// What it was asked to be like.
    pub options: FleetOptions,
    /// Its addresses and namespaces.
    pub network: Network,
    devices: Vec<Device>,
    folder: PathBuf,
    removed_on_drop: AtomicBool,
}

impl Fleet {
    /// Brings up a fleet that ends with this program.
    ///
    /// # Errors
    /// When a part does not come up; what there is of it has been removed then.
    pub async fn up(options: FleetOptions) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{:x}{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = binaries::state()?.join("runs").join(&id);
        Self::up_in(&folder, &id, Owner::Program(ProcessIdentity::own()?), options).await
    }

    /// Brings up a fleet in a folder of its own, for an owner.
    ///
    /// # Errors
    /// As [`Fleet::up`].
    pub async fn up_in(folder: &Path, id: &str, owner: Owner, options: FleetOptions) -> Result<Self> {
        ledger::require_ground()?;
        let lock = ledger::lock().await?;
        ledger::prune(&binaries::state()?.join("runs")).await?;
        ledger::remove(folder).await?;
        ledger::claim(folder, &owner)?;
        let network = Network::choose(id).await?;
        ledger::note_network(folder, &network)?;
        network.create().await?;
        drop(lock);

        write_json(&folder.join("fleet.json"), &Plan { options: options.clone(), network: network.clone() })?;
        let keep = matches!(owner, Owner::Person);
        let fleet = Self::assemble(folder, network, options).await?;
        fleet.removed_on_drop.store(!keep, Ordering::Relaxed);
        if let Err(error) = fleet.start().await {
            let kept = logs::collect(folder, &logs::folder()?.join("bring-up"))?;
            return Err(
                error.context(format!("the fleet did not come up; its logs are in {}", kept.display()))
            );
        }
        Ok(fleet)
    }

    /// Finds a fleet that another program started; starts nothing.
    ///
    /// # Errors
    /// When there is none in `folder`.
    pub async fn attach(folder: &Path) -> Result<Self> {
        let Plan { options, network } = read_json(&folder.join("fleet.json"))?;
        Self::assemble(folder, network, options).await
    }

    /// Ends and removes everything.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub async fn down(self) -> Result<()> {
        self.removed_on_drop.store(false, Ordering::Relaxed);
        ledger::remove(&self.folder).await
    }

    /// Brings the fleet back to what it was like after bring-up: everything runs and is connected, and the
    /// namespaces of scenarios are gone.
    ///
    /// # Errors
    /// When something does not come back.
    pub async fn clear(&self) -> Result<()> {
        if !self.nats.server.is_running() {
            self.nats.start().await?;
        }
        if !self.control_plane.apiserver.is_running() {
            self.control_plane.start_apiserver().await?;
        }
        if let Some(issuers) = &self.issuers {
            issuers.clear().await?;
        }
        for service in self.services().filter(|service| !service.process.is_running()) {
            service.start().await?;
        }
        for device in &self.devices {
            if let Ok(disk) = device.disk() {
                disk.free()?;
            }
            let agent = self.options.agents && self.is_enrolled(device);
            if !device.podman.service.is_running() || (agent && !device.agent.is_running()) {
                device.power_on().await?;
            }
            device.plug().await?;
        }
        let namespaces = self.kubectl.run("get namespaces --output name").await?;
        let of_the_cluster =
            |name: &str| name == "default" || name.starts_with(NAMESPACE) || name.starts_with("kube-");
        let left: Vec<&str> = namespaces
            .lines()
            .filter_map(|line| line.strip_prefix("namespace/"))
            .filter(|name| !of_the_cluster(name))
            .collect();
        if !left.is_empty() {
            self.kubectl.run(&format!("delete namespace {} --timeout 60s", left.join(" "))).await?;
        }
        Ok(())
    }

    /// Leaves it running when this value is dropped; the next run prunes it.
    pub fn keep(&self) {
        self.removed_on_drop.store(false, Ordering::Relaxed);
    }

    /// A device by name.
    ///
    /// # Errors
    /// When the fleet has none of that name.
    pub fn device(&self, name: &str) -> Result<&Device> {
        self.devices
            .iter()
            .find(|device| device.name == name)
            .with_context(|| format!("this fleet has no device `{name}`"))
    }

    /// All real devices.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The replica of `vk-nats`.
    ///
    /// # Errors
    /// When the fleet is bare.
    pub fn vk(&self) -> Result<&Service> {
        self.vk.as_ref().context("this fleet was started without vk-nats")
    }

    /// The enroller.
    ///
    /// # Errors
    /// When the fleet is bare.
    pub fn enroller(&self) -> Result<&Service> {
        self.enroller.as_ref().context("this fleet was started without an enroller")
    }

    /// The identity providers.
    ///
    /// # Errors
    /// When the fleet has none.
    pub fn issuers(&self) -> Result<&Issuers> {
        self.issuers.as_ref().context("this fleet was started without identity providers")
    }

    /// All programs of ours on the cluster side, in the order in which they are started.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.callouts.iter().chain(&self.enroller).chain(&self.vk)
    }

    /// The fleet's folder: logs, keys, state.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The fleet's own keys.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn keys(&self) -> Result<FleetKeyFiles> {
        FleetKeyFiles::open(&self.folder)
    }

    /// Runs a line of the `fleet` command with the administrator's rights.
    ///
    /// # Errors
    /// When the program is not built; a failure is an answer.
    pub async fn command(&self, line: &str) -> Result<Answer> {
        let mut command = Command::new(binaries::own("fleet")?);
        command.env("KUBECONFIG", self.kubectl.kubeconfig()).env("NO_PROXY", "*");
        let mut answer = Answer::of(command.args(line.split_whitespace())).await?;
        answer.command = format!("fleet {line}");
        Ok(answer)
    }

    /// A typed client with the administrator's rights.
    ///
    /// # Errors
    /// When the kubeconfig is damaged.
    pub async fn client(&self) -> Result<kube::Client> {
        fleet_daemon::install_crypto_provider();
        let config = Kubeconfig::read_from(self.kubectl.kubeconfig())?;
        let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        config.proxy_url = None;
        Ok(kube::Client::try_from(config)?)
    }

    /// Writes the objects that make devices exist, as the enroller does: for more of them than can go the real
    /// way one by one.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn enroll_all(&self, enrollments: &[Enrollment]) -> Result<()> {
        let client = self.client().await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let records: Api<Secret> = Api::namespaced(client, RECORDS_NAMESPACE);
        stream::iter(enrollments)
            .map(|enrollment| {
                let (nodes, records) = (&nodes, &records);
                async move {
                    let node = nodes.create(&PostParams::default(), &enrollment.node()).await?;
                    let uid = node.metadata.uid.context("a Node without UID")?;
                    let record = Record::new(enrollment.clone(), uid).secret(RECORDS_NAMESPACE);
                    records.create(&PostParams::default(), &record).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(8)
            .try_collect::<()>()
            .await
    }

    /// Writes the static NATS keys from the cluster's Secret to files, and nats-server's configuration with them, as
    /// an operator does whose servers are outside of the cluster. Both hold from the next start on.
    ///
    /// # Errors
    /// When the `fleet` command refuses.
    pub async fn take_static_keys(&self) -> Result<()> {
        let folder = self.nats.seed_folder().display();
        let line = format!("keys nats-init --seed-folder {folder} --output nats-conf");
        self.nats.configure(&self.command(&line).await?.success()?, self.options.observer)
    }

    /// Waits until a Node's condition `Ready` has a status: `True`, `False`, `Unknown`.
    ///
    /// # Errors
    /// When it has not after `within`.
    pub async fn node_ready(&self, node: &str, status: &str, within: Duration) -> Result<()> {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        until(format!("Node {node} to have Ready={status}"), within, async || {
            let seen = self.kubectl.run_args(&["get", "node", node, "--output", path]).await?;
            Ok(if seen == status { Look::Done(()) } else { Look::not_yet(format!("Ready={seen}")) })
        })
        .await
    }

    /// Every process of the fleet.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let devices = self.devices.iter().flat_map(|device| {
            let agent = self.options.agents.then_some(&device.agent);
            [Some(&device.podman.service), agent].into_iter().flatten()
        });
        let issuers = self.issuers.iter().flat_map(|issuers| [&issuers.devices, &issuers.persons]);
        let shared = self.control_plane.processes().into_iter().chain([&self.nats.server]);
        let shared = shared.chain(issuers.map(|issuer| &issuer.process));
        shared.chain(self.services().map(|service| &service.process)).chain(devices)
    }

    async fn assemble(folder: &Path, network: Network, options: FleetOptions) -> Result<Self> {
        let tools = Tools::locate().await?;
        let devices = (0..u8::try_from(options.devices.len())?)
            .map(|index| Device::new(folder, &network, index, &options))
            .collect::<Result<_>>()?;
        let ours = options.agents;
        Ok(Self {
            control_plane: ControlPlane::new(folder, &network, &tools, &options.control_plane)?,
            nats: Nats::new(folder, &network, &tools)?,
            issuers: options.issuers.then(|| Issuers::new(folder, &network, &tools)).transpose()?,
            callouts: (0..if ours { options.callouts } else { 0 })
                .map(|replica| callout::service(folder, &network, replica))
                .collect::<Result<_>>()?,
            enroller: ours.then(|| enroller::service(folder, &network)).transpose()?,
            vk: ours.then(|| vk::service(folder, &network, 0)).transpose()?,
            kubectl: Kubectl::new(tools.path("kubectl")?, control_plane::kubeconfig(folder), folder),
            devices,
            folder: folder.to_owned(),
            removed_on_drop: AtomicBool::new(false),
            options,
            network,
        })
    }

    async fn start(&self) -> Result<()> {
        ControlPlane::make_keys(&self.folder, &self.network)?;
        let images = self.images().await?;
        tracing::info!(
            "starting etcd, Kubernetes, nats-server, and Podman on {} devices",
            self.devices.len()
        );
        let servers = async {
            self.control_plane.start().await?;
            accounts::namespaces(&self.kubectl).await?;
            self.take_static_keys().await?;
            self.nats.start().await
        };
        tokio::try_join!(servers, self.prepare_devices(&images))?;
        let mut callout_settings = toml::Table::new();
        if let Some(issuers) = &self.issuers {
            issuers.start().await?;
            callout_settings = issuers.settings();
        }
        callout_settings.extend(self.options.callout_settings.clone());
        let (Some(vk), Some(enroller)) = (&self.vk, &self.enroller) else { return Ok(()) };
        tracing::info!("installing callout, enroller and vk-nats");
        let keys = self.keys()?;
        accounts::install(&self.kubectl, &self.nats, &keys).await?;
        let (kubectl, nats, folder, network) = (&self.kubectl, &self.nats, &self.folder, &self.network);
        let options = &self.options;
        let mut enroller_settings = toml::Table::new();
        if let Some(cidr) = &options.pod_cidr {
            enroller_settings.insert("pod-cidr".into(), cidr.clone().into());
        }
        tokio::try_join!(
            callout::configure(&self.callouts, folder, network, (kubectl, nats), &callout_settings),
            enroller::configure(enroller, folder, network, (kubectl, nats, &keys), &enroller_settings),
            vk::configure(vk, folder, network, (kubectl, nats, &keys), &options.vk_settings),
        )?;
        // Nobody else is let in before a callout is there.
        futures::future::try_join_all(self.callouts.iter().map(Service::start)).await?;
        tracing::info!("enrolling the devices");
        let issue = futures::future::try_join_all(self.devices.iter().map(async |device| {
            if !self.is_enrolled(device) {
                return device.configure(&options.agent_settings, None);
            }
            let report = if options.report_pod_ip { " --report-pod-ip" } else { "" };
            let line = format!("device enroll {}{report} --output -", device.name);
            let intent = serde_json::from_str(&self.command(&line).await?.success()?)?;
            device.configure(&options.agent_settings, Some(&intent))
        }));
        tokio::try_join!(enroller.start(), vk.start(), issue)?;
        for device in self.devices.iter().filter(|device| self.is_enrolled(device)) {
            device.agent.start().await?;
        }
        tracing::info!("waiting for the Nodes to be Ready");
        for device in self.devices.iter().filter(|device| self.is_enrolled(device)) {
            self.node_ready(&device.name, "True", Duration::from_secs(60)).await?;
        }
        Ok(())
    }

    /// Whether it is a device of the fleet from the beginning.
    fn is_enrolled(&self, device: &Device) -> bool {
        !self.options.unenrolled.contains(&device.name)
    }

    async fn images(&self) -> Result<Vec<Image>> {
        // Not below the fleet's folder: every run would build the same archives.
        let folder = binaries::cache()?.join("images");
        let mut images = Vec::new();
        for tag in &self.options.images {
            images.push(image::hello(&folder, tag).await?);
        }
        Ok(images)
    }

    async fn prepare_devices(&self, images: &[Image]) -> Result<()> {
        futures::future::try_join_all(self.devices.iter().enumerate().map(async |(index, device)| {
            self.network.add_device(u8::try_from(index)?).await?;
            device.prepare(images).await
        }))
        .await
        .map(drop)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !self.removed_on_drop.load(Ordering::Relaxed) {
            return;
        }
        // Dropped inside a runtime or outside of one: a thread of its own works in both.
        let folder = self.folder.clone();
        let removal = std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ledger::remove(&folder))
        });
        match removal.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the fleet is not removed: {error:#}"),
            Err(_) => tracing::error!("removing the fleet panicked"),
        }
    }
}
