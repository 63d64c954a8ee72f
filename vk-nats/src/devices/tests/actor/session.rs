//! Sessions: how one opens and is lost, and what is no part of it.

use std::collections::BTreeMap;

use fleet_wire::{
    keys::FleetKeys,
    message::{Delta, DesiredVersion, Heartbeat, StatusReport, SyncRequest},
    name::{KeyVersion, OwnerEpoch},
    session::DeviceSession,
};
use nkeys::XKey;
use serde_json::{Value, json};

use super::super::*;
use crate::devices::bench::Bench;

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
