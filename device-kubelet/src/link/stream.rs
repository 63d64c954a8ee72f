//! Log streams: bytes of a file to whoever follows it in the cluster, under the reader's credit.
//!
//! One task for each stream. It ends when the reader cancels or has not been heard for [`GONE`] while there
//! is a connection, or with the agent. A stream that was delivered lingers so long, too: should its end have
//! been lost, the reader asks, and is told again.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fleet_daemon::{nats::LinkState, shutdown::Tasks};
use fleet_wire::{
    message::{LogsRequest, Refusal, RefusalCode},
    name::RequestId,
    stream::{Frame, MAX_LOG_STREAMS, PING_SECONDS},
};
use futures::{StreamExt as _, stream::BoxStream};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::Instrument as _;

use super::{
    channel::{Channel, RequestError},
    window::{BUFFER, SendWindow},
};
use crate::{
    logs::{self, LogOptions},
    pods::Pods,
};

/// Most streams that linger after they were delivered; they keep nothing.
const MOST_LINGERING: usize = 256;
/// Frames of one reader that may wait; they are small, and repeated.
const WAITING_FRAMES: usize = 64;
/// Silence after which the writer asks whether the reader is there.
const PING: Duration = Duration::from_secs(PING_SECONDS);
/// Silence after which the reader is taken for gone.
const GONE: Duration = Duration::from_secs(2 * PING_SECONDS);

type Chunks = BoxStream<'static, io::Result<Bytes>>;

/// How an open stream is reached.
struct Entry {
    frames: mpsc::Sender<Frame>,
    lingers: Arc<AtomicBool>,
}

type Open = Arc<Mutex<HashMap<RequestId, Entry>>>;

/// The open streams. Clones share them.
#[derive(Clone)]
pub struct Streams {
    channel: Channel,
    pods: Pods,
    tasks: Tasks,
    open: Open,
}

impl Streams {
    /// None yet.
    pub fn new(channel: Channel, pods: Pods, tasks: Tasks) -> Self {
        Self { channel, pods, tasks, open: Open::default() }
    }

    /// Prepares a stream of a container's log; nothing is sent before [`LogStream::start`].
    pub fn open_logs(&self, request: LogsRequest) -> Result<LogStream, Refusal> {
        let chunks = chunks(&self.pods, &request)?;
        let (sender, frames) = mpsc::channel(WAITING_FRAMES);
        let lingers = Arc::new(AtomicBool::new(false));
        let mut open = lock(&self.open);
        if open.contains_key(&request.stream) {
            return Err(Refusal::new(RefusalCode::BadRequest, format!("stream {} is open", request.stream)));
        }
        let lingering = open.values().filter(|entry| entry.lingers.load(Ordering::Relaxed)).count();
        if open.len() - lingering >= MAX_LOG_STREAMS || lingering >= MOST_LINGERING {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!(
                    "device {} has {MAX_LOG_STREAMS} log streams open: end one, or try again later",
                    self.channel.device()
                ),
            ));
        }
        open.insert(request.stream.clone(), Entry { frames: sender, lingers: Arc::clone(&lingers) });
        drop(open);
        self.channel.metrics().stream(true);
        Ok(LogStream {
            registration: Registration { streams: self.clone(), id: request.stream.clone() },
            chunks,
            request,
            frames,
            lingers,
        })
    }

    /// A frame of a reader. One for a stream that has ended is nothing special.
    pub fn frame(&self, stream: &RequestId, frame: Frame) {
        if let Some(entry) = lock(&self.open).get(stream) {
            // If too many wait, this one is repeated by the reader.
            let _ = entry.frames.try_send(frame);
        }
    }
}

fn lock(open: &Open) -> MutexGuard<'_, HashMap<RequestId, Entry>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that `kubectl logs` is to show.
fn chunks(pods: &Pods, request: &LogsRequest) -> Result<Chunks, Refusal> {
    let source = pods.log_files(request)?;
    let options = LogOptions {
        follow: request.follow,
        tail_lines: request.tail_lines,
        since: since(request, Timestamp::now())?,
        limit_bytes: request.limit_bytes,
        timestamps: request.timestamps,
    };
    Ok(logs::stream(source.path, options, source.ended))
}

