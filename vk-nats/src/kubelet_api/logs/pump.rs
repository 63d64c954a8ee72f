//! Moves a stream: frames of the device in, bytes to the HTTP client out, credit and pings back.
//!
//! One task for each stream. It ends when the stream does, when the client goes away, or when the process
//! shuts down; the device is told at once.

use std::{io, time::Duration};

use bytes::Bytes;
use fleet_wire::{name::DeviceName, stream::Frame};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::edge::FrameStream,
    reader::{State, StreamReader},
};

/// How long a frame may take to be published. What is not is repeated by the reader.
const PUBLISH: Duration = Duration::from_secs(2);

/// What the HTTP body is made of.
pub type Body = mpsc::Sender<Result<Bytes, io::Error>>;

/// Runs a stream to its end.
pub async fn pump(
    device: &DeviceName,
    mut stream: Box<dyn FrameStream>,
    mut reader: StreamReader,
    body: Body,
    shutdown: CancellationToken,
) {
    let mut at_line_start = true;
    let trouble = loop {
        while let Some(frame) = reader.outgoing(now()) {
            if !publish(stream.as_ref(), frame).await {
                reader.not_sent(now());
            }
        }
        if !reader.has_bytes() {
            match reader.state() {
                State::Open => {}
                State::Finished => {
                    // The device keeps its end for a while in case it was lost: not needed any more.
                    publish(stream.as_ref(), Frame::Cancel).await;
                    return;
                }
                State::Failed(error) => break error.to_string(),
            }
        }
        let deadline = reader.deadline();
        let is_open = deadline.is_some();
        tokio::select! {
            biased;
            () = body.closed() => {
                tracing::debug!("the client went away");
                publish(stream.as_ref(), Frame::Cancel).await;
                return;
            }
            () = shutdown.cancelled() => break "vk-nats is shutting down".to_owned(),
            permit = body.reserve(), if reader.has_bytes() => {
                if let (Ok(permit), Some(bytes)) = (permit, reader.take()) {
                    at_line_start = bytes.last() == Some(&b'\n');
                    permit.send(Ok(Bytes::from(bytes)));
                }
            }
            frame = stream.recv(), if is_open => match frame {
                Some(frame) => reader.arrive(frame, now()),
                None => reader.fail("the device is no longer served here"),
            },
            () = sleep_until(deadline.map_or_else(Instant::now, Instant::from_std)), if is_open => {}
        }
    };
    tracing::info!(reason = %trouble, "a log stream ended early");
    publish(stream.as_ref(), Frame::Cancel).await;
    // The status was sent long ago: a last line says why to people, the connection's abort to programs.
    let newline = if at_line_start { "" } else { "\n" };
    let line = format!("{newline}log stream of device {device} ended early: {trouble}\n");
    if body.send(Ok(Bytes::from(line))).await.is_ok() {
        body.send(Err(io::Error::other(trouble))).await.ok();
    }
}

/// Tries to send a frame to the device; the reader repeats what matters.
pub async fn publish(stream: &dyn FrameStream, frame: Frame) -> bool {
    match timeout(PUBLISH, stream.send(frame)).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::debug!(%error, "a stream frame was not sent"),
        Err(_) => tracing::debug!("a stream frame was not sent within {PUBLISH:?}"),
    }
    false
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
