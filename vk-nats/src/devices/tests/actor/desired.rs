//! What the device is to run: pushed, and asked for.

use std::collections::BTreeMap;

use fleet_wire::{
    digest::Digest,
    message::{Delta, DesiredVersion, SyncRequest},
};

use super::super::*;
use crate::devices::bench::Bench;

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
