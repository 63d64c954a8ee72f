//! How the enroller is set up: file, environment, flags; checked at the start.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use fleet_daemon::{
    credential::{DeviceCredential, Given},
    nats::NkeySeed,
    settings::{Seconds, SettingsError, invalid, parse, required},
    telemetry::LogFormat,
};
use fleet_wire::{
    enrollment::{RECORDS_NAMESPACE, TOKENS_NAMESPACE},
    keys::FleetKeys,
    name::KeyVersion,
};
use serde::{Deserialize, Serialize};

/// Settings as they are given. Every key may stand in the settings file (TOML), in the environment as
/// `ENROLLER_<KEY>`, or be a flag; flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Flags {
    /// Kubeconfig of the process's own account; without it the in-cluster account is used.
    #[arg(long, env = "ENROLLER_KUBECONFIG", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The fleet's own namespace, where the pods of vk-nats are [default: harmony-fleet].
    #[arg(long, env = "ENROLLER_NAMESPACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Namespace of the enrollment records [default: harmony-fleet-devices].
    #[arg(long, env = "ENROLLER_RECORDS_NAMESPACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_namespace: Option<String>,
    /// Namespace of the enrollment tokens [default: harmony-fleet-tokens].
    #[arg(long, env = "ENROLLER_TOKENS_NAMESPACE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_namespace: Option<String>,
    /// This process's credential for NATS (TOML), in the place of the three settings below.
    #[arg(long, env = "ENROLLER_NATS_CREDENTIAL_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_credential_file: Option<PathBuf>,
    /// NATS server, e.g. tls://nats.example:4222; several are separated by commas.
    #[arg(long, env = "ENROLLER_NATS_URL", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_url: Option<String>,
    /// CA of the NATS server's certificate (PEM); setting it makes the connection TLS.
    #[arg(long, env = "ENROLLER_NATS_CA_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_ca_file: Option<PathBuf>,
    /// Service-account token with the audience `nats`, projected into the pod.
    #[arg(long, env = "ENROLLER_NATS_TOKEN_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats_token_file: Option<PathBuf>,
    /// Seed of the nkey (SU…) of the user in NATS' system account that ends connections.
    #[arg(long, env = "ENROLLER_SYSTEM_SEED_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_seed_file: Option<PathBuf>,
    /// Files with the seeds of the enroller's curve keys (SX…), each named VERSION.nk, e.g. 1.nk.
    #[arg(long, env = "ENROLLER_ENROLLER_KEY_FILES", value_name = "FILES", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enroller_key_files: Option<Vec<PathBuf>>,
    /// The root-signed statement of the fleet's keys (JSON) that devices are handed.
    #[arg(long, env = "ENROLLER_FLEET_KEYS_FILE", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_keys_file: Option<PathBuf>,
    /// Hours that the record of a revoked device is kept, and can be taken back [default: 720].
    #[arg(long, env = "ENROLLER_RETENTION", value_name = "HOURS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<u64>,
    /// Block for spec.podCIDRs of all devices, where the cluster allocates node CIDRs.
    #[arg(long, env = "ENROLLER_POD_CIDR", value_name = "CIDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    /// Whether Nodes of devices that asked by themselves get the taint [default: true].
    #[arg(long, env = "ENROLLER_TAINT", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taint: Option<bool>,
    /// IP addresses of vk-nats outside the cluster, for which serving certificates are approved.
    #[arg(long, env = "ENROLLER_SERVING_ADDRESSES", value_name = "IPS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving_addresses: Option<Vec<String>>,
    /// Address of /healthz, /readyz and /metrics, e.g. 0.0.0.0:8080; without it there are none.
    #[arg(long, env = "ENROLLER_HEALTH_LISTEN", value_name = "ADDR:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_listen: Option<String>,
    /// Format of the log [default: text].
    #[arg(long, env = "ENROLLER_LOG_FORMAT", value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Level of the log, or a filter such as info,callout=debug [default: info].
    #[arg(long, env = "ENROLLER_LOG_LEVEL", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Seconds that open work may take after a signal [default: 10].
    #[arg(long, env = "ENROLLER_SHUTDOWN_GRACE", value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_grace: Option<Seconds>,
}

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
        let seed_file =
            required("system-seed-file", self.system_seed_file, "a file with the seed of an nkey")?;
        let system_seed = NkeySeed::from_file(&seed_file)
            .map_err(|error| invalid("system-seed-file", seed_file.display(), &because(&error)))?;
        let key_files =
            required("enroller-key-files", self.enroller_key_files, "files named <version>.nk, e.g. 1.nk")?;
        let retention = self.retention.unwrap_or(720);
        if !(1..=87_600).contains(&retention) {
            return Err(invalid("retention", retention, "1 to 87600 hours"));
        }
        let namespace = self.namespace.unwrap_or_else(|| "harmony-fleet".to_owned());
        let records_namespace = self.records_namespace.unwrap_or_else(|| RECORDS_NAMESPACE.to_owned());
        if namespace == records_namespace {
            return Err(invalid(
                "records-namespace",
                records_namespace,
                "another namespace than `namespace`: who reads records must not read the fleet's keys",
            ));
        }
        let tokens_namespace = self.tokens_namespace.unwrap_or_else(|| TOKENS_NAMESPACE.to_owned());
        if tokens_namespace == namespace || tokens_namespace == records_namespace {
            return Err(invalid(
                "tokens-namespace",
                tokens_namespace,
                "another namespace than `namespace` and `records-namespace`: this process must not read the fleet's keys, and the callout must not read tokens",
            ));
        }
        let serving_addresses = self
            .serving_addresses
            .unwrap_or_default()
            .iter()
            .map(|address| parse("serving-addresses", address, "IP addresses, e.g. 10.0.0.5"))
            .collect::<Result<_, _>>()?;
        let nats = Given {
            nats_credential_file: self.nats_credential_file,
            nats_url: self.nats_url,
            nats_ca_file: self.nats_ca_file,
            nats_seed_file: None,
            nats_token_file: self.nats_token_file,
        };
        Ok(Settings {
            kubeconfig: self.kubeconfig,
            namespace,
            records_namespace,
            tokens_namespace,
            nats: nats.resolve()?,
            system_seed,
            enroller_keys: keys(&key_files)?,
            fleet_keys_file: required(
                "fleet-keys-file",
                self.fleet_keys_file,
                "the file with the root-signed statement of the fleet's keys",
            )?,
            retention: Duration::from_secs(retention * 3600),
            pod_cidr: self.pod_cidr.map(|cidr| cidr_of("pod-cidr", cidr)).transpose()?,
            taint: self.taint.unwrap_or(true),
            serving_addresses,
            health_listen: self
                .health_listen
                .map(|addr| parse("health-listen", &addr, "an address and a port, e.g. 0.0.0.0:8080"))
                .transpose()?,
            shutdown_grace: self.shutdown_grace.unwrap_or(Seconds(10)).into(),
        })
    }
}

fn cidr_of(key: &str, cidr: String) -> Result<String, SettingsError> {
    let expected = "an address and a prefix length, e.g. 10.244.255.0/24";
    let (address, length) = cidr.split_once('/').ok_or_else(|| invalid(key, &cidr, expected))?;
    let address: IpAddr = parse(key, address, expected)?;
    let length: u8 = parse(key, length, expected)?;
    if length > if address.is_ipv4() { 32 } else { 128 } {
        return Err(invalid(key, &cidr, expected));
    }
    Ok(cidr)
}

fn keys(files: &[PathBuf]) -> Result<FleetKeys, SettingsError> {
    let key = "enroller-key-files";
    let seeds = files
        .iter()
        .map(|file| {
            let version = version(file).ok_or_else(|| {
                invalid(key, file.display(), "files named <version>.nk with a version from 1, e.g. 1.nk")
            })?;
            let seed = std::fs::read_to_string(file)
                .map_err(|error| invalid(key, file.display(), &because(&error)))?;
            Ok((version, seed))
        })
        .collect::<Result<Vec<_>, SettingsError>>()?;
    FleetKeys::from_seeds(seeds).map_err(|error| {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        invalid(key, names.join(","), &because(&error))
    })
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
