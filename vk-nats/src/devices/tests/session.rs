//! An actor against a device's end of the session.

use std::collections::BTreeMap;

use fleet_wire::{
    digest::Digest,
    keys::FleetKeys,
    message::{Delta, DesiredVersion, Heartbeat, Outcome, PodReport, StatusReport, SyncRequest},
    name::{KeyVersion, OwnerEpoch, PodKey},
    session::DeviceSession,
};
use k8s_openapi::api::core::v1::PodStatus;
use nkeys::{KeyPair, XKey};
use serde_json::{Value, json};

use super::*;
use crate::{
    devices::bench::{Bench, INTERVAL, SLOW},
    nodes, status,
};

#[tokio::test(start_paused = true)]
async fn a_device_whose_node_was_deleted_is_told_in_its_session() {
    let mut bench = Bench::new();
    bench.live().await;
    bench.handle.inbox.send(Box::new(Input::Gone)).await.unwrap();
    let (subject, opened) = bench.command().await;
    assert!(subject.ends_with(".down.revoked"), "{subject}");
    assert!(opened.header.session.is_some(), "outside of the session nobody would have to believe it");
    let revoked: fleet_wire::message::Revoked = opened.body().unwrap();
    assert!(revoked.reason.contains("pi-7"));
    bench.actor.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn new_keys_of_the_device_end_its_actor_and_revoke_nothing() {
    let mut bench = Bench::new();
    bench.live().await;
    bench.handle.inbox.send(Box::new(Input::End)).await.unwrap();
    bench.actor.await.unwrap().unwrap();
    assert!(bench.sent.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_device_is_asked_for_new_keys_until_its_hello_says_that_it_made_them() {
    let mut bench = Bench::new();
    let empty = bench.live().await;
    let (node, port) = bench.handle.node.borrow().clone();
    let wanted = DeviceNode { rotate: Some("2026-11-21".into()), ..(*node).clone() };
    bench.handle.node.send_replace((Arc::new(wanted), port));
    for _ in 0..2 {
        let (subject, opened) = bench.command().await;
        assert!(subject.ends_with(".down.rotate"), "{subject}");
        assert_eq!(opened.body::<fleet_wire::message::Rotate>().unwrap().request, "2026-11-21");
        // It is asked again only after a while, in which it has to be heard.
        bench.beat(empty).await;
    }
    bench.rotated = Some("2026-11-21".into());
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert!(bench.sent.try_recv().is_err(), "it is done");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_of_the_fleet_reaches_a_device_with_its_next_hello() {
    let mut bench = Bench::new();
    let empty = bench.live().await;
    let root = KeyPair::new_operator();
    let second = XKey::new();
    let mut public = bench.fleet.borrow().keys.public();
    public.insert(KeyVersion(2), second.public_key());
    let statement = fleet_wire::keys::KeyStatement { sequence: 2, curve_keys: public, enroller_key: None };
    let signed = fleet_wire::keys::SignedKeyStatement::sign(&statement, &root).unwrap();
    let (first, _) = bench.fleet.borrow().keys.newest();
    let old = bench.fleet.borrow().keys.get(first).unwrap().clone();
    bench.fleet.send_replace(Fleet {
        keys: FleetKeys::new(BTreeMap::from([(first, old), (KeyVersion(2), second)])).unwrap(),
        statement: Some((2, signed.clone())),
    });
    let (subject, opened) = bench.command().await;
    assert!(subject.ends_with(".down.rehello") && opened.header.session.is_none(), "{subject}");
    assert_eq!(bench.hello(None, empty).await.keys, Some(signed), "the device has none");
    bench.beat(empty).await;

    bench.session.set_fleet(statement.fleet_keys().unwrap());
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let written = |bench: &Bench| {
        let seen = bench.api.lock().unwrap();
        seen.iter().any(|(_, path, body)| {
            path.ends_with("/status")
                && body["metadata"]["annotations"][fleet_wire::enrollment::KEY_VERSION] == json!("2")
        })
    };
    while !written(&bench) {
        assert!(Instant::now() < deadline, "the Node never said which version the device uses");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn stopped(key: &PodKey, phase: &str) -> StatusReport {
    let status = PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() };
    StatusReport {
        node: None,
        pods: vec![PodReport { key: key.clone(), revision: 4, status, stopped: true }],
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_becomes_ready_only_after_it_proved_that_it_got_the_answer() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    let reply = bench.hello(None, empty).await;
    assert_eq!((reply.owner_epoch, reply.set_digest), (OwnerEpoch(3), empty));
    assert!(bench.api.lock().unwrap().is_empty(), "a hello alone, perhaps replayed, writes nothing");
    assert!(!bench.handle.is_connected());

    bench.beat(empty).await;
    let requests = bench.requests(2).await;
    let lease = requests.iter().find(|(_, path, _)| path.ends_with("/leases")).unwrap();
    assert_eq!((lease.0.as_str(), &lease.2["spec"]["holderIdentity"]), ("POST", &json!("pi-7")));
    let status = requests.iter().find(|(_, path, _)| path == "/api/v1/nodes/pi-7/status").unwrap();
    assert_eq!(status.2["metadata"]["annotations"][fleet_wire::enrollment::INCARNATION], reply.incarnation);
    assert!(bench.handle.is_connected());
    assert_eq!(bench.context.metrics.devices_connected.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn changes_are_pushed_and_a_sync_brings_what_is_missing() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;

    let (set, key) = bench.publish_pod();
    let (subject, message) = bench.next().await;
    assert_eq!(subject, Subject::Down(bench.device.clone(), DownVerb::Changed).to_string());
    let delta: Delta = bench.session.open(&subject, &message).unwrap().body().unwrap();
    assert_eq!(delta.upsert[0].uid, key.uid);
    assert_eq!(delta.set_digest, set.digest());

    let sync = SyncRequest { have: BTreeMap::new(), desired: DesiredVersion::default() };
    let Reply::Ok(synced) = bench.request::<Delta>(UpVerb::Sync, &sync).await else { panic!("refused") };
    assert_eq!(synced.version, delta.version);
    let body = synced.upsert[0].body.as_ref().unwrap();
    assert_eq!(Digest::of(body.get().as_bytes()), synced.upsert[0].digest);
}

#[tokio::test(start_paused = true)]
async fn a_change_between_hello_and_its_confirmation_is_not_lost() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    let (set, _) = bench.publish_pod();
    bench.beat(empty).await;
    let (subject, message) = bench.next().await;
    let hint: Delta = bench.session.open(&subject, &message).unwrap().body().unwrap();
    assert_eq!(hint.set_digest, set.digest());
    assert!(hint.upsert.is_empty(), "what the device holds is not known: it syncs");
}

#[tokio::test(start_paused = true)]
async fn before_the_set_is_known_a_device_keeps_what_it_has() {
    let mut bench = Bench::new();
    let own = Digest::of(b"whatever it holds");
    let reply = bench.hello(None, own).await;
    assert_eq!(reply.set_digest, own);
    bench.beat(own).await;
    let sync = SyncRequest { have: BTreeMap::new(), desired: DesiredVersion::default() };
    let refused = bench.request::<Delta>(UpVerb::Sync, &sync).await.into_result().unwrap_err();
    assert_eq!(refused.code, RefusalCode::Unavailable);
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

#[tokio::test(start_paused = true)]
async fn a_lost_session_is_said_and_a_new_hello_repairs_it() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;

    // The device says hello from another process, as after its restart; then the old one speaks.
    let public = &bench.context.fleet.borrow().keys.public()[&KeyVersion(1)];
    let keys = BTreeMap::from([(KeyVersion(1), XKey::from_public_key(public).unwrap())]);
    let keys = FleetKeys::new(keys).unwrap();
    let fresh = DeviceSession::new(bench.device.clone(), bench.curve.clone(), keys, OwnerEpoch(3));
    let old = std::mem::replace(&mut bench.session, fresh);
    bench.hello(Some("1.x".to_owned()), empty).await;
    bench.beat(empty).await;
    bench.session = old;
    let sync = SyncRequest { have: BTreeMap::new(), desired: DesiredVersion::default() };
    let refused = bench.request::<Delta>(UpVerb::Sync, &sync).await.into_result().unwrap_err();
    assert_eq!(refused.code, RefusalCode::UnknownSession);

    bench.beat(empty).await;
    let (subject, message) = bench.next().await;
    assert_eq!(subject, Subject::Down(bench.device.clone(), DownVerb::Rehello).to_string());
    let opened = bench.session.open(&subject, &message).unwrap();
    assert!(opened.header.session.is_none());
    bench.beat(empty).await;
    bench.hello(Some("9.y".to_owned()), empty).await;
    assert!(bench.sent.try_recv().is_err(), "it was asked once, not for every heartbeat");
}

#[tokio::test(start_paused = true)]
async fn bad_messages_are_counted_and_never_answered_elsewhere() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    let status = bench.subject(UpVerb::Status);
    let beat_subject = bench.subject(UpVerb::Heartbeat);

    let foreign = bench.session.seal(&status, &StatusReport::default()).unwrap().message;
    bench.give(&status, Some("_INBOX.pi-8.x".to_owned()), foreign).await;
    bench.give(&status, Some("fleet.v1.0.pi-8.down.changed".to_owned()), b"HF garbage".to_vec()).await;
    bench.give(&status, None, b"garbage".to_vec()).await;
    bench.give(&status, None, vec![b'x'; fleet_wire::envelope::MAX_MESSAGE + 1]).await;
    let beat = Heartbeat { set_digest: empty, desired: DesiredVersion::default() };
    let once = bench.session.seal(&beat_subject, &beat).unwrap().message;
    bench.give(&beat_subject, None, once.clone()).await;
    bench.give(&beat_subject, None, once.clone()).await;
    bench.give(&status, None, once).await;
    let malformed = bench.request::<StatusAck>(UpVerb::Status, &json!({ "pods": 3 })).await;
    assert_eq!(malformed.into_result().unwrap_err().code, RefusalCode::Malformed);
    let unknown = bench.request::<Value>(UpVerb::Unknown("dance".to_owned()), &json!({})).await;
    assert_eq!(unknown.into_result().unwrap_err().code, RefusalCode::UnknownVerb);

    assert_eq!(bench.counted("status", "ForeignReply"), 2);
    assert_eq!(bench.counted("status", "Format"), 1);
    assert_eq!(bench.counted("status", "TooLarge"), 1);
    assert_eq!(bench.counted("heartbeat", "Ok"), 1);
    assert_eq!(bench.counted("heartbeat", "Replayed"), 1);
    assert_eq!(bench.counted("status", "Binding"), 1);
    assert!(bench.sent.try_recv().is_err(), "nothing went out but the answers");
}

#[tokio::test(start_paused = true)]
async fn a_silent_device_loses_its_lease_and_returns_at_once() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;
    tokio::time::sleep(INTERVAL * 4).await;
    assert!(!bench.handle.is_connected());
    let before = bench.api.lock().unwrap().len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.api.lock().unwrap().len(), before, "nothing is written for a silent device");

    // In a large fleet, too: as far as the API knows, it was always there.
    bench.context.metrics.devices_enrolled.set(1000);
    let (node, port) = bench.handle.node.borrow().clone();
    let ready = DeviceNode { ready: Some("True".to_owned()), ..(*node).clone() };
    bench.handle.node.send_replace((Arc::new(ready), port));
    let back = Instant::now();
    bench.beat(empty).await;
    let after = bench.requests(before + 2).await;
    assert!(after[before..].iter().any(|(_, path, _)| path.contains("leases")));
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
    assert!(bench.handle.is_connected());
}

#[tokio::test(start_paused = true)]
async fn in_a_large_fleet_a_new_node_has_its_status_first_and_its_lease_once_and_in_its_turn() {
    let mut bench = Bench::new();
    bench.context.metrics.devices_enrolled.set(1000);
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    let turn = nodes::lease::next_renewal(&bench.device, bench.context.started, Instant::now());
    bench.beat(empty).await;
    let first = bench.requests(1).await;
    assert!(first[0].1.ends_with("/nodes/pi-7/status"), "{first:?}");
    tokio::time::sleep_until(turn - Duration::from_millis(1)).await;
    let leases = |bench: &Bench| {
        let seen = bench.api.lock().unwrap();
        seen.iter().filter(|(_, path, _)| path.contains("leases")).count()
    };
    assert_eq!(leases(&bench), 0);
    tokio::time::sleep_until(turn + nodes::lease::RENEW_EVERY / 2).await;
    assert_eq!(leases(&bench), 1);
    bench.beat(empty).await;
    tokio::time::sleep_until(turn + nodes::lease::RENEW_EVERY * 3 / 2).await;
    assert_eq!(leases(&bench), 2);
}

#[tokio::test(start_paused = true)]
async fn an_old_incarnation_is_a_condition_and_an_event() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    let first = bench.hello(None, empty).await;
    bench.beat(empty).await;
    let second = bench.hello(Some(first.incarnation.clone()), empty).await;
    bench.beat(empty).await;
    bench.requests(3).await;
    assert_ne!(first.incarnation, second.incarnation);

    bench.hello(Some(first.incarnation), empty).await;
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let requests = bench.api.lock().unwrap().clone();
    let event = requests.iter().find(|(_, path, _)| path.ends_with("/events")).unwrap();
    assert_eq!(event.2["reason"], "IdentityConflict");
    let last = requests.iter().rfind(|(_, path, _)| path.ends_with("/nodes/pi-7/status")).unwrap();
    assert_eq!(last.2["status"]["conditions"][0]["type"], "IdentityConflict");
    assert_eq!(last.2["status"]["conditions"][0]["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn old_incarnations_one_after_the_other_are_one_event() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    for _ in 0..20 {
        bench.hello(None, empty).await;
        bench.beat(empty).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let requests = bench.api.lock().unwrap().clone();
    assert_eq!(requests.iter().filter(|(_, path, _)| path.ends_with("/events")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn questions_are_answered_and_frames_find_their_stream() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    let id: RequestId = "q1".parse().unwrap();
    let early = bench.devices.open_stream(&bench.device, id.clone());
    assert!(matches!(early, Err(DownError::NotConnected { .. })));
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;

    let frames = subject::stream_up_wildcard(&bench.device);
    assert!(!bench.hears(&frames), "nobody reads a stream");
    let mut stream = bench.devices.open_stream(&bench.device, id.clone()).unwrap();
    let (devices, device) = (bench.devices.clone(), bench.device.clone());
    let asked = id.clone();
    let question = tokio::spawn(async move {
        devices.request::<_, Value>(&device, DownVerb::Logs, &asked, &json!({ "tail": 1 }), INTERVAL).await
    });
    let (subject, message) = bench.next().await;
    assert_eq!(subject, Subject::Down(bench.device.clone(), DownVerb::Logs).to_string());
    let body: Value = bench.session.open(&subject, &message).unwrap().body().unwrap();
    assert_eq!(body["tail"], 1);
    let answer = Subject::Answer(bench.device.clone(), id.clone()).to_string();
    let sealed = bench.session.seal(&answer, &Reply::Ok(json!({ "open": true }))).unwrap().message;
    bench.give(&answer, None, sealed).await;
    assert_eq!(question.await.unwrap().unwrap(), json!({ "open": true }));

    let up = Subject::Stream(bench.device.clone(), id.clone(), subject::Leg::Up).to_string();
    let data = Frame::Data { offset: 0, bytes: b"line\n".to_vec() };
    let sealed = bench.session.seal_frame(&up, 1, &data.encode()).unwrap();
    bench.give(&up, None, sealed.clone()).await;
    assert_eq!(stream.recv().await, Some(data));

    stream.send(Frame::Ping).await.unwrap();
    let (subject, message) = bench.next().await;
    let frame = bench.session.open_frame(&subject, &message).unwrap();
    assert_eq!(Frame::decode(frame.bytes().unwrap()).unwrap(), Frame::Ping);

    drop(stream);
    bench.give(&up, None, sealed).await;
    let (subject, message) = bench.next().await;
    let frame = bench.session.open_frame(&subject, &message).unwrap();
    assert_eq!(Frame::decode(frame.bytes().unwrap()).unwrap(), Frame::Cancel, "nobody reads it any more");
    bench.beat(empty).await;
    while bench.hears(&frames) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_ends_with_its_node_and_its_streams_too() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;
    let mut stream = bench.devices.open_stream(&bench.device, RequestId::random()).unwrap();
    bench.handle.inbox.send(Box::new(Input::End)).await.unwrap();
    (&mut bench.actor).await.unwrap().unwrap();
    assert_eq!(stream.recv().await, None);
    assert_eq!(bench.context.metrics.devices_connected.get(), 0);
    bench.stop.trigger();
}

#[tokio::test(start_paused = true)]
async fn a_hello_replayed_before_the_first_message_changes_nothing() {
    let mut bench = Bench::new();
    let empty = bench.publish_nothing();
    let first = bench.hello(None, empty).await;
    bench.beat(empty).await;
    bench.requests(2).await;

    // The device's next hello, which shows its token, is recorded on its way and played again, with an older one,
    // before the device has said anything in the session that it opened.
    let replays = 3;
    let old = bench.sealed_hello(None, empty);
    let genuine = bench.hello(Some(first.incarnation.clone()), empty).await;
    let subject = bench.subject(UpVerb::Hello);
    for _ in 0..replays {
        let inbox = bench.inbox();
        bench.give(&subject, Some(inbox), old.clone()).await;
        bench.next().await;
    }
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(5)).await;

    let requests = bench.api.lock().unwrap().clone();
    let last = requests.iter().rfind(|(_, path, _)| path.ends_with("/nodes/pi-7/status")).unwrap();
    let kept = &last.2["metadata"]["annotations"][fleet_wire::enrollment::INCARNATION];
    assert_eq!(
        kept,
        &json!(genuine.incarnation),
        "the token that the device was given is the one that counts"
    );
    assert!(
        requests.iter().all(|(_, path, _)| !path.ends_with("/events")),
        "a conflict of identities was seen"
    );

    // What the device was told is what it shows next: it is no copy of itself.
    bench.hello(Some(genuine.incarnation), empty).await;
    bench.beat(empty).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.api.lock().unwrap().iter().all(|(_, path, _)| !path.ends_with("/events")));
}
