//! How this process is set up: file, environment, flags; checked at the start.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use fleet_daemon::{
    credential::{DeviceCredential, Given},
    settings::{Checks, Daemon, NatsUrl, Origins, Seconds, SettingsError},
    telemetry::{LogFormat, LogLevel},
};
use harmony_config::Config;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    devices::{Fleet, FleetFiles},
    nodes::PortRange,
};

/// Settings as they are given. Every key may stand in the settings file, in the environment as `VK_NATS_<KEY>`, or be
/// a flag; flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VkNats {
    /// Kubeconfig of the process's own account; without it the in-cluster account is used.
    #[schemars(extend("x-value-name" = "FILE"))]
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's own namespace, where the owner's Lease is.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// Identity in the owner's Lease; a process with the same identity takes over at once [default: hostname].
    #[schemars(extend("x-expected" = "a name that is not empty"))]
    pub identity: Option<String>,
    /// This process's credential for NATS (TOML), in the place of nats-url, nats-ca-file, nats-seed-file and
    /// nats-token-file.
    pub nats_credential_file: Option<PathBuf>,
    /// NATS server, e.g. tls://nats.example:4222; several are separated by commas.
    pub nats_url: Option<NatsUrl>,
    /// CA of the NATS server's certificate (PEM); setting it makes the connection TLS.
    pub nats_ca_file: Option<PathBuf>,
    /// File with the seed of this process's NATS user (SU…) [default: a fresh key at each start].
    pub nats_seed_file: Option<PathBuf>,
    /// File with a service account's token for NATS, read at each connection: it may be renewed. One of this and
    /// nats-seed-file is required.
    pub nats_token_file: Option<PathBuf>,
    /// Files with the seeds of the fleet's curve keys (SX…), each named VERSION.nk, e.g. 1.nk; or folders of such
    /// files. Read again when they change.
    #[schemars(extend("x-expected" = "files named <version>.nk, e.g. 1.nk"))]
    pub fleet_key_files: Vec<PathBuf>,
    /// Statement of the fleet's curve keys, signed with the root key (JSON), to be handed out to devices that have
    /// an older one. Read again when it changes.
    pub fleet_keys_file: Option<PathBuf>,
    /// IP address that Nodes publish (as type Hostname), where the API server reaches this process.
    #[schemars(extend("x-value-name" = "IP", "x-expected" = "an IP address, e.g. 10.0.0.5"))]
    pub node_address: IpAddr,
    /// Ports for Nodes, one each, first and last included.
    #[serde(default)]
    pub node_port_range: PortRange,
    /// Address on which the kubelet API of all Nodes listens.
    #[serde(default = "everywhere")]
    #[schemars(extend("x-value-name" = "IP", "x-expected" = "an IP address, e.g. 10.0.0.5"))]
    pub listen_address: IpAddr,
    /// Serving certificate of the kubelet API (PEM chain) [default: the cluster signs one].
    pub serving_cert_file: Option<PathBuf>,
    /// Key of the serving certificate (PEM), together with serving-cert-file.
    pub serving_key_file: Option<PathBuf>,
    /// Seconds that a certificate of the cluster is to live, 600 (the API server takes no less) to ten years; it is
    /// renewed at 70 to 90 %.
    #[serde(default = "week")]
    #[schemars(range(min = 600, max = 315_360_000))]
    pub serving_cert_lifetime: Seconds,
    /// CA of the API server's kubelet client certificate (PEM); without it only bearer tokens are believed.
    pub client_ca_file: Option<PathBuf>,
    /// Address of /healthz, /readyz and /metrics, e.g. 0.0.0.0:8080; without it there are none.
    #[schemars(extend("x-value-name" = "ADDR:PORT", "x-expected" = "an address and a port, e.g. 0.0.0.0:8080"))]
    pub health_listen: Option<SocketAddr>,
    /// Format of the log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Level of the log, or a filter such as info,vk_nats=debug.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Duration of the Nodes' Leases in seconds, 20 or more: they are renewed every 15 s.
    #[serde(default = "lease")]
    #[schemars(range(min = 20))]
    pub node_lease_duration: Seconds,
    /// Seconds between the heartbeats that devices are told to send, 1 to 300.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 300))]
    pub heartbeat_interval: Seconds,
    /// Seconds that open work may take after a signal.
    #[serde(default = "ten")]
    pub shutdown_grace: Seconds,
}

