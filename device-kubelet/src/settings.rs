//! What can be set: a TOML file, overridden by `DEVICE_KUBELET_*`, overridden by flags.
//!
//! [`Flags`] is what was written, [`Settings`] what it means: parsed once, complete, with defaults.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use fleet_daemon::{
    settings::{Seconds, SettingsError, invalid, merge, parse},
    telemetry::LogFormat,
};
use fleet_wire::name::DeviceName;
use serde::{Deserialize, Serialize};

use crate::{logs::rotator::LogLimits, pods::quantity};

/// Where the device's data lies unless set otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/harmony-fleet";
/// The file that is read unless another is named, if it exists.
pub const DEFAULT_CONFIG: &str = "/etc/harmony-fleet/device-kubelet.toml";
const DEFAULT_PODMAN_SOCKET: &str = "unix:///run/podman/podman.sock";

/// Settings as flags, environment or file give them. Every key of the file is the flag's name.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Flags {
    /// Name of this device: the name of its Node. An RFC 1123 label (a-z, 0-9 and '-', at most 63). An enrolled
    /// device knows it.
    #[arg(long, env = "DEVICE_KUBELET_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Folder of keys, desired pods, volumes and logs [default: /var/lib/harmony-fleet]
    #[arg(long, env = "DEVICE_KUBELET_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where NATS is: nats://host:4222 or tls://host:4222; several are separated by commas. An
    /// enrolled device knows it.
    #[arg(long, env = "DEVICE_KUBELET_NATS_URL", value_name = "URL")]
    pub nats_url: Option<String>,

    /// CA of the NATS server's certificate (PEM); makes the connection TLS. Without it the system's CAs
    /// are trusted.
    #[arg(long, env = "DEVICE_KUBELET_NATS_CA_FILE", value_name = "FILE")]
    pub nats_ca_file: Option<PathBuf>,

    /// Public root key of the fleet (an nkey that begins with O), the only one this device believes. An enrolled
    /// device knows it.
    #[arg(long, env = "DEVICE_KUBELET_FLEET_ROOT_KEY", value_name = "KEY")]
    pub fleet_root_key: Option<String>,

    /// Statement of the fleet's curve keys, signed with the root key (JSON). An enrolled device has it.
    #[arg(long, env = "DEVICE_KUBELET_FLEET_KEYS_FILE", value_name = "FILE")]
    pub fleet_keys_file: Option<PathBuf>,

    /// File that `fleet device enroll` wrote: used if this device is not enrolled, and removed when it is
    #[arg(long, env = "DEVICE_KUBELET_ENROLLMENT_FILE", value_name = "FILE")]
    pub enrollment_file: Option<PathBuf>,

    /// Ask the fleet for membership if this device is not enrolled, and wait until somebody approves it
    /// [default: false]
    #[arg(long, env = "DEVICE_KUBELET_REQUEST_ENROLLMENT", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub request_enrollment: Option<bool>,

    /// Keep running the pods, and keep their secrets, when the fleet revokes this device [default: false]
    #[arg(long, env = "DEVICE_KUBELET_KEEP_ON_REVOKE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub keep_on_revoke: Option<bool>,

    /// Socket of Podman's API: unix://PATH [default: unix:///run/podman/podman.sock]
    #[arg(long, env = "DEVICE_KUBELET_PODMAN_SOCKET", value_name = "URL")]
    pub podman_socket: Option<String>,

    /// What runs containers; `memory` only pretends to, for tests [default: podman]
    #[arg(long, env = "DEVICE_KUBELET_RUNTIME", value_name = "RUNTIME")]
    pub runtime: Option<RuntimeKind>,

    /// Seconds between heartbeats until the cluster side says otherwise, 1 to 300 [default: 10]
    #[arg(long, env = "DEVICE_KUBELET_HEARTBEAT_INTERVAL", value_name = "SECONDS")]
    pub heartbeat_interval: Option<Seconds>,

    /// Most pods on this device, 1 to 1000 [default: 110]
    #[arg(long, env = "DEVICE_KUBELET_MAX_PODS", value_name = "NUMBER")]
    pub max_pods: Option<u32>,

    /// Size at which a container's log file is rotated, a quantity from 64Ki to 1Gi [default: 10Mi]
    #[arg(long, env = "DEVICE_KUBELET_CONTAINER_LOG_MAX_SIZE", value_name = "QUANTITY")]
    pub container_log_max_size: Option<String>,

    /// Log files of one container, the current one included, 2 to 100 [default: 5]
    #[arg(long, env = "DEVICE_KUBELET_CONTAINER_LOG_MAX_FILES", value_name = "NUMBER")]
    pub container_log_max_files: Option<u32>,

    /// Address for /healthz, /readyz and /metrics, e.g. 127.0.0.1:10248 [default: none]
    #[arg(long, env = "DEVICE_KUBELET_HEALTH_LISTEN", value_name = "ADDRESS:PORT")]
    pub health_listen: Option<String>,

    /// Form of the log lines [default: text]
    #[arg(long, env = "DEVICE_KUBELET_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// off, error, warn, info, debug, trace, or a list such as `info,device_kubelet=debug`
    /// [default: info]
    #[arg(long, env = "DEVICE_KUBELET_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Seconds that the agent has to end after SIGTERM, 1 to 600; containers keep running [default: 10]
    #[arg(long, env = "DEVICE_KUBELET_SHUTDOWN_GRACE", value_name = "SECONDS")]
    pub shutdown_grace: Option<Seconds>,
}