/// From when on lines are shown; of both limits the later one.
fn since(request: &LogsRequest, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    let malformed = |what: String| Refusal::new(RefusalCode::BadRequest, what);
    let ago = request.since_seconds.map(|seconds| {
        // Longer ago than time goes back is no limit.
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)
    });
    let time = match &request.since_time {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| malformed(format!("sinceTime {text:?}: expected a time as in RFC 3339")))?,
        ),
    };
    Ok(ago.max(time))
}

/// Ends a stream's registration when it goes.
struct Registration {
    streams: Streams,
    id: RequestId,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.streams.open).remove(&self.id);
        self.streams.channel.metrics().stream(false);
    }
}

/// A stream that was accepted.
pub struct LogStream {
    registration: Registration,
    chunks: Chunks,
    request: LogsRequest,
    frames: mpsc::Receiver<Frame>,
    lingers: Arc<AtomicBool>,
}

impl LogStream {
    /// Sends the log in a task of its own.
    pub fn start(self) {
        let tasks = self.registration.streams.tasks.clone();
        let span = tracing::info_span!(
            "logs",
            stream = %self.request.stream,
            pod = %format_args!("{}/{}", self.request.namespace, self.request.pod),
            container = %self.request.container
        );
        tasks.spawn_transient("log stream", self.run().instrument(span));
    }

