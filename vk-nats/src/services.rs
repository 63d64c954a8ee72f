//! Services, for the variables that containers find them by.

use std::collections::BTreeMap;

use fleet_daemon::health::CheckHandle;
use fleet_kube::{Readiness, Watch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    runtime::watcher::{Config, Event},
};
use tokio::sync::mpsc;

/// What is kept of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceView {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.clusterIP`.
    pub cluster_ip: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Its ports in order.
    pub ports: Vec<ServicePortView>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortView {
    /// Name, if it has one.
    pub name: Option<String>,
    /// Port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Services that have an address, by namespace and name.
pub type Services = BTreeMap<(String, String), ServiceView>;

/// What became of a Service.
#[derive(Debug, Clone)]
pub enum ServiceChange {
    /// It is there.
    Applied(ServiceView),
    /// It is gone, or has no address any more.
    Gone((String, String)),
    /// These are all that exist.
    Synced(Services),
}

/// Follows the Services for ever.
pub async fn watch(client: kube::Client, changes: mpsc::UnboundedSender<ServiceChange>, check: CheckHandle) {
    let api = Api::<Service>::all(client);
    let mut watch = Watch::new(api, Config::default(), "Services", Readiness::Current(check));
    let mut listed = Services::new();
    while let Some(event) = watch.event().await {
        let change = match event {
            Event::Init => {
                listed.clear();
                continue;
            }
            Event::InitApply(service) => {
                if let Some(view) = view(&service) {
                    listed.insert(key(&service), view);
                }
                continue;
            }
            Event::InitDone => ServiceChange::Synced(std::mem::take(&mut listed)),
            Event::Apply(service) => match view(&service) {
                Some(view) => ServiceChange::Applied(view),
                None => ServiceChange::Gone(key(&service)),
            },
            Event::Delete(service) => ServiceChange::Gone(key(&service)),
        };
        // The receiver ends with the process.
        let _ = changes.send(change);
    }
}

fn key(service: &Service) -> (String, String) {
    (
        service.metadata.namespace.clone().unwrap_or_default(),
        service.metadata.name.clone().unwrap_or_default(),
    )
}

fn view(service: &Service) -> Option<ServiceView> {
    let spec = service.spec.as_ref()?;
    let cluster_ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")?;
    let (namespace, name) = key(service);
    Some(ServiceView {
        namespace,
        name,
        cluster_ip: cluster_ip.to_owned(),
        created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ports: spec
            .ports
            .iter()
            .flatten()
            .map(|port| ServicePortView {
                name: port.name.clone().filter(|name| !name.is_empty()),
                port: port.port,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            })
            .collect(),
    })
}
