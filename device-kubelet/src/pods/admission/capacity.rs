//! Is there room on this device for one more pod? Pure.
//!
//! The scheduler asks the same, but it is not the only one that binds pods (`spec.nodeName`, DaemonSets that tolerate
//! everything), and it can be wrong about a device that it has not heard of for long. As on any node, a pod for which
//! there is no room ends `Failed` with a kubelet's reason and words (`OutOfcpu`, `NodePorts`), and whoever made it
//! makes another. Asked once for each pod: what was let in stays, also when the agent starts anew on a device
//! that has become smaller.
//!
//! What a kubelet checks beside that, and this does not: the Node's labels (`NodeAffinity`), which devices do not know.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::pods::{quantity, status::Verdict};

/// What pods may ask for together: the Node's `allocatable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes; `None` where it is not known.
    pub ephemeral_storage: Option<i64>,
    /// Pods.
    pub pods: i64,
}

impl Allocatable {
    /// Room for everything.
    pub const UNLIMITED: Self =
        Self { milli_cpu: i64::MAX, memory: i64::MAX, ephemeral_storage: None, pods: i64::MAX };
}

/// A port of the device that a pod wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    protocol: String,
    ip: String,
    port: i32,
}

impl HostPort {
    fn collides(&self, other: &Self) -> bool {
        let same_address = self.ip == ANY || other.ip == ANY || self.ip == other.ip;
        self.port == other.port && self.protocol == other.protocol && same_address
    }
}

const ANY: &str = "0.0.0.0";

/// What a pod takes of the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    milli_cpu: i64,
    memory: i64,
    ephemeral_storage: i64,
    ports: Vec<HostPort>,
}

impl Demand {
    /// Of a pod with this specification.
    pub fn of(spec: &PodSpec) -> Self {
        let request = |resource: &str| request(spec, resource);
        Self {
            milli_cpu: request("cpu"),
            memory: request("memory"),
            ephemeral_storage: request("ephemeral-storage"),
            ports: host_ports(spec),
        }
    }
}

/// Why there is no room beside these pods; `None` if there is.
pub fn rejection(pod: &Demand, others: &[&Demand], allocatable: Allocatable) -> Option<Verdict> {
    let used = |take: fn(&Demand) -> i64| others.iter().map(|other| take(other)).fold(0, i64::saturating_add);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let resources = [
        ("pods", 1, count, Some(allocatable.pods)),
        ("cpu", pod.milli_cpu, used(|other| other.milli_cpu), Some(allocatable.milli_cpu)),
        ("memory", pod.memory, used(|other| other.memory), Some(allocatable.memory)),
        (
            "ephemeral-storage",
            pod.ephemeral_storage,
            used(|other| other.ephemeral_storage),
            allocatable.ephemeral_storage,
        ),
    ];
    for (resource, requested, used, capacity) in resources {
        // Who asks for nothing gets it also of a device that has nothing left.
        if let Some(capacity) = capacity
            && requested > 0
            && requested > capacity.saturating_sub(used)
        {
            let message = format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: \
                 {capacity}"
            );
            return Some(Verdict { reason: format!("OutOf{resource}"), message });
        }
    }
    let taken =
        |port: &HostPort| others.iter().flat_map(|other| &other.ports).any(|other| other.collides(port));
    pod.ports.iter().any(taken).then(|| Verdict {
        reason: "NodePorts".to_owned(),
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            .to_owned(),
    })
}

/// What a pod needs at its most: all main containers and sidecars together, or one init container with the sidecars
/// before it.
fn request(spec: &PodSpec, resource: &str) -> i64 {
    let of = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        requests.and_then(|requests| amount(resource, &requests.get(resource)?.0)).unwrap_or(0)
    };
    let (mut sidecars, mut init_peak) = (0_i64, 0_i64);
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars = sidecars.saturating_add(of(container));
            init_peak = init_peak.max(sidecars);
        } else {
            init_peak = init_peak.max(sidecars.saturating_add(of(container)));
        }
    }
    let running = spec.containers.iter().map(of).fold(sidecars, i64::saturating_add);
    let overhead = spec.overhead.as_ref().and_then(|overhead| amount(resource, &overhead.get(resource)?.0));
    running.max(init_peak).saturating_add(overhead.unwrap_or(0))
}

