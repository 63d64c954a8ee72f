//! How this process is set up: file, environment, flags; checked at the start.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use fleet_daemon::{
    credential::{DeviceCredential, Given},
    settings::{Seconds, SettingsError, invalid, parse, required},
    telemetry::LogFormat,
};
use serde::{Deserialize, Serialize};

use crate::{
    devices::{Fleet, FleetFiles},
    nodes::PortRange,
};

/// Settings as they are given. Every key may stand in the settings file (TOML), in the environment as
/// `VK_NATS_<KEY>`, or be a flag; flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Flags {
    /// Kubeconfig of the process's own account; without it the in-cluster account is used.
    #[arg(long, env = "VK_NATS_KUBECONFIG", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's own namespace, where enrollment records and the owner's Lease are [default: harmony-fleet].
    #[arg(long, env = "VK_NATS_NAMESPACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Identity in the owner's Lease; a process with the same identity takes over at once [default: hostname].
    #[arg(long, env = "VK_NATS_IDENTITY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// This process's credential for NATS (TOML), in the place of the four settings below.
    #[arg(long, env = "VK_NATS_NATS_CREDENTIAL_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_credential_file: Option<PathBuf>,
    /// NATS server, e.g. tls://nats.example:4222.
    #[arg(long, env = "VK_NATS_NATS_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM); setting it makes the connection TLS.
    #[arg(long, env = "VK_NATS_NATS_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_ca_file: Option<PathBuf>,
    /// File with the seed of this process's NATS user (SU…) [default: a fresh key at each start].
    #[arg(long, env = "VK_NATS_NATS_SEED_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_seed_file: Option<PathBuf>,
    /// File with a service account's token for NATS, read at each connection: it may be renewed. One of this and
    /// nats-seed-file is required.
    #[arg(long, env = "VK_NATS_NATS_TOKEN_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_token_file: Option<PathBuf>,
    /// Files with the seeds of the fleet's curve keys (SX…), each named VERSION.nk, e.g. 1.nk; or folders of such
    /// files. Read again when they change.
    #[arg(long, env = "VK_NATS_FLEET_KEY_FILES", value_name = "FILES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_key_files: Option<Vec<PathBuf>>,
    /// Statement of the fleet's curve keys, signed with the root key (JSON), to be handed out to devices that have
    /// an older one. Read again when it changes.
    #[arg(long, env = "VK_NATS_FLEET_KEYS_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_keys_file: Option<PathBuf>,
    /// IP address that Nodes publish (as type Hostname), where the API server reaches this process.
    #[arg(long, env = "VK_NATS_NODE_ADDRESS", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_address: Option<String>,
    /// Ports for Nodes, one each, first and last included [default: 10300-20299].
    #[arg(long, env = "VK_NATS_NODE_PORT_RANGE", value_name = "FIRST-LAST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port_range: Option<String>,
    /// Address on which the kubelet API of all Nodes listens [default: 0.0.0.0].
    #[arg(long, env = "VK_NATS_LISTEN_ADDRESS", value_name = "IP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_address: Option<String>,
    /// Serving certificate of the kubelet API (PEM chain) [default: the cluster signs one].
    #[arg(long, env = "VK_NATS_SERVING_CERT_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_cert_file: Option<PathBuf>,
    /// Key of the serving certificate (PEM), together with serving-cert-file.
    #[arg(long, env = "VK_NATS_SERVING_KEY_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_key_file: Option<PathBuf>,
    /// Seconds that a certificate of the cluster is to live; it is renewed at 70 to 90 % [default: 604800].
    #[arg(long, env = "VK_NATS_SERVING_CERT_LIFETIME", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_cert_lifetime: Option<Seconds>,
    /// CA of the API server's kubelet client certificate (PEM); without it only bearer tokens are believed.
    #[arg(long, env = "VK_NATS_CLIENT_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
    /// Address of /healthz, /readyz and /metrics, e.g. 0.0.0.0:8080; without it there are none.
    #[arg(long, env = "VK_NATS_HEALTH_LISTEN", value_name = "ADDR:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_listen: Option<String>,
    /// Format of the log [default: text].
    #[arg(long, env = "VK_NATS_LOG_FORMAT", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Level of the log, or a filter such as info,vk_nats=debug [default: info].
    #[arg(long, env = "VK_NATS_LOG_LEVEL", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Duration of the Nodes' Leases in seconds [default: 40].
    #[arg(long, env = "VK_NATS_NODE_LEASE_DURATION", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_lease_duration: Option<Seconds>,
    /// Seconds between the heartbeats that devices are told to send [default: 10].
    #[arg(long, env = "VK_NATS_HEARTBEAT_INTERVAL", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval: Option<Seconds>,
    /// Seconds that open work may take after a signal [default: 10].
    #[arg(long, env = "VK_NATS_SHUTDOWN_GRACE", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_grace: Option<Seconds>,
}

/// Where the serving certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServingCertificate {
    /// From files that somebody else keeps.
    Files {
        /// Chain, PEM.
        certificate: PathBuf,
        /// Key, PEM.
        key: PathBuf,
    },
    /// From the cluster's signer `kubernetes.io/kubelet-serving`.
    Cluster {
        /// For how long each is asked.
        lifetime: Duration,
    },
}

