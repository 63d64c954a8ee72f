//! The Lease and the status of the Node.

use super::super::*;
use crate::{
    devices::bench::{Bench, INTERVAL},
    nodes,
};

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
