//! `/etc/hosts` of a pod's containers, line by line as a kubelet writes it. Pure, but for the device's own file, which
//! is handed in.

use std::fmt::Write as _;

use super::{desired::Desired, sandbox_spec::hostname};

/// Where it is in a container.
pub const PATH: &str = "/etc/hosts";

const LOOPBACK: &str = "# Kubernetes-managed hosts file.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
fe00::\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// Where a pod's lines begin: which network it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network<'a> {
    /// Its own, with these addresses, primary first.
    Own(&'a [String]),
    /// The device's, whose `/etc/hosts` this is.
    Device(&'a str),
}

/// The text of the file: the network's lines, then the pod's `hostAliases`.
pub fn text(desired: &Desired, network: Network<'_>) -> String {
    let mut text = match network {
        Network::Own(addresses) => {
            let name = hostname(desired);
            addresses.iter().fold(LOOPBACK.to_owned(), |mut text, address| {
                let _ = writeln!(text, "{address}\t{name}");
                text
            })
        }
        Network::Device(lines) => {
            let mut text = format!("# Kubernetes-managed hosts file (host network).\n{lines}");
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
    };
    let aliases = desired.spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        let _ = writeln!(text, "{}\t{names}", alias.ip);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn desired(more: Value) -> Desired {
        let mut spec = json!({"containers": [{"name": "main", "image": "busybox:1"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let metadata = json!({"name": "web", "namespace": "default", "uid": "u1"});
        let bundle = json!({"pod": {"metadata": metadata, "spec": spec}});
        Desired::parse(&"u1".parse().unwrap(), &bundle.to_string()).unwrap()
    }

    fn aliases() -> Value {
        json!([{"ip": "192.0.2.7", "hostnames": ["gateway", "gateway.lan"]}, {"ip": "2001:db8::7", "hostnames": ["six"]}])
    }

    #[test]
    fn a_pod_finds_itself_by_its_name_and_others_by_their_aliases() {
        let pod = desired(json!({"hostname": "front", "hostAliases": aliases()}));
        let addresses = ["10.88.0.2".to_owned(), "fd00::2".to_owned()];
        let text = super::text(&pod, Network::Own(&addresses));
        let own = text.strip_prefix(LOOPBACK).unwrap();
        assert_eq!(
            own,
            "10.88.0.2\tfront\nfd00::2\tfront\n\n# Entries added by HostAliases.\n\
             192.0.2.7\tgateway\tgateway.lan\n2001:db8::7\tsix\n"
        );
        assert_eq!(
            super::text(&desired(json!({})), Network::Own(&addresses[..1])),
            format!("{LOOPBACK}10.88.0.2\tweb\n")
        );
    }

    #[test]
    fn on_the_devices_network_it_sees_what_the_device_sees() {
        let pod = desired(json!({"hostNetwork": true, "hostAliases": aliases()}));
        let text = super::text(&pod, Network::Device("127.0.0.1 localhost\n192.0.2.1 printer"));
        assert!(
            text.starts_with("# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"),
            "{text}"
        );
        assert!(text.contains("printer\n\n# Entries added by HostAliases.\n192.0.2.7\tgateway\t"), "{text}");
    }
}
