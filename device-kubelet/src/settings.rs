//! What can be set: a file, overridden by `DEVICE_KUBELET_*`, overridden by flags.
//!
//! [`DeviceKubelet`] is what was given, [`Settings`] the process' own view of it.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use fleet_daemon::{
    settings::{Daemon, NatsUrl, Part, Seconds},
    telemetry::{LogFormat, LogLevel},
    text_setting,
};
use fleet_wire::name::DeviceName;
use harmony_config::Config;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{logs::rotator::LogLimits, pods::quantity};

/// Where the device's data lies unless set otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/harmony-fleet";
/// The file that is read unless another is named, if it exists.
pub const DEFAULT_CONFIG: &str = "/etc/harmony-fleet/device-kubelet.toml";

/// Settings as flags, environment or file give them. Every key of the file is the flag's name.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct DeviceKubelet {
    /// Name of this device: the name of its Node. An RFC 1123 label (a-z, 0-9 and '-', at most 63). An enrolled
    /// device knows it.
    #[schemars(
        with = "Option<String>",
        extend("x-expected" = "an RFC 1123 label: 1 to 63 of a-z, 0-9 and '-', as the Node's name")
    )]
    pub name: Option<DeviceName>,

    /// Folder of keys, desired pods, volumes and logs
    pub data_dir: DataDir,

    /// Where NATS is: nats://host:4222 or tls://host:4222; several are separated by commas. An
    /// enrolled device knows it.
    pub nats_url: Option<NatsUrl>,

    /// CA of the NATS server's certificate (PEM); makes the connection TLS. Without it the system's CAs
    /// are trusted.
    pub nats_ca_file: Option<PathBuf>,

    /// Public root key of the fleet (an nkey that begins with O), the only one this device believes. An enrolled
    /// device knows it.
    pub fleet_root_key: Option<RootKey>,

    /// Statement of the fleet's curve keys, signed with the root key (JSON). An enrolled device has it.
    pub fleet_keys_file: Option<PathBuf>,

    /// File that `fleet device enroll` wrote: used if this device is not enrolled, and removed when it is
    pub enrollment_file: Option<PathBuf>,

    /// Ask the fleet for membership if this device is not enrolled, and wait until somebody approves it
    pub request_enrollment: bool,

    /// Keep running the pods, and keep their secrets, when the fleet revokes this device
    pub keep_on_revoke: bool,

    /// Socket of Podman's API: unix://PATH
    pub podman_socket: PodmanSocket,

    /// What runs containers; `memory` only pretends to, for tests
    pub runtime: RuntimeKind,

    /// Seconds between heartbeats until the cluster side says otherwise, 1 to 300
    #[schemars(range(min = 1, max = 300))]
    pub heartbeat_interval: Seconds,

    /// Most pods on this device, 1 to 1000
    #[schemars(range(min = 1, max = 1000))]
    pub max_pods: u32,

    /// Size at which a container's log file is rotated, a quantity from 64Ki to 1Gi
    pub container_log_max_size: LogSize,

    /// Log files of one container, the current one included, 2 to 100
    #[schemars(range(min = 2, max = 100))]
    pub container_log_max_files: u32,

    /// Address for /healthz, /readyz and /metrics, e.g. 127.0.0.1:10248; without it there are none
    #[schemars(
        extend("x-value-name" = "ADDRESS:PORT", "x-expected" = "an address with a port, e.g. 127.0.0.1:10248")
    )]
    pub health_listen: Option<SocketAddr>,

    /// Form of the log lines
    pub log_format: LogFormat,

    /// off, error, warn, info, debug, trace, or a list such as `info,device_kubelet=debug`
    pub log_level: LogLevel,

    /// Seconds that the agent has to end after SIGTERM, 1 to 600; containers keep running
    #[schemars(range(min = 1, max = 600))]
    pub shutdown_grace: Seconds,
}

impl Daemon for DeviceKubelet {
    const PREFIX: &'static str = "DEVICE_KUBELET_";
    const FILE: Option<&'static str> = Some(DEFAULT_CONFIG);
}

