//! What the kubelet API asks of the device, and its streams.

use serde_json::{Value, json};

use super::super::*;
use crate::devices::bench::{Bench, INTERVAL};

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
