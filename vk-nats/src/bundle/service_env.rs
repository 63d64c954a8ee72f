//! The variables by which a container finds Services, as kubelets make them.
//!
//! A kubelet takes the Services that exist when a container starts. Here it is those that are older than
//! the pod: whoever builds the bundle, and whenever, gets the same variables, so that a Service made later
//! or a restart of this process does not change the digest of every pod in the namespace.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::Pod;

use crate::services::{ServiceView, Services};

const MASTER_NAMESPACE: &str = "default";
const MASTER_SERVICE: &str = "kubernetes";

/// The variables for a pod. `KUBERNETES_*` are always among them, those of the pod's namespace only with
/// `enableServiceLinks`.
pub fn service_env(pod: &Pod, services: &Services) -> BTreeMap<String, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let older = |service: &ServiceView| match (service.created, created) {
        (Some(service), Some(pod)) => service <= pod,
        _ => true,
    };
    let mut chosen: BTreeMap<&str, &ServiceView> = BTreeMap::new();
    let master = services.get(&(MASTER_NAMESPACE.to_owned(), MASTER_SERVICE.to_owned()));
    if let Some(master) = master {
        chosen.insert(MASTER_SERVICE, master);
    }
    if links {
        let start = (namespace.to_owned(), String::new());
        let own = services.range(start..).take_while(|((found, _), _)| found == namespace);
        for (_, service) in own.filter(|(_, service)| older(service)) {
            // One of the pod's own namespace hides the master service of the same name.
            chosen.insert(&service.name, service);
        }
    }
    let mut variables = BTreeMap::new();
    for service in chosen.values() {
        add(&mut variables, service);
    }
    variables
}

fn add(variables: &mut BTreeMap<String, String>, service: &ServiceView) {
    let Some(first) = service.ports.first() else { return };
    let name = variable(&service.name);
    variables.insert(format!("{name}_SERVICE_HOST"), service.cluster_ip.clone());
    variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in &service.ports {
        if let Some(port_name) = &port.name {
            let key = format!("{name}_SERVICE_PORT_{}", variable(port_name));
            variables.insert(key, port.port.to_string());
        }
    }
    // The names that Docker's links had.
    let host = match service.cluster_ip.parse() {
        Ok(IpAddr::V6(_)) => format!("[{}]", service.cluster_ip),
        _ => service.cluster_ip.clone(),
    };
    for (position, port) in service.ports.iter().enumerate() {
        let protocol = port.protocol.to_lowercase();
        let url = format!("{protocol}://{host}:{}", port.port);
        if position == 0 {
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, port.protocol.to_uppercase());
        variables.insert(prefix.clone(), url);
        variables.insert(format!("{prefix}_PROTO"), protocol);
        variables.insert(format!("{prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{prefix}_ADDR"), service.cluster_ip.clone());
    }
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
#[path = "tests/service_env.rs"]
mod tests;