impl Default for DeviceKubelet {
    fn default() -> Self {
        Self {
            name: None,
            data_dir: DataDir(DEFAULT_DATA_DIR.into()),
            nats_url: None,
            nats_ca_file: None,
            fleet_root_key: None,
            fleet_keys_file: None,
            enrollment_file: None,
            request_enrollment: false,
            keep_on_revoke: false,
            podman_socket: PodmanSocket("unix:///run/podman/podman.sock".to_owned()),
            runtime: RuntimeKind::default(),
            heartbeat_interval: Seconds(10),
            max_pods: 110,
            container_log_max_size: LogSize(LogLimits::DEFAULT.max_bytes),
            container_log_max_files: LogLimits::DEFAULT.max_files,
            health_listen: None,
            log_format: LogFormat::default(),
            log_level: LogLevel::default(),
            shutdown_grace: Seconds(10),
        }
    }
}

/// The settings that the commands for people on the device need: where its data is.
#[derive(Debug)]
pub struct Folder;

impl Part for Folder {
    fn has(key: &str) -> bool {
        key == "data-dir"
    }
}

/// Why a text is no value of its setting; the setting says what it expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is none")]
pub struct NoValue;

/// An absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl FromStr for DataDir {
    type Err = NoValue;

    fn from_str(text: &str) -> Result<Self, NoValue> {
        Path::new(text).is_absolute().then(|| Self(text.into())).ok_or(NoValue)
    }
}

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl From<DataDir> for PathBuf {
    fn from(folder: DataDir) -> Self {
        folder.0
    }
}

text_setting!(DataDir, "DIR", "an absolute path");

/// A public key of the kind that signs a fleet's statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootKey(String);

impl FromStr for RootKey {
    type Err = NoValue;

    fn from_str(text: &str) -> Result<Self, NoValue> {
        match nkeys::KeyPair::from_public_key(text) {
            Ok(pair) if pair.key_pair_type() == nkeys::KeyPairType::Operator => Ok(Self(text.to_owned())),
            _ => Err(NoValue),
        }
    }
}

impl fmt::Display for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_setting!(RootKey, "KEY", "the fleet's public root key, an nkey that begins with O");

/// `unix://` and an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodmanSocket(String);

impl FromStr for PodmanSocket {
    type Err = NoValue;

    fn from_str(text: &str) -> Result<Self, NoValue> {
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Self(text.to_owned())),
            _ => Err(NoValue),
        }
    }
}

impl fmt::Display for PodmanSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_setting!(PodmanSocket, "URL", "unix:// and an absolute path");

/// Bytes of a log file, written as a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSize(u64);

impl FromStr for LogSize {
    type Err = NoValue;

    fn from_str(text: &str) -> Result<Self, NoValue> {
        match quantity::ceil(text).and_then(|bytes| u64::try_from(bytes).ok()) {
            Some(bytes) if (64 << 10..=1 << 30).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(NoValue),
        }
    }
}

impl fmt::Display for LogSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes.is_multiple_of(1 << 20) => write!(f, "{}Mi", bytes >> 20),
            bytes if bytes.is_multiple_of(1 << 10) => write!(f, "{}Ki", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

text_setting!(LogSize, "QUANTITY", "a quantity from 64Ki to 1Gi, e.g. 10Mi");

/// What runs containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    pub log_level: LogLevel,
    /// How long the agent may take to end.
    pub shutdown_grace: Duration,
}

impl From<DeviceKubelet> for Settings {
    fn from(given: DeviceKubelet) -> Self {
        Self {
            name: given.name,
            data_dir: given.data_dir.into(),
            nats_url: given.nats_url.map(Into::into),
            nats_ca_file: given.nats_ca_file,
            fleet_root_key: given.fleet_root_key.map(|key| key.0),
            fleet_keys_file: given.fleet_keys_file,
            enrollment_file: given.enrollment_file,
            request_enrollment: given.request_enrollment,
            keep_on_revoke: given.keep_on_revoke,
            podman_socket: given.podman_socket.0,
            runtime: given.runtime,
            heartbeat_interval: given.heartbeat_interval.into(),
            max_pods: given.max_pods,
            log_limits: LogLimits {
                max_bytes: given.container_log_max_size.0,
                max_files: given.container_log_max_files,
            },
            health_listen: given.health_listen,
            log_format: given.log_format,
            log_level: given.log_level,
            shutdown_grace: given.shutdown_grace.into(),
        }
    }
}

#[cfg(test)]
#[path = "tests/settings.rs"]
mod tests;
