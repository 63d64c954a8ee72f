#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fleet_wire::message::{Refusal, RefusalCode};
use futures::future::{BoxFuture, FutureExt as _};

use super::*;
use crate::devices::DownError;

struct Stream {
    frames: mpsc::UnboundedReceiver<Frame>,
    sent: mpsc::UnboundedSender<Frame>,
    broken: Arc<AtomicBool>,
}

impl FrameStream for Stream {
    fn recv(&mut self) -> BoxFuture<'_, Option<Frame>> {
        self.frames.recv().boxed()
    }

    fn send(&self, frame: Frame) -> BoxFuture<'_, Result<(), DownError>> {
        let result = if self.broken.load(Ordering::Relaxed) {
            Err(DownError::Refused(Refusal::new(RefusalCode::Unavailable, "NATS is away")))
        } else {
            self.sent.send(frame).ok();
            Ok(())
        };
        async move { result }.boxed()
    }
}

/// A pump that runs, and the test's ends of it.
struct Case {
    device: mpsc::UnboundedSender<Frame>,
    sent: mpsc::UnboundedReceiver<Frame>,
    body: mpsc::Receiver<Result<Bytes, io::Error>>,
    broken: Arc<AtomicBool>,
}

impl Case {
    fn start() -> Self {
        let (device, frames) = mpsc::unbounded_channel();
        let (sends, sent) = mpsc::unbounded_channel();
        let (writes, body) = mpsc::channel(1);
        let broken = Arc::new(AtomicBool::new(false));
        let stream = Box::new(Stream { frames, sent: sends, broken: broken.clone() });
        let reader = StreamReader::new(1000, now());
        tokio::spawn(async move {
            let device = "pi-7".parse().unwrap();
            pump(&device, stream, reader, writes, CancellationToken::new()).await;
        });
        Self { device, sent, body, broken }
    }

    async fn text(&mut self) -> String {
        String::from_utf8(self.body.recv().await.unwrap().unwrap().to_vec()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_falls_silent_is_given_up_after_ten_seconds() {
    let mut case = Case::start();
    let start = Instant::now();
    case.device.send(Frame::Data { offset: 0, bytes: b"half".to_vec() }).unwrap();
    assert_eq!(case.text().await, "half");
    let last = case.text().await;
    assert_eq!(last, "\nlog stream of device pi-7 ended early: the device has not been heard for 10 s\n");
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(case.body.recv().await.unwrap().is_err(), "the body must break off");
    let sent: Vec<_> = std::iter::from_fn(|| case.sent.try_recv().ok()).collect();
    assert!(sent.contains(&Frame::Ping));
    assert_eq!(sent.last(), Some(&Frame::Cancel));
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_when_nats_comes_back_in_time() {
    let mut case = Case::start();
    case.device.send(Frame::Data { offset: 0, bytes: b"one ".to_vec() }).unwrap();
    assert_eq!(case.text().await, "one ");
    case.broken.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(8)).await;
    case.broken.store(false, Ordering::Relaxed);
    while case.sent.try_recv().is_ok() {}
    // The reader says by itself what it lacks; the device goes on from there.
    let credit = case.sent.recv().await.unwrap();
    assert_eq!(credit, Frame::Credit { received: 4, limit: 1004 });
    case.device.send(Frame::Data { offset: 0, bytes: b"one two".to_vec() }).unwrap();
    assert_eq!(case.text().await, "two");
    case.device.send(Frame::End { offset: 7, error: None }).unwrap();
    assert!(case.body.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_no_longer_served_ends_the_stream() {
    let mut case = Case::start();
    drop(case.device);
    let last = String::from_utf8(case.body.recv().await.unwrap().unwrap().to_vec()).unwrap();
    assert_eq!(last, "log stream of device pi-7 ended early: the device is no longer served here\n");
    assert!(case.body.recv().await.unwrap().is_err());
}
