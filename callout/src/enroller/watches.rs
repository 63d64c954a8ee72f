//! Follows objects: complete lists and single changes, handed to whoever keeps them.

use std::{collections::HashMap, fmt::Debug};

use fleet_daemon::health::CheckHandle;
use fleet_kube::{News, Readiness, Watch};
use fleet_wire::{
    enrollment::{DEVICE_LABEL, RECORD_TYPE, SIGNER_NAME},
    name::DeviceName,
};
use k8s_openapi::api::{
    certificates::v1::CertificateSigningRequest,
    core::v1::{Node, Secret},
};
use kube::{Api, Resource, runtime::watcher::Config};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{
    pkcs10,
    serving::SIGNER as SERVING_SIGNER,
    view::{Held, NodeSeen, View},
};

async fn follow<K>(
    api: Api<K>,
    config: Config,
    what: &'static str,
    check: CheckHandle,
    mut take: impl FnMut(News<K>),
) where
    K: Resource<DynamicType: Default> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut lists = Watch::new(api, config, what, Readiness::Current(check)).whole_lists();
    while let Some(news) = lists.news().await {
        take(news);
    }
}

/// Tells whose objects changed. The receiver ends with the process.
pub type Changed = mpsc::UnboundedSender<DeviceName>;

/// Follows the records.
pub async fn records(
    client: kube::Client,
    namespace: String,
    view: View,
    changed: Changed,
    check: CheckHandle,
) {
    let config = Config::default().fields(&format!("type={RECORD_TYPE}"));
    let api: Api<Secret> = Api::namespaced(client, &namespace);
    follow(api, config, "enrollment records", check, |news| match news {
        News::All(secrets) => {
            view.set_records(secrets.iter().filter_map(Held::parse).collect());
            for device in view.devices() {
                let _ = changed.send(device);
            }
        }
        News::One(secret) => {
            if let Some(held) = Held::parse(&secret) {
                let device = held.record.enrollment.device.clone();
                view.note_record(held);
                let _ = changed.send(device);
            }
        }
        News::Gone(secret) => {
            if let Some(held) = Held::parse(&secret) {
                view.drop_record(&held.record.enrollment.device);
            }
        }
    })
    .await;
}

/// Follows the Nodes of devices.
pub async fn nodes(client: kube::Client, view: View, changed: Changed, check: CheckHandle) {
    let config = Config::default().labels(&format!("{DEVICE_LABEL}=true"));
    let named = |node: &Node| -> Option<DeviceName> { node.metadata.name.as_deref()?.parse().ok() };
    follow(Api::<Node>::all(client), config, "Nodes", check, |news| match news {
        News::All(nodes) => {
            let nodes: HashMap<_, _> =
                nodes.iter().filter_map(|node| Some((named(node)?, NodeSeen::from(node)))).collect();
            let present: Vec<DeviceName> = nodes.keys().cloned().collect();
            for device in view.set_nodes(nodes).into_iter().chain(present) {
                let _ = changed.send(device);
            }
        }
        News::One(node) => {
            if let Some(device) = named(&node) {
                view.note_node(device.clone(), NodeSeen::from(&node));
                let _ = changed.send(device);
            }
        }
        News::Gone(node) => {
            if let Some(device) = named(&node) {
                view.drop_node(&device);
                let _ = changed.send(device);
            }
        }
    })
    .await;
}

/// Follows the requests of devices that asked by themselves. `own` is the enroller's user name.
pub async fn applicants(
    client: kube::Client,
    own: String,
    view: View,
    changed: mpsc::UnboundedSender<()>,
    check: CheckHandle,
) {
    let config = Config::default().fields(&format!("spec.signerName={SIGNER_NAME}"));
    let name = |request: &CertificateSigningRequest| request.metadata.name.clone().unwrap_or_default();
    follow(Api::all(client), config, "requests for membership", check, |news| {
        match news {
            News::All(requests) => view.set_applicants(
                requests
                    .iter()
                    .filter_map(|request| Some((name(request), pkcs10::read(request, &own)?)))
                    .collect(),
            ),
            News::One(request) => view.note_applicant(&name(&request), pkcs10::read(&request, &own)),
            News::Gone(request) => view.note_applicant(&name(&request), None),
        }
        let _ = changed.send(());
    })
    .await;
}

/// Follows requests for serving certificates; each that is there or changes is passed on.
pub async fn serving(
    client: kube::Client,
    changed: mpsc::UnboundedSender<CertificateSigningRequest>,
    check: CheckHandle,
) {
    let config = Config::default().fields(&format!("spec.signerName={SERVING_SIGNER}"));
    follow(Api::all(client), config, "requests for serving certificates", check, |news| match news {
        News::All(requests) => {
            for request in requests {
                let _ = changed.send(request);
            }
        }
        News::One(request) => {
            let _ = changed.send(request);
        }
        News::Gone(_) => {}
    })
    .await;
}
