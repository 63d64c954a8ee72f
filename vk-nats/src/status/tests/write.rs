//! Against an API server that answers as it is told and notes what it was asked.

use std::{collections::BTreeMap, sync::Mutex};

use fleet_wire::name::{PodKey, PodUid};
use http::StatusCode;
use k8s_openapi::api::core::v1::PodStatus;
use kube::client::Body;
use prometheus_client::registry::Registry;

use super::*;
use crate::{identity::Gate, metrics::Metrics, ownership::Tenure, status::Turns};

/// A device with one pod, whose status was written.
struct Bench {
    client: NodeClient,
    answer: Arc<Mutex<StatusCode>>,
    asked: Arc<Mutex<Vec<Value>>>,
    pods: Pods,
    device: DeviceName,
    key: PodKey,
    lane: Arc<Lane>,
}

impl Bench {
    async fn new() -> Self {
        use http_body_util::BodyExt as _;
        let answer = Arc::new(Mutex::new(StatusCode::OK));
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let (answers, notes) = (Arc::clone(&answer), Arc::clone(&asked));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (answers, notes) = (Arc::clone(&answers), Arc::clone(&notes));
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                notes.lock().unwrap().push(serde_json::from_slice(&body)?);
                let mut response = http::Response::new(Body::from(b"{}".to_vec()));
                *response.status_mut() = *answers.lock().unwrap();
                Ok::<_, tower::BoxError>(response)
            }
        });
        let tenure = Tenure::until(Instant::now() + Duration::from_secs(1_000_000));
        let metrics = Arc::new(Metrics::new(&mut Registry::default()));
        let client =
            NodeClient::new(kube::Client::new(service, "default"), Gate::new(1000, 1000), tenure, metrics);
        let uid: PodUid = "8a0b".parse().unwrap();
        let key =
            PodKey { namespace: "web".parse().unwrap(), name: "front".parse().unwrap(), uid: uid.clone() };
        let mut turns = Turns::default();
        let turn = turns.next(&uid);
        let lane = Arc::clone(turn.lane());
        let bench =
            Self { client, answer, asked, pods: Pods::default(), device: "pi-7".parse().unwrap(), key, lane };
        bench.the_api_has(None);
        let (outcome, waiting) = write(&bench.client, &bench.pods, &bench.device, bench.report(), turn).await;
        assert_eq!((outcome.outcome, waiting.is_some()), (Outcome::Taken, false));
        assert_eq!(bench.asked().len(), 1);
        bench
    }

    fn report(&self) -> PodReport {
        PodReport { key: self.key.clone(), revision: 1, status: running("True"), stopped: false }
    }

    /// What the watch brings.
    fn the_api_has(&self, status: Option<PodStatus>) {
        self.the_api_has_in(None, status);
    }

    /// What the watch brings, in a state of the pod that has a version.
    fn the_api_has_in(&self, version: Option<&str>, status: Option<PodStatus>) {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": { "namespace": "web", "name": "front", "uid": "8a0b" },
            "spec": { "nodeName": "pi-7", "containers": [{ "name": "web" }] },
        }))
        .unwrap();
        pod.metadata.resource_version = version.map(str::to_owned);
        pod.status = status;
        self.pods.put(&self.device, &self.key.uid, &pod);
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    /// After what was written has had the time to show.
    async fn reconcile(&self) {
        tokio::time::advance(SETTLES).await;
        reconcile(&self.client, &self.pods, &self.device, &self.lane).await;
    }

    async fn is_remembered(&self) -> bool {
        self.lane.enter().await.told.is_some()
    }
}

fn running(ready: &str) -> PodStatus {
    let conditions = json!([{ "type": "Ready", "status": ready }]);
    let status = BTreeMap::from([("phase", json!("Running")), ("conditions", conditions)]);
    serde_json::from_value(json!(status)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_others_changed_is_written_again() {
    let bench = Bench::new().await;
    // As the lifecycle controller does it to the pods of a silent Node.
    bench.the_api_has(Some(running("False")));
    bench.reconcile().await;
    let asked = bench.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1]["metadata"]["uid"], "8a0b");
    assert_eq!(asked[1]["status"]["conditions"][0]["status"], "True");
    assert!(bench.is_remembered().await);

    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 3, "as long as the API has it otherwise");
}

#[tokio::test(start_paused = true)]
async fn what_the_api_has_is_not_written_again() {
    let bench = Bench::new().await;
    bench.the_api_has(Some(running("True")));
    for _ in 0..3 {
        bench.reconcile().await;
    }
    assert_eq!(bench.asked().len(), 1);
    assert!(bench.is_remembered().await);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changed_after_it_was_found_right_is_looked_at_again() {
    let bench = Bench::new().await;
    bench.the_api_has_in(Some("7"), Some(running("True")));
    bench.reconcile().await;
    bench.the_api_has_in(Some("8"), Some(running("False")));
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 2);
    // A wrong state is none that was found right.
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 3);
    bench.the_api_has_in(Some("9"), Some(running("True")));
    bench.reconcile().await;
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 3);
    assert!(bench.is_remembered().await);
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_shows_right_after_a_write_decides_nothing() {
    let bench = Bench::new().await;
    bench.the_api_has(Some(running("False")));
    reconcile(&bench.client, &bench.pods, &bench.device, &bench.lane).await;
    assert_eq!(bench.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_tried_again() {
    let bench = Bench::new().await;
    bench.the_api_has(Some(running("False")));
    *bench.answer.lock().unwrap() = StatusCode::SERVICE_UNAVAILABLE;
    bench.reconcile().await;
    assert!(bench.is_remembered().await);
    *bench.answer.lock().unwrap() = StatusCode::OK;
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_is_forgotten() {
    // By what the watch shows.
    let bench = Bench::new().await;
    bench.pods.take_away(&bench.key.uid);
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 1);
    assert!(!bench.is_remembered().await);

    // By what the API server says.
    let bench = Bench::new().await;
    bench.the_api_has(Some(running("False")));
    *bench.answer.lock().unwrap() = StatusCode::NOT_FOUND;
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 2);
    assert!(!bench.is_remembered().await);
    bench.reconcile().await;
    assert_eq!(bench.asked().len(), 2);
}
