//! One of our own long-running programs of the cluster side: its settings file, its process, its health.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::answer;
use crate::binaries;
use crate::netns::Network;
use crate::process::{Process, Spec};
use crate::wait::Look;

/// A program that takes `run --config FILE` and serves `/readyz` and `/metrics`.
#[derive(Debug)]
pub struct Service {
    /// Its process.
    pub process: Process,
    /// Its address in the cluster's namespace.
    pub address: Ipv4Addr,
    /// Its name, unique in the fleet.
    pub name: String,
    health_port: u16,
    config: PathBuf,
}

impl Service {
    /// Describes the program `program` under a name of its own; starts nothing.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn new(
        fleet: &Path,
        network: &Network,
        (program, replica): (&str, u8),
        address: Ipv4Addr,
        health_port: u16,
    ) -> Result<Self> {
        let name = format!("{program}-{replica}");
        let config = fleet.join(format!("{name}.toml"));
        let process = Process::new(
            fleet,
            Spec {
                name: name.clone(),
                program: binaries::own(program)?,
                args: vec!["run".into(), "--config".into(), config.display().to_string()],
                env: BTreeMap::new(),
                netns: Some(network.cluster()),
            },
        );
        Ok(Self { process, address, name, health_port, config })
    }

    /// Writes its settings; the health address is added. They hold from the next start on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, mut settings: toml::Table) -> Result<()> {
        settings.insert("health-listen".into(), format!("{}:{}", self.address, self.health_port).into());
        Ok(fs::write(&self.config, toml::to_string(&settings)?)?)
    }

    /// Changes its settings from the next start on.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn reconfigure(&self, change: impl FnOnce(&mut toml::Table)) -> Result<()> {
        let text = fs::read_to_string(&self.config)
            .with_context(|| format!("{} is not configured yet", self.name))?;
        let mut settings = toml::from_str(&text)?;
        change(&mut settings);
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
    /// As [`Service::start`].
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

    /// What `/readyz` says, ready or not.
    ///
    /// # Errors
    /// When it does not answer at all.
    pub async fn ready_report(&self) -> Result<String> {
        let url = format!("http://{}:{}/readyz", self.address, self.health_port);
        let flags = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "5"];
        answer::run("curl", flags.into_iter().chain([url.as_str()])).await
    }

    async fn http(&self, path: &str) -> Result<String> {
        let url = format!("http://{}:{}{path}", self.address, self.health_port);
        let flags = ["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--max-time", "5"];
        answer::run("curl", flags.into_iter().chain([url.as_str()])).await
    }
}
