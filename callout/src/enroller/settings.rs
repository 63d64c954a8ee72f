//! How the enroller is set up: file, environment, flags; checked at the start.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use fleet_daemon::{
    credential::{DeviceCredential, Given},
    nats::NkeySeed,
    settings::{Checks, Daemon, NatsUrl, Origins, Seconds, SettingsError},
    telemetry::{LogFormat, LogLevel},
    text_setting,
};
use fleet_wire::{
    enrollment::{RECORDS_NAMESPACE, TOKENS_NAMESPACE},
    keys::FleetKeys,
    name::KeyVersion,
};
use harmony_config::Config;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings as they are given. Every key may stand in the settings file, in the environment as `ENROLLER_<KEY>`, or be
/// a flag; flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Enroller {
    /// Kubeconfig of the process's own account; without it the in-cluster account is used.
    #[schemars(extend("x-value-name" = "FILE"))]
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's own namespace, where the pods of vk-nats are.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// Namespace of the enrollment records.
    #[serde(default = "records_namespace")]
    pub records_namespace: String,
    /// Namespace of the enrollment tokens.
    #[serde(default = "tokens_namespace")]
    pub tokens_namespace: String,
    /// This process's credential for NATS (TOML), in the place of nats-url, nats-ca-file and nats-token-file.
    pub nats_credential_file: Option<PathBuf>,
    /// NATS server, e.g. tls://nats.example:4222; several are separated by commas.
    pub nats_url: Option<NatsUrl>,
    /// CA of the NATS server's certificate (PEM); setting it makes the connection TLS.
    pub nats_ca_file: Option<PathBuf>,
    /// Service-account token with the audience `nats`, projected into the pod.
    pub nats_token_file: Option<PathBuf>,
    /// Seed of the nkey (SU…) of the user in NATS' system account that ends connections.
    #[schemars(extend("x-expected" = "a file with the seed of an nkey (SU…)"))]
    pub system_seed_file: PathBuf,
    /// Files with the seeds of the enroller's curve keys (SX…), each named VERSION.nk, e.g. 1.nk.
    #[schemars(extend("x-expected" = "files named <version>.nk, e.g. 1.nk"))]
    pub enroller_key_files: Vec<PathBuf>,
    /// The root-signed statement of the fleet's keys (JSON) that devices are handed.
    #[schemars(extend("x-expected" = "the file with the root-signed statement of the fleet's keys"))]
    pub fleet_keys_file: PathBuf,
    /// Hours that the record of a revoked device is kept, and can be taken back, 1 to 87600.
    #[serde(default = "month")]
    #[schemars(range(min = 1, max = 87_600), extend("x-value-name" = "HOURS"))]
    pub retention: u64,
    /// Block for spec.podCIDRs of all devices, where the cluster allocates node CIDRs.
    pub pod_cidr: Option<Cidr>,
    /// Whether Nodes of devices that asked by themselves get the taint.
    #[serde(default = "yes")]
    pub taint: bool,
    /// IP addresses of vk-nats outside the cluster, for which serving certificates are approved.
    #[serde(default)]
    #[schemars(extend("x-value-name" = "IPS"))]
    pub serving_addresses: Vec<IpAddr>,
    /// Address of /healthz, /readyz and /metrics, e.g. 0.0.0.0:8080; without it there are none.
    #[schemars(extend("x-value-name" = "ADDR:PORT", "x-expected" = "an address and a port, e.g. 0.0.0.0:8080"))]
    pub health_listen: Option<SocketAddr>,
    /// Format of the log.
    #[serde(default)]
    pub log_format: LogFormat,
    /// Level of the log, or a filter such as info,callout=debug.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Seconds that open work may take after a signal.
    #[serde(default = "grace")]
    pub shutdown_grace: Seconds,
}

impl Daemon for Enroller {
    const PREFIX: &'static str = "ENROLLER_";
}

fn namespace() -> String {
    "harmony-fleet".to_owned()
}

fn records_namespace() -> String {
    RECORDS_NAMESPACE.to_owned()
}

fn tokens_namespace() -> String {
    TOKENS_NAMESPACE.to_owned()
}

fn month() -> u64 {
    720
}

fn yes() -> bool {
    true
}

fn grace() -> Seconds {
    Seconds(10)
}

/// A block of addresses, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cidr(String);

