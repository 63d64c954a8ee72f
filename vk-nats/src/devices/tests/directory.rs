//! Actors as their Nodes come and go.

use fleet_wire::{name::RequestId, stream::Frame};

use super::*;
use crate::devices::bench::Bench;

#[tokio::test(start_paused = true)]
async fn a_device_is_told_of_its_revocation_however_busy_its_actor_is() {
    let mut bench = Bench::new();
    bench.handle.inbox.send(Box::new(Input::End)).await.unwrap();
    let (nodes, changes) = mpsc::unbounded_channel();
    let devices = Devices::default();
    let (node, port) = bench.handle.node.borrow().clone();
    let directory = run(Arc::clone(&bench.context), devices.clone(), changes, bench.stop.clone());
    let directory = tokio::spawn(directory);
    nodes.send(NodeChange::Applied(node, port)).unwrap();
    while devices.get(&bench.device).is_none() {
        tokio::task::yield_now().await;
    }
    bench.live().await;

    // The directory hears of it before the actor comes to the queue, which is full.
    nodes.send(NodeChange::Gone(bench.device.clone())).unwrap();
    let inbox = devices.get(&bench.device).unwrap().inbox;
    let frame = || Input::Frame { stream: RequestId::random(), number: 1, frame: Frame::Ping };
    while inbox.try_send(Box::new(frame())).is_ok() {}
    drop(inbox);
    loop {
        let (subject, _) = bench.next().await;
        if subject.ends_with(".down.revoked") {
            break;
        }
    }
    bench.stop.trigger();
    directory.await.unwrap().unwrap();
}
