//! Variables of Services.

use serde_json::json;

use super::*;
use crate::services::ServicePortView;

fn service(namespace: &str, name: &str, created: &str, ports: &[(Option<&str>, i32)]) -> ServiceView {
    ServiceView {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        cluster_ip: "10.96.0.10".to_owned(),
        created: Some(created.parse().unwrap()),
        ports: ports
            .iter()
            .map(|(name, port)| ServicePortView {
                name: name.map(str::to_owned),
                port: *port,
                protocol: "TCP".to_owned(),
            })
            .collect(),
    }
}

fn services(all: Vec<ServiceView>) -> Services {
    all.into_iter().map(|service| ((service.namespace.clone(), service.name.clone()), service)).collect()
}

fn pod(links: Option<bool>) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "namespace": "web", "name": "front", "creationTimestamp": "2026-11-21T12:00:00Z" },
        "spec": { "containers": [], "enableServiceLinks": links },
    }))
    .unwrap()
}

const BEFORE: &str = "2026-11-21T11:00:00Z";
const AFTER: &str = "2026-11-21T13:00:00Z";

#[test]
fn variables_are_those_of_a_kubelet() {
    let services = services(vec![
        service("default", "kubernetes", BEFORE, &[(Some("https"), 443)]),
        service("web", "redis-primary", BEFORE, &[(Some("client"), 6379), (None, 16379)]),
        service("web", "later", AFTER, &[(None, 80)]),
        service("other", "elsewhere", BEFORE, &[(None, 80)]),
    ]);
    let variables = service_env(&pod(None), &services);
    let expect =
        |key: &str, value: &str| assert_eq!(variables.get(key).map(String::as_str), Some(value), "{key}");
    expect("KUBERNETES_SERVICE_HOST", "10.96.0.10");
    expect("KUBERNETES_SERVICE_PORT_HTTPS", "443");
    expect("KUBERNETES_PORT", "tcp://10.96.0.10:443");
    expect("REDIS_PRIMARY_SERVICE_HOST", "10.96.0.10");
    expect("REDIS_PRIMARY_SERVICE_PORT", "6379");
    expect("REDIS_PRIMARY_SERVICE_PORT_CLIENT", "6379");
    expect("REDIS_PRIMARY_PORT_16379_TCP_ADDR", "10.96.0.10");
    expect("REDIS_PRIMARY_PORT_16379_TCP_PROTO", "tcp");
    assert!(!variables.keys().any(|key| key.starts_with("LATER") || key.starts_with("ELSEWHERE")));
}

#[test]
fn without_links_only_the_api_server_is_found() {
    let services = services(vec![
        service("default", "kubernetes", BEFORE, &[(Some("https"), 443)]),
        service("web", "redis", BEFORE, &[(None, 6379)]),
    ]);
    let variables = service_env(&pod(Some(false)), &services);
    assert!(variables.keys().all(|key| key.starts_with("KUBERNETES_")) && !variables.is_empty());
}
