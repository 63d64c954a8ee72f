//! `vk-nats` in the cluster's namespace, with the account that it has in a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::permissions::{Identity, Permissions};
use nkeys::KeyPair;

use crate::answer;
use crate::binaries;
use crate::control_plane::API_PORT;
use crate::keys::FleetKeyFiles;
use crate::kubectl::Kubectl;
use crate::nats::Nats;
use crate::netns::Network;
use crate::pki::{Pki, write_private};
use crate::process::{Process, Spec};
use crate::wait::Look;

/// The fleet's own namespace in the cluster.
pub const NAMESPACE: &str = "harmony-fleet";
/// The service account of `vk-nats` in its manifests.
pub const SERVICE_ACCOUNT: &str = "vk-nats";
const HEALTH_PORT: u16 = 8090;

/// One replica of `vk-nats`.
#[derive(Debug)]
pub struct VkNats {
    /// `vk-nats run`.
    pub process: Process,
    /// The address that it publishes for its Nodes.
    pub address: Ipv4Addr,
    name: String,
    api_address: Ipv4Addr,
    config: PathBuf,
    seed: PathBuf,
    pki: Pki,
}

impl VkNats {
    /// Describes replica `replica` of the fleet in `fleet`; starts nothing.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn new(fleet: &Path, network: &Network, replica: u8) -> Result<Self> {
        let name = format!("vk-nats-{replica}");
        let config = fleet.join(format!("{name}.toml"));
        let process = Process::new(
            fleet,
            Spec {
                name: name.clone(),
                program: binaries::own("vk-nats")?,
                args: vec!["run".into(), "--config".into(), config.display().to_string()],
                env: BTreeMap::new(),
                netns: Some(network.cluster()),
            },
        );
        let pki = Pki::open(fleet)?;
        let seed = fleet.join("nats").join(format!("{name}.nk"));
        let (address, api_address) = (network.vk_address(replica), network.cluster_address());
        Ok(Self { process, address, name, api_address, config, seed, pki })
    }

    /// Applies the namespace and the account that `vk-nats` runs with.
    ///
    /// # Errors
    /// When the manifests are missing or refused.
    pub async fn install(kubectl: &Kubectl) -> Result<()> {
        let namespace = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
        });
        kubectl.apply(&namespace.to_string()).await?;
        let manifest = binaries::repository()?.join("vk-nats/rbac.yaml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
        kubectl.apply(&text).await.map(drop)
    }

    /// Makes its keys and certificates, its NATS user and its settings; settings in
    /// `extra` win.
    ///
    /// # Errors
    /// When a server refuses or a file cannot be written.
    pub async fn configure(
        &self,
        kubectl: &Kubectl,
        nats: &Nats,
        keys: &FleetKeyFiles,
        extra: &toml::Table,
    ) -> Result<()> {
        let token = kubectl
            .run(&format!("create token {SERVICE_ACCOUNT} --namespace {NAMESPACE} --duration 720h"))
            .await?;
        let server = format!("https://{}:{API_PORT}", self.api_address);
        let kubeconfig = self.pki.token_kubeconfig(&self.name, &server, "cluster-ca", token.trim())?;
        self.pki.server("cluster-ca", &self.name, &[], &[self.address])?;

        let user = KeyPair::new_user();
        write_private(&self.seed, &user.seed()?)?;
        nats.allow([(user.public_key(), Permissions::of(&Identity::ClusterSide))]).await?;

        let mut settings = toml::Table::new();
        let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value.into());
        set("kubeconfig", kubeconfig.display().to_string());
        set("namespace", NAMESPACE.to_owned());
        set("identity", self.name.clone());
        set("nats-url", nats.url());
        set("nats-ca-file", nats.ca_file().display().to_string());
        set("nats-seed-file", self.seed.display().to_string());
        set("node-address", self.address.to_string());
        set("listen-address", self.address.to_string());
        set("serving-cert-file", self.pki.cert(&self.name).display().to_string());
        set("serving-key-file", self.pki.key(&self.name).display().to_string());
        set("client-ca-file", self.pki.cert("cluster-ca").display().to_string());
        set("health-listen", format!("{}:{HEALTH_PORT}", self.address));
        set("log-level", "info,vk_nats=debug,fleet_daemon=debug".to_owned());
        let seeds: Vec<_> = keys.curve_seeds().iter().map(|path| path.display().to_string()).collect();
        settings.insert("fleet-key-files".into(), seeds.into());
        settings.extend(extra.clone());
        Ok(fs::write(&self.config, toml::to_string(&settings)?)?)
    }

    /// Starts it and waits until `/readyz` is content.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.process.start().await?;
        self.process
            .ready(Duration::from_secs(60), async || self.http("/readyz").await.map(|_| Look::Done(())))
            .await
    }

    /// `kill -9`, and a start.
    ///
    /// # Errors
    /// As [`VkNats::start`].
    pub async fn crash_and_restart(&self) -> Result<()> {
        self.process.kill().await?;
        self.start().await
    }

    /// Its metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        self.http("/metrics").await
    }

    async fn http(&self, path: &str) -> Result<String> {
        let url = format!("http://{}:{HEALTH_PORT}{path}", self.address);
        let flags = ["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--max-time", "5"];
        answer::run("curl", flags.into_iter().chain([url.as_str()])).await
    }
}