/// What runs containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// Podman.
    #[default]
    Podman,
    /// Nothing: containers exist in memory only.
    Memory,
}

/// Settings with their meaning.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the device, unless its enrollment says it.
    pub name: Option<DeviceName>,
    /// Folder of everything durable.
    pub data_dir: PathBuf,
    /// Where NATS is, unless the credential says it.
    pub nats_url: Option<String>,
    /// CA of the NATS server.
    pub nats_ca_file: Option<PathBuf>,
    /// Public root key of the fleet, unless it was pinned at enrollment.
    pub fleet_root_key: Option<String>,
    /// Statement of the fleet's keys.
    pub fleet_keys_file: Option<PathBuf>,
    /// What `fleet device enroll` wrote.
    pub enrollment_file: Option<PathBuf>,
    /// Whether a device that is no member asks to become one.
    pub request_enrollment: bool,
    /// Whether pods go on although the device was revoked.
    pub keep_on_revoke: bool,
    /// Socket of Podman's API.
    pub podman_socket: String,
    /// What runs containers.
    pub runtime: RuntimeKind,
    /// Time between heartbeats until the cluster side says otherwise.
    pub heartbeat_interval: Duration,
    /// Most pods.
    pub max_pods: u32,
    /// How long logs of containers may become.
    pub log_limits: LogLimits,
    /// Where health and metrics are served.
    pub health_listen: Option<SocketAddr>,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Level of the log lines.
    pub log_level: String,
    /// How long the agent may take to end.
    pub shutdown_grace: Duration,
}

/// The file named, else the default one if it exists.
pub fn config_file(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| Some(PathBuf::from(DEFAULT_CONFIG)).filter(|path| path.exists()))
}

impl Flags {
    /// With the file's settings below.
    pub fn over(self, file: Option<&Path>) -> Result<Self, SettingsError> {
        merge(file, self)
    }

    /// The folder of everything durable: all that the local commands need.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR))
    }

    /// What the settings mean, or the first that cannot be used.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        let data_dir = self.data_dir();
        if !data_dir.is_absolute() {
            return Err(invalid("data-dir", data_dir.display(), "an absolute path"));
        }
        let label = "an RFC 1123 label: 1 to 63 of a-z, 0-9 and '-', as the Node's name";
        let root = "the fleet's public root key, an nkey that begins with O";
        let url = "nats://host:4222 or tls://host:4222";
        Ok(Settings {
            name: self.name.map(|name| parse("name", &name, label)).transpose()?,
            data_dir,
            nats_url: self.nats_url.map(|given| nats_url(given, url)).transpose()?,
            nats_ca_file: self.nats_ca_file,
            fleet_root_key: self.fleet_root_key.map(|key| root_key(key, root)).transpose()?,
            fleet_keys_file: self.fleet_keys_file,
            enrollment_file: self.enrollment_file,
            request_enrollment: self.request_enrollment.unwrap_or_default(),
            keep_on_revoke: self.keep_on_revoke.unwrap_or_default(),
            podman_socket: podman_socket(self.podman_socket)?,
            runtime: self.runtime.unwrap_or_default(),
            heartbeat_interval: seconds("heartbeat-interval", self.heartbeat_interval, 10, 300)?,
            max_pods: match self.max_pods.unwrap_or(110) {
                pods @ 1..=1000 => pods,
                pods => return Err(invalid("max-pods", pods, "a number from 1 to 1000")),
            },
            log_limits: log_limits(self.container_log_max_size, self.container_log_max_files)?,
            health_listen: self
                .health_listen
                .map(|text| parse("health-listen", &text, "an address with a port, e.g. 127.0.0.1:10248"))
                .transpose()?,
            log_format: self.log_format.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            shutdown_grace: seconds("shutdown-grace", self.shutdown_grace, 10, 600)?,
        })
    }
}

fn seconds(key: &str, value: Option<Seconds>, default: u64, most: u64) -> Result<Duration, SettingsError> {
    match value.unwrap_or(Seconds(default)) {
        Seconds(seconds) if (1..=most).contains(&seconds) => Ok(Duration::from_secs(seconds)),
        Seconds(other) => Err(invalid(key, other, &format!("whole seconds from 1 to {most}"))),
    }
}

