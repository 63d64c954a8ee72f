//! A device that leaves, and keys that change: the device's own, and the fleet's.

use std::collections::BTreeMap;

use fleet_wire::{keys::FleetKeys, name::KeyVersion};
use nkeys::{KeyPair, XKey};
use serde_json::json;

use super::super::*;
use crate::devices::bench::Bench;

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
