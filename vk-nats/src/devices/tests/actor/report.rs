//! What the device reports of its pods.

use std::collections::BTreeMap;

use fleet_wire::{
    message::{Outcome, PodReport, StatusReport},
    name::PodKey,
};
use k8s_openapi::api::core::v1::PodStatus;

use super::super::*;
use crate::{
    devices::bench::{Bench, SLOW},
    status,
};

fn stopped(key: &PodKey, phase: &str) -> StatusReport {
    let status = PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
    StatusReport {
        node: None,
        pods: vec![PodReport { key: key.clone(), revision: 4, status, stopped: true }],
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_pod_gets_its_last_status_and_is_deleted_by_uid() {
    let mut bench = Bench::new();
    let (set, key) = bench.publish_pod();
    bench.hello(None, set.digest()).await;
    let ack =
        bench.request::<StatusAck>(UpVerb::Status, &stopped(&key, "Succeeded")).await.into_result().unwrap();
    assert_eq!((ack.pods[0].revision, &ack.pods[0].outcome), (4, &Outcome::Gone));
    let requests = bench.requests(4).await;
    let of_pod: Vec<_> = requests.iter().filter(|(_, path, _)| path.contains("/pods/front")).collect();
    assert_eq!(of_pod[0].0, "PATCH");
    assert_eq!(of_pod[0].2["status"]["phase"], "Succeeded");
    assert_eq!(of_pod[1].0, "DELETE");
    assert_eq!(of_pod[1].2["preconditions"]["uid"], "8a0b");
    assert_eq!(of_pod[1].2["gracePeriodSeconds"], 0);
}

#[tokio::test(start_paused = true)]
async fn the_pace_of_one_pod_delays_no_other_and_its_newest_status_is_written_in_time() {
    let mut bench = Bench::new();
    let [busy, other] = ["busy", "other"].map(|name| bench.place_pod(name));
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    let report = |key: &PodKey, revision, message: &str| PodReport {
        key: key.clone(),
        revision,
        status: PodStatus {
            // What the API has, so that nothing is urgent.
            phase: Some("Pending".to_owned()),
            message: Some(message.to_owned()),
            ..PodStatus::default()
        },
        stopped: false,
    };
    let patches = |bench: &Bench, name: &str| {
        let seen = bench.api.lock().unwrap().clone();
        let path = format!("/api/v1/namespaces/web/pods/{name}/status");
        let of_pod = seen.into_iter().filter(|(_, of, _)| *of == path);
        of_pod.map(|(_, _, body)| body["status"]["message"].clone()).collect::<Vec<_>>()
    };

    let began = Instant::now();
    for (reports, expected) in [
        (vec![report(&busy, 1, "one")], vec!["taken"]),
        (vec![report(&busy, 2, "two"), report(&other, 3, "one")], vec!["later", "taken"]),
        (vec![report(&busy, 4, "three")], vec!["later"]),
    ] {
        let report = StatusReport { node: None, pods: reports };
        let ack = bench.request::<StatusAck>(UpVerb::Status, &report).await.into_result().unwrap();
        let mut outcomes: Vec<_> =
            ack.pods.iter().map(|pod| (pod.uid.clone(), outcome(&pod.outcome))).collect();
        outcomes.sort();
        let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(outcomes, expected);
    }
    assert!(began.elapsed() < Duration::from_millis(100), "an answer waited: {:?}", began.elapsed());
    assert_eq!(patches(&bench, "busy"), ["one"]);

    tokio::time::sleep(status::PACE * 2).await;
    assert_eq!(patches(&bench, "busy"), ["one", "three"], "the newest, once");
    let again = StatusReport { node: None, pods: vec![report(&busy, 4, "three")] };
    let ack = bench.request::<StatusAck>(UpVerb::Status, &again).await.into_result().unwrap();
    assert_eq!(ack.pods[0].outcome, Outcome::Taken);
    assert_eq!(patches(&bench, "busy").len(), 2, "what the API server has is not written again");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_takes_long_holds_up_no_other_and_is_written_once() {
    let mut bench = Bench::new();
    let [slow, other] = ["slow", "other"].map(|name| bench.place_pod(name));
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    let running = |key: &PodKey| {
        let status = PodStatus { phase: Some("Running".to_owned()), ..PodStatus::default() };
        PodReport { key: key.clone(), revision: 1, status, stopped: false }
    };
    let both = StatusReport { node: None, pods: vec![running(&slow), running(&other)] };
    let began = Instant::now();
    let ack = bench.request::<StatusAck>(UpVerb::Status, &both).await.into_result().unwrap();
    let outcomes: BTreeMap<_, _> =
        ack.pods.iter().map(|pod| (pod.uid.as_str(), outcome(&pod.outcome))).collect();
    assert_eq!(outcomes, BTreeMap::from([("uid-other", "taken"), ("uid-slow", "later")]));
    assert!(began.elapsed() < SLOW / 2, "the answer waited: {:?}", began.elapsed());

    // It is on its way: asked again, it is not written again.
    let again = StatusReport { node: None, pods: vec![running(&slow)] };
    let ack = bench.request::<StatusAck>(UpVerb::Status, &again).await.into_result().unwrap();
    assert_eq!(outcome(&ack.pods[0].outcome), "later");
    tokio::time::sleep(SLOW).await;
    let ack = bench.request::<StatusAck>(UpVerb::Status, &again).await.into_result().unwrap();
    assert_eq!(ack.pods[0].outcome, Outcome::Taken);
    let seen = bench.api.lock().unwrap().clone();
    assert_eq!(seen.iter().filter(|(_, path, _)| path.contains("/pods/slow/")).count(), 1);
}

fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Taken => "taken",
        Outcome::Later(_) => "later",
        _ => "another",
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_another_device_or_of_nobody_is_gone() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    let key = PodKey {
        namespace: "web".parse().unwrap(),
        name: "front".parse().unwrap(),
        uid: "foreign".parse().unwrap(),
    };
    let ack =
        bench.request::<StatusAck>(UpVerb::Status, &stopped(&key, "Running")).await.into_result().unwrap();
    assert_eq!(ack.pods[0].outcome, Outcome::Gone);
    assert!(bench.api.lock().unwrap().iter().all(|(_, path, _)| !path.contains("/pods/")));

    // Among others, each has its own answer.
    let here = bench.place_pod("here");
    let mut report = stopped(&key, "Running");
    report.pods.extend(stopped(&here, "Running").pods);
    let ack = bench.request::<StatusAck>(UpVerb::Status, &report).await.into_result().unwrap();
    let outcomes: BTreeMap<_, _> =
        ack.pods.iter().map(|pod| (pod.uid.as_str(), pod.outcome.clone())).collect();
    assert_eq!(outcomes, BTreeMap::from([("foreign", Outcome::Gone), ("uid-here", Outcome::Taken)]));
}