fn amount(resource: &str, text: &str) -> Option<i64> {
    if resource == "cpu" { quantity::millis(text) } else { quantity::ceil(text) }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                ip: port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| ANY.to_owned()),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    const DEVICE: Allocatable =
        Allocatable { milli_cpu: 1000, memory: 1 << 30, ephemeral_storage: Some(1 << 30), pods: 3 };

    fn demand(spec: Value) -> Demand {
        Demand::of(&serde_json::from_value(spec).unwrap())
    }

    fn asking(cpu: &str, memory: &str) -> Demand {
        demand(json!({ "containers": [
            { "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } },
        ] }))
    }

    fn on_port(port: &Value) -> Demand {
        demand(json!({ "containers": [{ "name": "c", "ports": [port] }] }))
    }

    fn said(pod: &Demand, others: &[&Demand], device: Allocatable) -> Option<(String, String)> {
        rejection(pod, others, device).map(|verdict| (verdict.reason, verdict.message))
    }

    fn out_of(reason: &str, message: &str) -> Option<(String, String)> {
        Some((reason.to_owned(), format!("Node didn't have enough resource: {message}")))
    }

    #[test]
    fn what_does_not_fit_is_said_in_a_kubelets_words() {
        let (small, large) = (asking("600m", "600Mi"), asking("2", "2Gi"));
        assert_eq!(said(&small, &[], DEVICE), None);
        assert_eq!(
            said(&large, &[], DEVICE),
            out_of("OutOfcpu", "cpu, requested: 2000, used: 0, capacity: 1000")
        );
        assert_eq!(
            said(&small, &[&small], DEVICE),
            out_of("OutOfcpu", "cpu, requested: 600, used: 600, capacity: 1000")
        );
        assert_eq!(
            said(&asking("0", "600Mi"), &[&small], DEVICE),
            out_of("OutOfmemory", "memory, requested: 629145600, used: 629145600, capacity: 1073741824")
        );
        let disk = demand(json!({ "containers": [
            { "name": "c", "resources": { "requests": { "ephemeral-storage": "2Gi" } } },
        ] }));
        assert_eq!(
            said(&disk, &[], DEVICE),
            out_of(
                "OutOfephemeral-storage",
                "ephemeral-storage, requested: 2147483648, used: 0, capacity: 1073741824"
            )
        );
        assert_eq!(said(&disk, &[], Allocatable { ephemeral_storage: None, ..DEVICE }), None);
    }

    #[test]
    fn pods_are_counted_and_who_asks_for_nothing_is_counted_too() {
        let nothing = Demand::default();
        assert_eq!(said(&nothing, &[&nothing; 2], DEVICE), None);
        assert_eq!(
            said(&nothing, &[&nothing; 3], DEVICE),
            out_of("OutOfpods", "pods, requested: 1, used: 3, capacity: 3")
        );
        // More than there is was let in before; who asks for nothing takes nothing.
        assert_eq!(said(&nothing, &[&asking("4", "8Gi")], DEVICE), None);
    }

    #[test]
    fn a_pod_needs_what_it_needs_at_its_most() {
        let container = |cpu: &str| json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } });
        let sidecar = |cpu: &str| {
            let mut sidecar = container(cpu);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        let cpu = |init: &[Value], main: &[Value], overhead: &str| {
            let overhead = json!({ "cpu": overhead });
            demand(json!({ "initContainers": init, "containers": main, "overhead": overhead })).milli_cpu
        };
        assert_eq!(cpu(&[], &[container("1"), container("500m")], "0"), 1500);
        assert_eq!(cpu(&[container("2")], &[container("1"), container("500m")], "0"), 2000);
        assert_eq!(cpu(&[sidecar("200m"), container("2")], &[container("1")], "0"), 2200);
        assert_eq!(cpu(&[container("1"), sidecar("200m")], &[container("1")], "0"), 1200);
        assert_eq!(cpu(&[sidecar("200m")], &[container("1")], "50m"), 1250);
    }

    #[test]
    fn ports_of_the_device_are_given_once() {
        let refused = |one: &Value, other: &Value| {
            said(&on_port(one), &[&on_port(other)], DEVICE).map(|(reason, _)| reason).unwrap_or_default()
        };
        let port = |number: u16| json!({ "containerPort": 80, "hostPort": number });
        let with = |key: &str, value: &str| {
            let mut port = port(80);
            port[key] = json!(value);
            port
        };
        assert_eq!(refused(&port(80), &port(80)), "NodePorts");
        assert_eq!(refused(&port(80), &port(81)), "");
        assert_eq!(refused(&json!({ "containerPort": 80 }), &json!({ "containerPort": 80 })), "");
        assert_eq!(refused(&port(80), &with("protocol", "UDP")), "");
        assert_eq!(refused(&port(80), &with("protocol", "TCP")), "NodePorts");
        assert_eq!(refused(&port(80), &with("hostIP", "10.0.0.1")), "NodePorts");
        assert_eq!(refused(&with("hostIP", "10.0.0.1"), &with("hostIP", "10.0.0.2")), "");
        assert_eq!(refused(&with("hostIP", "10.0.0.1"), &with("hostIP", "0.0.0.0")), "NodePorts");
    }
}