/// Why a text is no [`Cidr`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an address and a prefix length, e.g. 10.244.255.0/24")]
pub struct CidrError;

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, length) = text.split_once('/').ok_or(CidrError)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError)?;
        let length: u8 = length.parse().map_err(|_| CidrError)?;
        match length <= if address.is_ipv4() { 32 } else { 128 } {
            true => Ok(Self(text.to_owned())),
            false => Err(CidrError),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_setting!(Cidr, "CIDR", "an address and a prefix length, e.g. 10.244.255.0/24");

/// Settings that were checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kubeconfig, or in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's namespace.
    pub namespace: String,
    /// That of the records.
    pub records_namespace: String,
    /// That of the tokens.
    pub tokens_namespace: String,
    /// Where NATS is, and how this process logs in there.
    pub nats: DeviceCredential,
    /// The user in the system account.
    pub system_seed: NkeySeed,
    /// The enroller's secret curve keys.
    pub enroller_keys: FleetKeys,
    /// Statement of the fleet's keys.
    pub fleet_keys_file: PathBuf,
    /// How long revoked records are kept.
    pub retention: Duration,
    /// For `spec.podCIDRs`.
    pub pod_cidr: Option<String>,
    /// Taint of devices that asked by themselves.
    pub taint: bool,
    /// Addresses for serving certificates besides those of running pods.
    pub serving_addresses: BTreeSet<IpAddr>,
    /// Where health is served.
    pub health_listen: Option<SocketAddr>,
    /// Deadline of the shutdown.
    pub shutdown_grace: Duration,
}

impl Enroller {
    /// Checks what no type can say, and reads the key files.
    ///
    /// # Errors
    /// [`SettingsError`] with all that is wrong: the key, the value, where it was given and what was expected.
    pub fn check(self, origins: &Origins) -> Result<Settings, SettingsError> {
        let mut checks = Checks::new(origins);
        let system_seed = NkeySeed::from_file(&self.system_seed_file).map_err(|error| {
            checks.invalid("system-seed-file", self.system_seed_file.display(), &because(&error));
        });
        let enroller_keys = keys(&self.enroller_key_files, &mut checks);
        if self.namespace == self.records_namespace {
            checks.invalid(
                "records-namespace",
                &self.records_namespace,
                "another namespace than `namespace`: who reads records must not read the fleet's keys",
            );
        }
        if [&self.namespace, &self.records_namespace].contains(&&self.tokens_namespace) {
            checks.invalid(
                "tokens-namespace",
                &self.tokens_namespace,
                "another namespace than `namespace` and `records-namespace`: this process must not read the fleet's keys, and the callout must not read tokens",
            );
        }
        let nats = Given {
            nats_credential_file: self.nats_credential_file,
            nats_url: self.nats_url,
            nats_ca_file: self.nats_ca_file,
            nats_seed_file: None,
            nats_token_file: self.nats_token_file,
        };
        let nats = nats.resolve(&mut checks);
        let (Ok(system_seed), Some(enroller_keys), Some(nats)) = (system_seed, enroller_keys, nats) else {
            return Err(checks.refused());
        };
        checks.done()?;
        Ok(Settings {
            kubeconfig: self.kubeconfig,
            namespace: self.namespace,
            records_namespace: self.records_namespace,
            tokens_namespace: self.tokens_namespace,
            nats,
            system_seed,
            enroller_keys,
            fleet_keys_file: self.fleet_keys_file,
            retention: Duration::from_secs(self.retention * 3600),
            pod_cidr: self.pod_cidr.map(|cidr| cidr.0),
            taint: self.taint,
            serving_addresses: self.serving_addresses.into_iter().collect(),
            health_listen: self.health_listen,
            shutdown_grace: self.shutdown_grace.into(),
        })
    }
}

fn keys(files: &[PathBuf], checks: &mut Checks<'_>) -> Option<FleetKeys> {
    let key = "enroller-key-files";
    let seeds: Vec<_> = files.iter().map(|file| seed(key, file, checks)).collect();
    let keys = FleetKeys::from_seeds(seeds.into_iter().collect::<Option<Vec<_>>>()?);
    let refused = keys.map_err(|error| {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        checks.invalid(key, names.join(","), &because(&error));
    });
    refused.ok()
}

fn seed(key: &str, file: &Path, checks: &mut Checks<'_>) -> Option<(KeyVersion, String)> {
    let Some(version) = version(file) else {
        let expected = "files named <version>.nk with a version from 1, e.g. 1.nk";
        checks.invalid(key, file.display(), expected);
        return None;
    };
    let seed = std::fs::read_to_string(file);
    let seed = seed.map_err(|error| checks.invalid(key, file.display(), &because(&error)));
    Some((version, seed.ok()?))
}

fn version(file: &Path) -> Option<KeyVersion> {
    let name = file.file_name()?.to_str()?.strip_suffix(".nk")?;
    name.parse().ok().filter(|version| *version > 0).map(KeyVersion)
}

fn because(error: &dyn std::error::Error) -> String {
    format!("files that can be read and hold keys; {error}")
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
