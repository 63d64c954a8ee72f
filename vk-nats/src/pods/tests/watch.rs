//! Against an API server that lists one pod, or cannot.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use fleet_wire::enrollment::Enrollment;
use http::StatusCode;
use kube::client::Body;
use nkeys::{KeyPair, XKey};
use serde_json::json;

use super::*;
use crate::nodes::DeviceNode;

fn pod() -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "web", "name": "front", "uid": "8a0b", "resourceVersion": "5" },
        "spec": { "nodeName": "pi-7", "containers": [{ "name": "web" }] },
    }))
    .unwrap()
}

fn node(device: &DeviceName) -> Arc<DeviceNode> {
    let enrollment = Enrollment {
        device: device.clone(),
        identity_key: KeyPair::new_user().public_key().parse().unwrap(),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: BTreeMap::new(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    };
    Arc::new(DeviceNode::parse(&enrollment.node()).unwrap())
}

fn api_server(answer: &Arc<Mutex<StatusCode>>) -> Api<Pod> {
    let answer = Arc::clone(answer);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let status = *answer.lock().unwrap();
        async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            assert!(query.contains("spec.nodeName"), "{query}");
            let list = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [pod()] });
            let mut answer = http::Response::new(Body::from(list.to_string().into_bytes()));
            *answer.status_mut() = status;
            Ok::<_, tower::BoxError>(answer)
        }
    });
    Api::all(kube::Client::new(service, "default"))
}

#[tokio::test]
async fn a_device_whose_node_comes_late_appears_after_its_pods() {
    let answer = Arc::new(Mutex::new(StatusCode::SERVICE_UNAVAILABLE));
    let api = api_server(&answer);
    let device: DeviceName = "pi-7".parse().unwrap();
    let (nodes, pods) = (Nodes::default(), Pods::default());
    let (changes, mut told) = mpsc::unbounded_channel();
    let mut follower = Follower::new(nodes.clone(), pods, changes);
    for event in [Event::Init, Event::InitApply(pod()), Event::InitDone] {
        assert!(follower.listing, "who appears now would do so before pods that are not listed yet");
        follower.take(event);
    }
    assert!(!follower.listing);
    assert!(matches!(told.try_recv(), Ok(PodChange::Synced)));

    nodes.put(node(&device));
    follower.device(&api, device.clone(), true).await;
    assert!(told.try_recv().is_err(), "its pods are not known: it must not be told that it has none");

    *answer.lock().unwrap() = StatusCode::OK;
    follower.device(&api, device.clone(), true).await;
    assert!(matches!(told.try_recv(), Ok(PodChange::Applied(of, ..)) if of == device));
    assert!(matches!(told.try_recv(), Ok(PodChange::Appeared(of)) if of == device));
    follower.device(&api, device.clone(), true).await;
    assert!(told.try_recv().is_err(), "once is enough");

    follower.device(&api, device.clone(), false).await;
    assert!(matches!(told.try_recv(), Ok(PodChange::Left(of)) if of == device));
    follower.device(&api, device.clone(), true).await;
    assert!(matches!(told.try_recv(), Ok(PodChange::Appeared(of)) if of == device));
}
