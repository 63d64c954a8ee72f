//! From a pod to its sandbox. Pure, but for the device's own `resolv.conf`, which is handed in.

use std::collections::BTreeMap;

use super::desired::Desired;
use crate::runtime::{DnsConfig, PortMapping, SandboxSpec};

/// Longest host name of Linux.
const HOSTNAME_MAX: usize = 63;

/// Builds what the runtime is told. Only ports with a `hostPort` are published, as on any kubelet.
pub fn sandbox(desired: &Desired, resolv_conf: &str) -> SandboxSpec {
    let spec = &desired.spec;
    let host_network = spec.host_network == Some(true);
    let ports = desired.containers().flat_map(|(_, container)| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        Some(PortMapping {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            container_port: u16::try_from(port.container_port).ok()?,
            host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
    });
    let sysctls = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    SandboxSpec {
        pod: desired.key.clone(),
        hostname: hostname(desired),
        host_network,
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_process_namespace: spec.share_process_namespace == Some(true),
        ports: if host_network { Vec::new() } else { ports.collect() },
        dns: dns(desired, resolv_conf),
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// Name of a pod's host, at most [`HOSTNAME_MAX`] characters.
pub fn hostname(desired: &Desired) -> String {
    let spec = &desired.spec;
    let name = spec.hostname_override.as_deref().or(spec.hostname.as_deref());
    let name = name.filter(|name| !name.is_empty()).unwrap_or(desired.key.name.as_str());
    let hostname: String = name.chars().take(HOSTNAME_MAX).collect();
    hostname.trim_end_matches(['-', '.']).to_owned()
}

/// `None` keeps the device's. There is no cluster DNS on devices, so every policy but `None` means `Default`.
fn dns(desired: &Desired, resolv_conf: &str) -> Option<DnsConfig> {
    let spec = &desired.spec;
    let own = spec.dns_policy.as_deref() == Some("None");
    let asked = spec.dns_config.as_ref();
    if !own && asked.is_none() {
        return None;
    }
    let mut dns = if own { DnsConfig::default() } else { parse_resolv_conf(resolv_conf) };
    let Some(asked) = asked else { return Some(dns) };
    let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
        for item in more.iter().flatten() {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    };
    add(&mut dns.servers, &asked.nameservers);
    add(&mut dns.searches, &asked.searches);
    for option in asked.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        dns.options.retain(|old| old.split(':').next() != Some(name));
        dns.options.push(match &option.value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    Some(dns)
}

fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words.map(str::to_owned);
        match keyword {
            "nameserver" => dns.servers.extend(words.take(1)),
            "search" => dns.searches = words.collect(),
            "options" => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read() {
        let dns = parse_resolv_conf("# x\nnameserver 10.0.0.1\nsearch a b\noptions ndots:2 rotate\n");
        assert_eq!(dns.servers, ["10.0.0.1"]);
        assert_eq!(dns.searches, ["a", "b"]);
        assert_eq!(dns.options, ["ndots:2", "rotate"]);
    }
}