impl Daemon for VkNats {
    const PREFIX: &'static str = "VK_NATS_";
}

fn namespace() -> String {
    "harmony-fleet".to_owned()
}

fn everywhere() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}

fn week() -> Seconds {
    Seconds(7 * 24 * 3600)
}

fn lease() -> Seconds {
    Seconds(40)
}

fn ten() -> Seconds {
    Seconds(10)
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

impl VkNats {
    /// Checks what no type can say, and reads the key files.
    ///
    /// # Errors
    /// [`SettingsError`] with all that is wrong: the key, the value, where it was given and what was expected.
    pub fn check(self, origins: &Origins) -> Result<Settings, SettingsError> {
        let mut checks = Checks::new(origins);
        if self.node_address.is_unspecified() || self.node_address.is_loopback() {
            // The API server refuses to proxy there.
            let expected = "an address that the API server can reach, no loopback";
            checks.invalid("node-address", self.node_address, expected);
        }
        let nats = Given {
            nats_credential_file: self.nats_credential_file,
            nats_url: self.nats_url,
            nats_ca_file: self.nats_ca_file,
            nats_seed_file: self.nats_seed_file,
            nats_token_file: self.nats_token_file,
        };
        let nats = nats.resolve(&mut checks);
        let fleet_files = FleetFiles { seeds: self.fleet_key_files, statement: self.fleet_keys_file };
        let fleet = fleet(&fleet_files, &mut checks);
        let files = (self.serving_cert_file, self.serving_key_file);
        let serving_certificate = serving_certificate(files, self.serving_cert_lifetime, &mut checks);
        let identity = identity(self.identity, &mut checks);
        let (Some(nats), Some(fleet), Some(serving_certificate), Some(identity)) =
            (nats, fleet, serving_certificate, identity)
        else {
            return Err(checks.refused());
        };
        checks.done()?;
        Ok(Settings {
            kubeconfig: self.kubeconfig,
            namespace: self.namespace,
            identity,
            nats,
            fleet_files,
            fleet,
            node_address: self.node_address,
            node_port_range: self.node_port_range,
            listen_address: self.listen_address,
            serving_certificate,
            client_ca_file: self.client_ca_file,
            health_listen: self.health_listen,
            node_lease_duration: self.node_lease_duration.into(),
            heartbeat_interval: self.heartbeat_interval.into(),
            shutdown_grace: self.shutdown_grace.into(),
        })
    }
}

fn identity(given: Option<String>, checks: &mut Checks<'_>) -> Option<String> {
    match given {
        Some(identity) if identity.trim().is_empty() => {
            checks.invalid("identity", identity, "a name that is not empty");
            None
        }
        Some(identity) => Some(identity),
        None => checks.required("identity", hostname(), "a name, since this machine has no hostname"),
    }
}

fn serving_certificate(
    files: (Option<PathBuf>, Option<PathBuf>),
    lifetime: Seconds,
    checks: &mut Checks<'_>,
) -> Option<ServingCertificate> {
    match files {
        (None, None) => Some(ServingCertificate::Cluster { lifetime: lifetime.into() }),
        (certificate, key) => {
            let expected = "a PEM file, since there is a key file";
            let certificate = checks.required("serving-cert-file", certificate, expected);
            let key =
                checks.required("serving-key-file", key, "a PEM file, since there is a certificate file");
            Some(ServingCertificate::Files { certificate: certificate?, key: key? })
        }
    }
}

fn fleet(files: &FleetFiles, checks: &mut Checks<'_>) -> Option<Fleet> {
    let read = files.read().map_err(|error| {
        let names: Vec<String> = files.seeds.iter().map(|file| file.display().to_string()).collect();
        let expected = format!("files that can be read and hold keys; {error}");
        checks.invalid("fleet-key-files", names.join(","), &expected);
    });
    read.ok()
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
