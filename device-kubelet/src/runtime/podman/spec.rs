//! The bodies that libpod takes for a new pod and a new container. Pure.
//!
//! Only fields that we set; libpod keeps its defaults for the others. What Podman would do by itself and a
//! kubelet's runtime would not is switched off: restarts, systemd mode, health checks of the image,
//! the device's proxy environment.

use std::collections::BTreeMap;

use serde::Serialize;

use super::labels::{self, HostNamespaces};
use crate::runtime::{ContainerSpec, MountSpec, PortMapping, SandboxSpec, reference};

/// Name of a pod.
pub(super) fn pod_name(spec: &SandboxSpec) -> String {
    spec.pod.uid.to_string()
}

/// Name of a pod's infra container. `infra` alone could be a container's name; those have an attempt.
pub(super) fn infra_name(pod_name: &str) -> String {
    format!("{pod_name}_infra")
}

/// Name of a container.
pub(super) fn container_name(spec: &ContainerSpec) -> String {
    format!("{}_{}_{}", spec.pod.uid, spec.name, spec.attempt)
}

#[derive(Debug, Serialize)]
struct Namespace {
    nsmode: &'static str,
}

const HOST: Namespace = Namespace { nsmode: "host" };

#[derive(Debug, Serialize)]
struct Port<'a> {
    host_ip: &'a str,
    container_port: u16,
    host_port: u16,
    protocol: String,
}

impl<'a> From<&'a PortMapping> for Port<'a> {
    fn from(port: &'a PortMapping) -> Self {
        Self {
            host_ip: &port.host_ip,
            container_port: port.container_port,
            host_port: port.host_port,
            protocol: port.protocol.to_ascii_lowercase(),
        }
    }
}

/// Body of `POST /pods/create`.
#[derive(Debug, Serialize)]
pub(super) struct PodBody<'a> {
    name: String,
    infra_name: String,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    shared_namespaces: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<Namespace>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    portmappings: Vec<Port<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dns_server: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dns_search: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    dns_option: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sysctl: &'a BTreeMap<String, String>,
}

impl<'a> PodBody<'a> {
    pub(super) fn new(spec: &'a SandboxSpec) -> Self {
        let name = pod_name(spec);
        let mut shared_namespaces = vec!["net", "uts"];
        if !spec.host_ipc {
            shared_namespaces.push("ipc");
        }
        if spec.share_process_namespace && !spec.host_pid {
            shared_namespaces.push("pid");
        }
        let dns = spec.dns.as_ref();
        Self {
            infra_name: infra_name(&name),
            name,
            labels: labels::of_sandbox(spec),
            // A pod on the device's network carries the device's name; libpod refuses another.
            hostname: (!spec.host_network).then_some(spec.hostname.as_str()),
            shared_namespaces,
            netns: spec.host_network.then_some(HOST),
            // On the device's network ports need no mapping, and libpod refuses one.
            portmappings: if spec.host_network {
                Vec::new()
            } else {
                spec.ports.iter().map(Port::from).collect()
            },
            dns_server: dns.map_or(&[], |d| &d.servers),
            dns_search: dns.map_or(&[], |d| &d.searches),
            dns_option: dns.map_or(&[], |d| &d.options),
            sysctl: &spec.sysctls,
        }
    }
}

#[derive(Debug, Serialize)]
struct Mount<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'a std::path::Path,
    destination: &'a str,
    options: Vec<&'static str>,
}

impl<'a> From<&'a MountSpec> for Mount<'a> {
    fn from(mount: &'a MountSpec) -> Self {
        Self {
            kind: "bind",
            source: &mount.host_path,
            destination: &mount.container_path,
            options: vec!["rbind", if mount.read_only { "ro" } else { "rw" }, mount.propagation],
        }
    }
}

#[derive(Debug, Serialize)]
struct LogConfiguration<'a> {
    driver: &'static str,
    path: &'a std::path::Path,
    size: u64,
}

#[derive(Debug, Serialize)]
struct HealthConfig {
    #[serde(rename = "Test")]
    test: [&'static str; 1],
}

#[derive(Debug, Default, Serialize)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<Pids>,
}

#[derive(Debug, Serialize)]
struct Cpu {
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quota: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Memory {
    limit: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Pids {
    limit: i64,
}

/// Body of `POST /containers/create`.
#[derive(Debug, Serialize)]
pub(super) struct ContainerBody<'a> {
    name: String,
    pod: &'a str,
    image: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    work_dir: Option<&'a str>,
    create_working_dir: bool,
    env: BTreeMap<&'a str, &'a str>,
    httpproxy: bool,
    labels: BTreeMap<String, String>,
    log_configuration: LogConfiguration<'a>,
    restart_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount<'a>>,
    resource_limits: Limits,
    #[serde(skip_serializing_if = "Option::is_none")]
    oom_score_adj: Option<i32>,
    privileged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    passwd_entry: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cap_add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cap_drop: Vec<String>,
    read_only_filesystem: bool,
    no_new_privileges: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp_profile_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pidns: Option<Namespace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipcns: Option<Namespace>,
    stdin: bool,
    terminal: bool,
    systemd: &'static str,
    #[serde(rename = "sdnotifyMode")]
    sdnotify_mode: &'static str,
    healthconfig: HealthConfig,
}

/// What the device decides for all containers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Device {
    /// It can bound memory and swap together, so a limit means no swap, as on a kubelet.
    pub(super) no_swap: bool,
    /// Bytes at which conmon cuts a log.
    pub(super) log_size: u64,
}