    async fn run(self) {
        let Self { registration, chunks, request, frames, lingers } = self;
        let shutdown = registration.streams.tasks.shutdown().clone();
        let writer = Writer {
            channel: registration.streams.channel.clone(),
            window: SendWindow::new(request.credit, Instant::now()),
            id: request.stream,
            frames,
            lingers,
            number: 0,
            silence: Silence::new(Instant::now()),
        };
        tokio::select! {
            end = writer.run(chunks) => tracing::debug!(?end, "the log stream ended"),
            () = shutdown.cancelled() => {}
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Delivered,
    Cancelled,
    ReaderGone,
    AgentEnds,
}

struct Writer {
    channel: Channel,
    window: SendWindow,
    id: RequestId,
    frames: mpsc::Receiver<Frame>,
    lingers: Arc<AtomicBool>,
    number: u64,
    silence: Silence,
}

impl Writer {
    async fn run(mut self, mut chunks: Chunks) -> End {
        let mut connection = self.channel.connection().state.clone();
        let mut rest = Bytes::new();
        let mut at_end = false;
        loop {
            let room = self.window.room();
            if rest.len() <= room || room == BUFFER {
                // In one piece, unless it is larger than all that can be kept.
                let take = rest.len().min(room);
                self.window.push(&rest.split_to(take));
            }
            if at_end && rest.is_empty() {
                self.window.finish(None);
            }
            let connected = *connection.borrow_and_update() == LinkState::Connected;
            while connected && let Some(frame) = self.window.next_frame(Instant::now()) {
                if !self.send(&frame).await {
                    self.window.rewind(Instant::now());
                    break;
                }
            }
            self.lingers.store(self.window.is_delivered(), Ordering::Relaxed);
            let timers = [self.window.resend_due(), Some(self.silence.due())];
            let due = timers.into_iter().flatten().min().filter(|_| connected);
            tokio::select! {
                biased;
                changed = connection.changed() => {
                    if changed.is_err() {
                        return End::AgentEnds;
                    }
                    if *connection.borrow() == LinkState::Connected {
                        // What was on its way is lost, or will be dropped as a double.
                        self.window.rewind(Instant::now());
                        self.silence = Silence::new(Instant::now());
                    }
                }
                frame = self.frames.recv() => match frame {
                    None => return End::AgentEnds,
                    Some(Frame::Cancel) => return End::Cancelled,
                    Some(frame) => {
                        self.silence.heard(Instant::now());
                        self.hear(frame).await;
                    }
                },
                () = at(due) => {
                    let now = Instant::now();
                    self.window.resend(now);
                    match self.silence.check(now) {
                        Quiet::No => {}
                        Quiet::Ping if self.window.is_delivered() => {}
                        Quiet::Ping => { self.send(&Frame::Ping).await; }
                        Quiet::Gone if self.window.is_delivered() => return End::Delivered,
                        Quiet::Gone => return End::ReaderGone,
                    }
                }
                chunk = chunks.next(), if !at_end && rest.is_empty() => match chunk {
                    Some(Ok(bytes)) => rest = bytes,
                    None => at_end = true,
                    Some(Err(error)) => {
                        at_end = true;
                        self.window.finish(Some(format!("reading the log failed: {error}")));
                    }
                },
            }
        }
    }

    async fn hear(&mut self, frame: Frame) {
        match frame {
            Frame::Credit { received, limit } => self.window.credit(received, limit, Instant::now()),
            Frame::Ping => {
                self.window.repeat_end();
                self.send(&Frame::Pong).await;
            }
            Frame::Pong | Frame::Data { .. } | Frame::End { .. } | Frame::Cancel => {}
        }
    }

    async fn send(&mut self, frame: &Frame) -> bool {
        self.number += 1;
        match self.channel.frame(&self.id, self.number, frame).await {
            Ok(()) => true,
            Err(RequestError::Disconnected { .. }) => false,
            Err(error) => {
                tracing::debug!(%error, "a stream frame was not sent");
                false
            }
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What the reader's silence calls for.
#[derive(Debug, PartialEq, Eq)]
enum Quiet {
    No,
    Ping,
    Gone,
}

/// How long the reader has not been heard.
#[derive(Debug)]
struct Silence {
    heard: Instant,
    pinged: Option<Instant>,
}

impl Silence {
    fn new(now: Instant) -> Self {
        Self { heard: now, pinged: None }
    }

    fn heard(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    fn due(&self) -> Instant {
        self.heard + if self.pinged.is_some() { GONE } else { PING }
    }

    fn check(&mut self, now: Instant) -> Quiet {
        if now < self.due() {
            Quiet::No
        } else if self.pinged.is_some() {
            Quiet::Gone
        } else {
            self.pinged = Some(now);
            Quiet::Ping
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_later_limit_of_time_counts() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let of = |seconds: Option<u64>, time: Option<&str>| {
            let json = serde_json::json!({
                "stream": "s", "namespace": "n", "pod": "p", "container": "c", "credit": 1,
                "sinceSeconds": seconds, "sinceTime": time
            });
            since(&serde_json::from_value(json).unwrap(), now)
        };
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        assert_eq!(of(None, None), Ok(None));
        assert_eq!(of(Some(60), None), Ok(at("2026-03-01T11:59:00Z")));
        assert_eq!(of(Some(60), Some("2026-03-01T11:59:30+00:00")), Ok(at("2026-03-01T11:59:30Z")));
        assert_eq!(of(Some(10), Some("2026-03-01T11:59:30Z")), Ok(at("2026-03-01T11:59:50Z")));
        assert_eq!(of(Some(u64::MAX), None), Ok(Some(Timestamp::MIN)));
        assert_eq!(of(None, Some("yesterday")).unwrap_err().code, RefusalCode::BadRequest);
    }

    #[test]
    fn a_silent_reader_is_asked_and_then_given_up() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        assert_eq!(silence.check(start + PING - Duration::from_millis(1)), Quiet::No);
        assert_eq!(silence.check(start + PING), Quiet::Ping);
        assert_eq!(silence.check(start + PING * 3 / 2), Quiet::No);
        assert_eq!(silence.check(start + GONE), Quiet::Gone);
        silence.heard(start + GONE);
        assert_eq!(silence.due(), start + GONE + PING);
    }
}