fn log_limits(size: Option<String>, files: Option<u32>) -> Result<LogLimits, SettingsError> {
    let max_bytes = match size {
        None => LogLimits::DEFAULT.max_bytes,
        Some(text) => match quantity::ceil(&text).and_then(|bytes| u64::try_from(bytes).ok()) {
            Some(bytes) if (64 << 10..=1 << 30).contains(&bytes) => bytes,
            _ => {
                return Err(invalid(
                    "container-log-max-size",
                    text,
                    "a quantity from 64Ki to 1Gi, e.g. 10Mi",
                ));
            }
        },
    };
    let max_files = match files.unwrap_or(LogLimits::DEFAULT.max_files) {
        files @ 2..=100 => files,
        files => return Err(invalid("container-log-max-files", files, "a number from 2 to 100")),
    };
    Ok(LogLimits { max_bytes, max_files })
}

fn nats_url(url: String, expected: &str) -> Result<String, SettingsError> {
    let usable = |server: &str| {
        ["nats://", "tls://"]
            .iter()
            .filter_map(|scheme| server.strip_prefix(scheme))
            .any(|host| !host.is_empty() && !host.starts_with(':') && !host.contains(['/', ' ']))
    };
    if url.split(',').all(|server| usable(server.trim())) {
        Ok(url)
    } else {
        Err(invalid("nats-url", url, expected))
    }
}

fn root_key(key: String, expected: &str) -> Result<String, SettingsError> {
    match nkeys::KeyPair::from_public_key(&key) {
        Ok(pair) if pair.key_pair_type() == nkeys::KeyPairType::Operator => Ok(key),
        _ => Err(invalid("fleet-root-key", key, expected)),
    }
}

fn podman_socket(url: Option<String>) -> Result<String, SettingsError> {
    let url = url.unwrap_or_else(|| DEFAULT_PODMAN_SOCKET.to_owned());
    match url.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(url),
        _ => Err(invalid("podman-socket", url, "unix:// and an absolute path")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: Flags,
    }

    fn good() -> Flags {
        Flags {
            name: Some("pi-7".into()),
            nats_url: Some("nats://10.0.0.1:4222".into()),
            fleet_root_key: Some(nkeys::KeyPair::new_operator().public_key()),
            fleet_keys_file: Some("/etc/harmony-fleet/keys.json".into()),
            ..Flags::default()
        }
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let settings = good().resolve().unwrap();
        assert_eq!(settings.data_dir, Path::new(DEFAULT_DATA_DIR));
        assert_eq!(settings.heartbeat_interval, Duration::from_secs(10));
        assert_eq!((settings.max_pods, settings.runtime), (110, RuntimeKind::Podman));
        assert_eq!(settings.log_limits, LogLimits::DEFAULT);
        let flags =
            Flags { container_log_max_size: Some("2Mi".into()), container_log_max_files: Some(2), ..good() };
        assert_eq!(flags.resolve().unwrap().log_limits, LogLimits { max_bytes: 2 << 20, max_files: 2 });
    }

    #[test]
    fn a_wrong_value_is_named_with_its_key_and_what_was_expected() {
        let wrong: [(&str, &str, Flags); 10] = [
            ("name", "RFC 1123", Flags { name: Some("Pi_7".into()), ..good() }),
            ("data-dir", "absolute", Flags { data_dir: Some("data".into()), ..good() }),
            ("nats-url", "nats://host", Flags { nats_url: Some("10.0.0.1:4222".into()), ..good() }),
            ("fleet-root-key", "begins with O", Flags { fleet_root_key: Some("UX".into()), ..good() }),
            ("podman-socket", "unix://", Flags { podman_socket: Some("/run/p.sock".into()), ..good() }),
            ("heartbeat-interval", "1 to 300", Flags { heartbeat_interval: Some(Seconds(0)), ..good() }),
            ("max-pods", "1 to 1000", Flags { max_pods: Some(0), ..good() }),
            (
                "container-log-max-size",
                "64Ki to 1Gi",
                Flags { container_log_max_size: Some("10".into()), ..good() },
            ),
            ("container-log-max-files", "2 to 100", Flags { container_log_max_files: Some(1), ..good() }),
            ("health-listen", "with a port", Flags { health_listen: Some("localhost".into()), ..good() }),
        ];
        for (key, expected, flags) in wrong {
            let error = flags.resolve().unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_enrolled_device_needs_no_setting_at_all() {
        let settings = Flags::default().resolve().unwrap();
        assert_eq!((settings.name, settings.nats_url), (None, None));
        assert!(!settings.request_enrollment && !settings.keep_on_revoke);
        let flags =
            Command::try_parse_from(["x", "--request-enrollment", "--keep-on-revoke=false"]).unwrap().flags;
        let settings = flags.resolve().unwrap();
        assert!(settings.request_enrollment && !settings.keep_on_revoke);
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("device.toml");
        std::fs::write(&file, "name = \"pi-1\"\nmax-pods = 5\n").unwrap();
        let flags = Command::try_parse_from(["x", "--name", "pi-2"]).unwrap().flags;
        let merged = flags.over(Some(&file)).unwrap();
        assert_eq!((merged.name.as_deref(), merged.max_pods), (Some("pi-2"), Some(5)));
        std::fs::write(&file, "nats_url = \"nats://x:1\"\n").unwrap();
        let error = Flags::default().over(Some(&file)).unwrap_err().to_string();
        assert!(error.contains("nats-url"), "{error}");
    }
}
