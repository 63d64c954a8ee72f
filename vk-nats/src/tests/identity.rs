//! Requests as a device's node.

use std::sync::{Arc, Mutex};

use futures::FutureExt as _;
use http::{Response, StatusCode};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::*;

type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

/// An API server that notes what it is asked and gives one answer.
fn api_server(
    status: StatusCode,
    retry_after: Option<&'static str>,
    body: &'static str,
) -> (kube::Client, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Body>| {
        noted.lock().unwrap().push(request.into_parts().0);
        async move {
            let mut answer = Response::builder().status(status);
            if let Some(seconds) = retry_after {
                answer = answer.header(header::RETRY_AFTER, seconds);
            }
            Ok::<_, BoxError>(answer.body(Body::from(body.as_bytes().to_vec())).unwrap())
        }
    });
    (kube::Client::new(service, "default"), seen)
}

fn node_client(client: kube::Client, tenure: Duration) -> NodeClient {
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let now = Instant::now();
    NodeClient::new(client, Gate::new(1000, 1000), Tenure::until(now + tenure), metrics)
}

fn device() -> DeviceName {
    "pi-7".parse().unwrap()
}

fn call() -> Call {
    Call::new(
        "patch nodes/status",
        Lane::Node,
        Method::PATCH,
        "/api/v1/nodes/pi-7/status".into(),
        STRATEGIC_MERGE_PATCH,
        &serde_json::json!({}),
    )
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn every_request_is_made_as_the_node_and_names_no_group() {
    let (client, seen) = api_server(StatusCode::OK, None, "{}");
    let client = node_client(client, HOUR);

    client.send(&device(), call()).await.unwrap();
    let api: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
        kube::Api::namespaced(client.impersonating(&device()), "default");
    let _ = api.get_metadata("settings").await;

    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for request in seen.iter() {
        assert_eq!(request.headers["impersonate-user"], "system:node:pi-7");
        assert_eq!(request.headers.get_all("impersonate-user").iter().count(), 1);
        assert!(!request.headers.contains_key("impersonate-group"));
    }
    assert_eq!(seen[0].headers["content-type"], STRATEGIC_MERGE_PATCH);
}

#[tokio::test]
async fn who_lost_the_fleet_does_not_write() {
    let (client, seen) = api_server(StatusCode::OK, None, "{}");

    let result = node_client(client, Duration::ZERO).send(&device(), call()).await;

    assert_eq!(result.unwrap_err(), ApiError::NotOwner);
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn retry_after_pauses_all_lanes() {
    let (client, _) = api_server(StatusCode::TOO_MANY_REQUESTS, Some("7"), "{}");
    let client = node_client(client, HOUR);

    let refused = client.send(&device(), call()).await.unwrap_err();
    assert!(matches!(refused, ApiError::Throttled { after, .. } if after == Duration::from_secs(7)));

    let began = Instant::now();
    let mut next = call();
    next.lane = Lane::Pod;
    let _ = client.send(&device(), next).await;
    assert!(began.elapsed() >= Duration::from_secs(7));
}

#[test]
fn refusals_are_told_apart() {
    use fleet_wire::message::Outcome;
    let classify = |status, body: &str| ApiError::classify(status, &http::HeaderMap::new(), body.as_bytes());
    let uid = r#"{"reason":"Conflict","message":"Operation cannot be fulfilled on pods \"web\": Precondition failed: UID in precondition: a, UID in object meta: b"}"#;
    let immutable = r#"{"reason":"Invalid","message":"invalid","details":{"causes":[{"field":"metadata.uid","reason":"FieldValueInvalid"}]}}"#;
    assert_eq!(classify(StatusCode::NOT_FOUND, "{}").outcome(), Outcome::Gone);
    assert_eq!(classify(StatusCode::CONFLICT, uid).outcome(), Outcome::Gone);
    assert_eq!(classify(StatusCode::UNPROCESSABLE_ENTITY, immutable).outcome(), Outcome::Gone);
    let invalid = classify(StatusCode::UNPROCESSABLE_ENTITY, r#"{"reason":"Invalid","message":"no"}"#);
    assert!(matches!(invalid.outcome(), Outcome::Refused(_)));
    let conflict =
        classify(StatusCode::CONFLICT, r#"{"reason":"Conflict","message":"the object has been modified"}"#);
    assert!(matches!(conflict.outcome(), Outcome::Later(_)));
    let broken = classify(StatusCode::INTERNAL_SERVER_ERROR, "not json");
    assert!(matches!(broken.outcome(), Outcome::Later(_)));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_lines_its_takers_up() {
    let now = Instant::now();
    let mut bucket = TokenBucket::new(10, 2, now);
    assert_eq!(bucket.take(now), Duration::ZERO);
    assert_eq!(bucket.take(now), Duration::ZERO);
    assert_eq!(bucket.take(now), Duration::from_millis(100));
    assert_eq!(bucket.take(now), Duration::from_millis(200));
    assert_eq!(bucket.take(now + Duration::from_secs(60)), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn first_leases_of_a_whole_fleet_leave_statuses_their_places_and_get_theirs() {
    let gate = Gate::new(1, 1);
    let free = async |lane| {
        let mut places = Vec::new();
        while let Ok(place) = tokio::time::timeout(Duration::from_secs(1), gate.enter(lane)).await {
            places.push(place);
        }
        places
    };
    let leases = free(Lane::NewLease).await;
    assert!(!leases.is_empty(), "without a token: a pause is no reason to lose a Node");
    let statuses = free(Lane::Node).await;
    assert!(statuses.len() > leases.len(), "{} statuses beside {} Leases", statuses.len(), leases.len());
    drop(leases);
    assert!(!free(Lane::NewLease).await.is_empty(), "statuses do not hold up Leases for good, either");
}

#[tokio::test(start_paused = true)]
async fn events_go_behind_writes_of_nodes_that_wait_already() {
    let gate = Gate::new(1000, 1000);
    let mut places = Vec::new();
    while let Some(place) = gate.enter(Lane::Node).now_or_never() {
        places.push(place);
    }
    let (mut node, mut event) = (Box::pin(gate.enter(Lane::Node)), Box::pin(gate.enter(Lane::Event)));
    assert!((&mut node).now_or_never().is_none());
    assert!((&mut event).now_or_never().is_none());
    places.pop();
    assert!((&mut event).now_or_never().is_none(), "the Node came first");
    let place = (&mut node).now_or_never().expect("there is a place");
    assert!((&mut event).now_or_never().is_none());
    drop(place);
    let _written = (&mut event).now_or_never().expect("its turn has come");
    assert!(gate.enter(Lane::Node).now_or_never().is_some(), "it takes no place of the Nodes");
}