/// Settings that were checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kubeconfig, or in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's namespace.
    pub namespace: String,
    /// Holder identity.
    pub identity: String,
    /// Where NATS is, and how this process logs in there.
    pub nats: DeviceCredential,
    /// Where the fleet's keys lie.
    pub fleet_files: FleetFiles,
    /// The fleet's keys as they were at the start.
    pub fleet: Fleet,
    /// Published by Nodes.
    pub node_address: IpAddr,
    /// Ports of Nodes.
    pub node_port_range: PortRange,
    /// Where the kubelet API listens.
    pub listen_address: IpAddr,
    /// Serving certificate of the kubelet API.
    pub serving_certificate: ServingCertificate,
    /// CA of clients; `None`: only tokens are believed.
    pub client_ca_file: Option<PathBuf>,
    /// Where health is served.
    pub health_listen: Option<SocketAddr>,
    /// `leaseDurationSeconds` of Nodes' Leases.
    pub node_lease_duration: Duration,
    /// Interval of heartbeats.
    pub heartbeat_interval: Duration,
    /// Deadline of the shutdown.
    pub shutdown_grace: Duration,
}

impl Flags {
    /// Format and level of the log, needed before anything else is checked.
    pub fn log(&self) -> (LogFormat, &str) {
        (self.log_format.unwrap_or(LogFormat::Text), self.log_level.as_deref().unwrap_or("info"))
    }

    /// Checks everything, and reads the key files.
    ///
    /// # Errors
    /// [`SettingsError`], which names the key, the value and what was expected.
    pub fn check(self) -> Result<Settings, SettingsError> {
        let ip = "an IP address, e.g. 10.0.0.5";
        let node_address = required("node-address", self.node_address, ip)?;
        let node_address: IpAddr = parse("node-address", &node_address, ip)?;
        if node_address.is_unspecified() || node_address.is_loopback() {
            // The API server refuses to proxy there.
            return Err(invalid(
                "node-address",
                node_address,
                "an address that the API server can reach, no loopback",
            ));
        }
        let range = self.node_port_range.unwrap_or_else(|| "10300-20299".to_owned());
        let listen = self.listen_address.unwrap_or_else(|| "0.0.0.0".to_owned());
        let nats = Given {
            nats_credential_file: self.nats_credential_file,
            nats_url: self.nats_url,
            nats_ca_file: self.nats_ca_file,
            nats_seed_file: self.nats_seed_file,
            nats_token_file: self.nats_token_file,
        };
        let nats = nats.resolve()?;
        let key_files =
            required("fleet-key-files", self.fleet_key_files, "files named <version>.nk, e.g. 1.nk")?;
        let (fleet_files, fleet) = fleet(key_files, self.fleet_keys_file)?;
        let node_lease_duration = self.node_lease_duration.unwrap_or(Seconds(40));
        if node_lease_duration < Seconds(20) {
            return Err(invalid(
                "node-lease-duration",
                node_lease_duration,
                "20 or more: Leases are renewed every 15 s",
            ));
        }
        let heartbeat_interval = self.heartbeat_interval.unwrap_or(Seconds(10));
        if !(Seconds(1)..=Seconds(300)).contains(&heartbeat_interval) {
            return Err(invalid("heartbeat-interval", heartbeat_interval, "1 to 300 seconds"));
        }
        let serving_certificate =
            serving_certificate(self.serving_cert_file, self.serving_key_file, self.serving_cert_lifetime)?;
        Ok(Settings {
            kubeconfig: self.kubeconfig,
            namespace: self.namespace.unwrap_or_else(|| "harmony-fleet".to_owned()),
            identity: match self.identity {
                Some(identity) if !identity.trim().is_empty() => identity,
                Some(identity) => return Err(invalid("identity", identity, "a name that is not empty")),
                None => required("identity", hostname(), "a name, since this machine has no hostname")?,
            },
            nats,
            fleet_files,
            fleet,
            node_address,
            node_port_range: parse("node-port-range", &range, "two ports joined by '-', e.g. 10300-20299")?,
            listen_address: parse("listen-address", &listen, ip)?,
            serving_certificate,
            client_ca_file: self.client_ca_file,
            health_listen: self
                .health_listen
                .map(|addr| parse("health-listen", &addr, "an address and a port, e.g. 0.0.0.0:8080"))
                .transpose()?,
            node_lease_duration: node_lease_duration.into(),
            heartbeat_interval: heartbeat_interval.into(),
            shutdown_grace: self.shutdown_grace.unwrap_or(Seconds(10)).into(),
        })
    }
}

fn serving_certificate(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    lifetime: Option<Seconds>,
) -> Result<ServingCertificate, SettingsError> {
    let lifetime = lifetime.unwrap_or(Seconds(7 * 24 * 3600));
    // The API server takes no less.
    if !(Seconds(600)..=Seconds(10 * 365 * 24 * 3600)).contains(&lifetime) {
        return Err(invalid("serving-cert-lifetime", lifetime, "600 seconds to 10 years"));
    }
    match (certificate, key) {
        (None, None) => Ok(ServingCertificate::Cluster { lifetime: lifetime.into() }),
        (certificate, key) => Ok(ServingCertificate::Files {
            certificate: required("serving-cert-file", certificate, "a PEM file, since there is a key file")?,
            key: required("serving-key-file", key, "a PEM file, since there is a certificate file")?,
        }),
    }
}

fn fleet(seeds: Vec<PathBuf>, statement: Option<PathBuf>) -> Result<(FleetFiles, Fleet), SettingsError> {
    let files = FleetFiles { seeds, statement };
    let fleet = files.read().map_err(|error| {
        let names: Vec<String> = files.seeds.iter().map(|file| file.display().to_string()).collect();
        invalid("fleet-key-files", names.join(","), &because(&error))
    })?;
    Ok((files, fleet))
}

fn because(error: &dyn std::error::Error) -> String {
    format!("files that can be read and hold keys; {error}")
}

fn hostname() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
