//! Events as they are written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleet_wire::name::PodKey;
use kube::client::Body;
use prometheus_client::registry::Registry;

use super::*;
use crate::{identity::Gate, metrics::Metrics, ownership::Tenure};

fn device() -> DeviceName {
    "pi-7".parse().unwrap()
}

fn record() -> EventRecord {
    EventRecord {
        id: "17".to_owned(),
        pod: Some(PodKey {
            namespace: "web".parse().unwrap(),
            name: "front-x2".parse().unwrap(),
            uid: "8a0b".parse().unwrap(),
        }),
        container: Some("nginx".parse().unwrap()),
        type_: EventType::Warning,
        reason: "BackOff".to_owned(),
        message: "Back-off restarting failed container".to_owned(),
        count: 3,
        first: 1_700_000_000_000,
        last: 1_700_000_060_000,
    }
}

#[test]
fn an_event_of_a_container_looks_like_a_kubelets() {
    let event = event(&device(), &record(), CONTAINERS, SignedDuration::ZERO);
    let name = event["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("front-x2.") && name.len() == "front-x2.".len() + 16, "{name}");
    assert_eq!(event["metadata"]["namespace"], "web");
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{nginx}");
    assert_eq!(event["involvedObject"]["uid"], "8a0b");
    assert_eq!(event["source"], json!({ "component": "kubelet", "host": "pi-7" }));
    assert_eq!(event["reportingComponent"], "device-kubelet");
    assert_eq!(event["count"], 3);
    assert_eq!(event["firstTimestamp"], "2023-11-14T22:13:20Z");
    let typed: k8s_openapi::api::core::v1::Event = serde_json::from_value(event).unwrap();
    assert_eq!(typed.type_.as_deref(), Some("Warning"));
}

#[test]
fn a_repetition_has_the_name_of_the_first() {
    let again = EventRecord { count: 9, last: 1_800_000_000_000, message: "other".to_owned(), ..record() };
    assert_eq!(name(&device(), &record()), name(&device(), &again));
    let next = EventRecord { id: "18".to_owned(), ..record() };
    assert_ne!(name(&device(), &record()), name(&device(), &next));
    assert_ne!(name(&device(), &record()), name(&"pi-8".parse().unwrap(), &record()));
}

#[test]
fn names_sort_by_time_as_a_kubelets_do() {
    let at = |first: i64, id: &str| name(&device(), &EventRecord { first, id: id.to_owned(), ..record() });
    let mut names: Vec<String> =
        (0..50).map(|milli| at(1_700_000_000_000 + milli, &format!("{}", 99 - milli))).collect();
    let sorted = names.clone();
    names.sort();
    assert_eq!(names, sorted);
    assert_eq!(at(i64::MIN, "1").len(), at(1_700_000_000_000, "1").len());
}

#[test]
fn an_event_of_an_init_container_points_to_its_list() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "namespace": "web", "name": "front-x2", "uid": "8a0b" },
        "spec": { "initContainers": [{ "name": "setup" }], "containers": [{ "name": "nginx" }] },
    }))
    .unwrap();
    let list = |container: &str| {
        list(Some(&pod), &EventRecord { container: Some(container.parse().unwrap()), ..record() })
    };
    assert_eq!(list("setup"), INIT_CONTAINERS);
    assert_eq!(list("nginx"), CONTAINERS);
    let setup = EventRecord { container: Some("setup".parse().unwrap()), ..record() };
    let event = event(&device(), &setup, INIT_CONTAINERS, SignedDuration::ZERO);
    assert_eq!(event["involvedObject"]["fieldPath"], "spec.initContainers{setup}");
}

#[test]
fn a_node_is_its_own_uid_in_the_default_namespace() {
    let event = event(
        &device(),
        &EventRecord { pod: None, container: None, ..record() },
        CONTAINERS,
        SignedDuration::ZERO,
    );
    assert_eq!(event["involvedObject"], json!({ "kind": "Node", "name": "pi-7", "uid": "pi-7" }));
    assert_eq!(event["metadata"]["namespace"], "default");
}

#[test]
fn times_of_a_device_whose_clock_is_off_are_corrected() {
    let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let hour_slow = now.as_millisecond() - 3_600_000;
    let offset = clock_offset(hour_slow, now);
    assert_eq!(offset, SignedDuration::from_hours(1));
    let record = EventRecord { first: hour_slow - 60_000, last: hour_slow, ..record() };
    let event = event(&device(), &record, CONTAINERS, offset);
    assert_eq!(event["firstTimestamp"], "2026-11-21T11:59:00Z");
    assert_eq!(event["lastTimestamp"], "2026-11-21T12:00:00Z");
    assert_eq!(clock_offset(now.as_millisecond() - 900, now), SignedDuration::ZERO);
    assert_eq!(clock_offset(i64::MAX, now), SignedDuration::ZERO);
}

#[test]
fn long_names_and_messages_are_cut() {
    let mut record = record();
    record.pod.as_mut().unwrap().name = format!("{}.b", "a".repeat(63)).repeat(1).parse().unwrap();
    record.message = "ä".repeat(4000);
    let event = event(&device(), &record, CONTAINERS, SignedDuration::ZERO);
    assert!(event["metadata"]["name"].as_str().unwrap().len() <= 253);
    assert!(event["message"].as_str().unwrap().len() <= MAX_MESSAGE);
}

#[tokio::test(start_paused = true)]
async fn a_report_that_was_broken_off_goes_on_where_it_stopped() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let service = tower::service_fn(move |_: http::Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok::<_, tower::BoxError>(http::Response::new(Body::from(b"{}".to_vec())))
        }
    });
    let tenure = Tenure::until(tokio::time::Instant::now() + Duration::from_secs(1000));
    let metrics = Arc::new(Metrics::new(&mut Registry::default()));
    let client =
        NodeClient::new(kube::Client::new(service, "default"), Gate::new(1000, 1000), tenure, metrics);
    let events = (0..5).map(|number: u8| EventRecord { id: number.to_string(), count: 1, ..record() });
    let report = EventsReport { events: events.collect(), dropped: 0, now: 1_700_000_060_000 };
    let (pods, device, progress) = (Pods::default(), device(), Progress::default());
    let attempt = async || {
        let write = write(&client, &pods, &device, &report, &progress);
        tokio::time::timeout(Duration::from_secs(8), write).await
    };
    assert!(attempt().await.is_err());
    assert!(attempt().await.is_err());
    assert_eq!(attempt().await.unwrap().unwrap(), EventsAck::default());
    assert_eq!(asked.load(Ordering::Relaxed), 7, "only what was broken off is written again");
    assert!(progress.done().is_empty());
}