/// The line in `/etc/passwd` for a numeric user that the image does not have: Podman 4.3's own. Said, because Podman 5
/// takes the name that the number has on the device, which is no business of a container's.
const PASSWD_ENTRY: &str = "$USERNAME:*:$UID:$GID:container user:$HOME:/bin/sh";

impl<'a> ContainerBody<'a> {
    pub(super) fn new(
        pod: &'a str,
        spec: &'a ContainerSpec,
        host: HostNamespaces,
        device: Device,
    ) -> Result<Self, String> {
        let resources = &spec.resources;
        let security = &spec.security;
        let cpu = Cpu {
            shares: resources.cpu_shares,
            quota: resources.cpu_quota,
            // A period alone would be a limit of nothing.
            period: resources.cpu_quota.and(resources.cpu_period),
        };
        Ok(Self {
            name: container_name(spec),
            pod,
            image: reference::normalized(&spec.image),
            entrypoint: &spec.command,
            // A command without arguments drops the image's arguments, as in a Pod.
            command: (!spec.args.is_empty() || !spec.command.is_empty()).then_some(spec.args.as_slice()),
            work_dir: spec.working_dir.as_deref(),
            create_working_dir: true,
            env: spec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            httpproxy: false,
            labels: labels::of_container(spec),
            log_configuration: LogConfiguration {
                driver: "k8s-file",
                path: &spec.log_path,
                size: device.log_size,
            },
            restart_policy: "no",
            stop_signal: spec.stop_signal.as_deref().map(signal_number).transpose()?,
            mounts: spec.mounts.iter().map(Mount::from).collect(),
            resource_limits: Limits {
                cpu: (cpu.shares.is_some() || cpu.quota.is_some()).then_some(cpu),
                memory: resources
                    .memory_limit
                    .map(|limit| Memory { limit, swap: device.no_swap.then_some(limit) }),
                pids: resources.pids_limit.map(|limit| Pids { limit }),
            },
            oom_score_adj: resources.oom_score_adj,
            privileged: security.privileged,
            user: security.user.as_deref(),
            passwd_entry: PASSWD_ENTRY,
            groups: &security.supplemental_groups,
            cap_add: capabilities(&security.cap_add),
            cap_drop: capabilities(&security.cap_drop),
            read_only_filesystem: security.read_only_root,
            no_new_privileges: security.no_new_privileges,
            seccomp_profile_path: security.seccomp.as_deref(),
            pidns: host.pid.then_some(HOST),
            ipcns: host.ipc.then_some(HOST),
            stdin: spec.stdin,
            terminal: spec.tty,
            systemd: "false",
            sdnotify_mode: "ignore",
            healthconfig: HealthConfig { test: ["NONE"] },
        })
    }
}

fn capabilities(names: &[String]) -> Vec<String> {
    names
        .iter()
        .map(|name| {
            let name = name.to_ascii_uppercase();
            if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
        })
        .collect()
}

/// Number of a signal by its name (`SIGTERM`, `TERM`, `SIGRTMIN+3`) or number.
fn signal_number(name: &str) -> Result<i32, String> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    const REALTIME: i32 = 34;
    const LAST: i32 = 64;
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = short.parse() {
        Some(number)
    } else if let Some(position) = NAMES.iter().position(|known| *known == short) {
        i32::try_from(position + 1).ok()
    } else if let Some(offset) = short.strip_prefix("RTMIN") {
        if offset.is_empty() { Some(0) } else { offset.parse().ok() }.map(|n: i32| REALTIME.saturating_add(n))
    } else if let Some(offset) = short.strip_prefix("RTMAX") {
        if offset.is_empty() { Some(0) } else { offset.parse().ok() }.map(|n: i32| LAST.saturating_add(n))
    } else {
        None
    };
    number.filter(|n| (1..=LAST).contains(n)).ok_or_else(|| format!("{name:?} is not a signal"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn signals_have_their_numbers() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("SIGKILL", 9),
            ("SIGHUP", 1),
            ("SIGSYS", 31),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("10", 10),
        ] {
            assert_eq!(signal_number(name).unwrap(), number, "{name}");
        }
        for wrong in ["SIGNOPE", "", "0", "65", "SIGRTMIN+99"] {
            assert!(signal_number(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn capabilities_get_their_prefix_once() {
        let names = ["net_admin", "CAP_KILL", "all"].map(str::to_owned);
        assert_eq!(capabilities(&names), ["CAP_NET_ADMIN", "CAP_KILL", "ALL"]);
    }
}
