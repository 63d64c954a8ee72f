//! What comes from the cluster side: opened, judged, handed to whom it concerns.
//!
//! Nothing that arrives can end the agent: what cannot be read is counted, logged once per kind, and
//! forgotten.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use fleet_wire::{
    envelope::{EnvelopeError, Opened},
    message::{Delta, LogsReply, LogsRequest, Refusal, RefusalCode, Rehello, Reply, Revoked, Rotate},
    name::RequestId,
    stream::Frame,
    subject::{DownVerb, Leg, Subject},
};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};

use super::{channel::Channel, driver::Command, stream::Streams};

/// Hands messages on.
pub struct Dispatch {
    /// Opens messages, sends answers.
    pub channel: Channel,
    /// Who opens sessions and applies changes.
    pub driver: mpsc::Sender<Command>,
    /// Told when the driver's queue was full.
    pub overflow: Arc<Notify>,
    /// The log streams.
    pub streams: Streams,
}

/// A request names itself in its body; a verb that is not known here, too, if it wants an answer.
#[derive(Debug, Deserialize)]
struct RequestName {
    #[serde(default)]
    stream: Option<RequestId>,
    #[serde(default)]
    request: Option<RequestId>,
}

impl RequestName {
    fn of(opened: &Opened) -> Option<RequestId> {
        let name: Self = opened.body().ok()?;
        name.request.or(name.stream)
    }
}

impl Dispatch {
    /// Runs until the client closes.
    pub async fn run(self, mut down: Subscriber, mut frames: Subscriber) {
        loop {
            tokio::select! {
                message = down.next() => match message {
                    Some(message) => self.command(&message).await,
                    None => return,
                },
                message = frames.next() => match message {
                    Some(message) => self.frame(&message),
                    None => return,
                },
            }
        }
    }

    async fn command(&self, message: &Message) {
        let subject = message.subject.as_str();
        let verb = match Subject::parse(subject) {
            Ok(Subject::Down(device, verb)) if device == *self.channel.device() => verb,
            Ok(_) => return self.bad("Subject", subject, &"not a command for this device"),
            Err(error) => return self.bad("Subject", subject, &error),
        };
        let opened = match self.channel.open(subject, &message.payload) {
            Ok(opened) => opened,
            Err(error) => return self.refused(subject, &error),
        };
        match verb {
            // The only command that needs no session: the cluster side has none.
            DownVerb::Rehello => match opened.body::<Rehello>() {
                Ok(rehello) => self.tell(Command::SessionUnknown(rehello.reason)),
                Err(error) => self.refused(subject, &error),
            },
            _ if opened.header.session.is_none() => {
                self.bad("Sessionless", subject, &"a command outside of any session");
            }
            DownVerb::Changed => match opened.body::<Delta>() {
                Ok(delta) => self.tell(Command::Changed(delta)),
                Err(error) => {
                    self.refused(subject, &error);
                    // It changed something, whatever it was.
                    self.overflow.notify_one();
                }
            },
            DownVerb::Revoked => match opened.body::<Revoked>() {
                // Not one to drop when many wait: nobody says it again.
                Ok(revoked) => {
                    let _ = self.driver.send(Command::Revoked(revoked.reason)).await;
                }
                Err(error) => self.refused(subject, &error),
            },
            DownVerb::Rotate => match opened.body::<Rotate>() {
                Ok(rotate) => self.tell(Command::Rotate(rotate.request)),
                Err(error) => self.refused(subject, &error),
            },
            DownVerb::Logs => match opened.body::<LogsRequest>() {
                Ok(request) => {
                    let id = request.stream.clone();
                    let opened = self.streams.open_logs(request);
                    let reply = Reply::from(opened.as_ref().map(|_| LogsReply {}).map_err(Refusal::clone));
                    self.answer(&id, &reply).await;
                    if let Ok(stream) = opened {
                        // Only now: what the answer says comes first.
                        stream.start();
                    }
                }
                Err(error) => {
                    self.refused(subject, &error);
                    let refusal = Refusal::new(RefusalCode::Malformed, error.to_string());
                    self.refuse(&opened, refusal).await;
                }
            },
            DownVerb::Unknown(verb) => {
                self.bad("UnknownVerb", subject, &"a command of a newer cluster side");
                let text = format!(
                    "this device does not know `{verb}`: its agent {} is older than the cluster side",
                    env!("CARGO_PKG_VERSION")
                );
                self.refuse(&opened, Refusal::new(RefusalCode::UnknownVerb, text)).await;
            }
        }
    }

    fn frame(&self, message: &Message) {
        let subject = message.subject.as_str();
        let stream = match Subject::parse(subject) {
            Ok(Subject::Stream(device, stream, Leg::Down)) if device == *self.channel.device() => stream,
            Ok(_) => return self.bad("Subject", subject, &"not a stream of this device"),
            Err(error) => return self.bad("Subject", subject, &error),
        };
        let opened = match self.channel.open_frame(subject, &message.payload) {
            Ok(opened) => opened,
            Err(error) => return self.refused(subject, &error),
        };
        match opened.bytes().map(Frame::decode) {
            Ok(Ok(frame)) => self.streams.frame(&stream, frame),
            Ok(Err(error)) => self.bad("Frame", subject, &error),
            Err(error) => self.refused(subject, &error),
        }
    }

    fn tell(&self, command: Command) {
        if self.driver.try_send(command).is_err() {
            // A whole comparison replaces what was dropped.
            self.overflow.notify_one();
        }
    }

    async fn refuse(&self, opened: &Opened, refusal: Refusal) {
        if let Some(request) = RequestName::of(opened) {
            self.answer(&request, &Reply::<()>::Refused(refusal)).await;
        }
    }

    async fn answer<T: serde::Serialize>(&self, request: &RequestId, reply: &Reply<T>) {
        if let Err(error) = self.channel.answer(request, reply).await {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    fn refused(&self, subject: &str, error: &EnvelopeError) {
        self.bad(error.label(), subject, error);
    }

    fn bad(&self, kind: &'static str, subject: &str, problem: &dyn std::fmt::Display) {
        self.channel.metrics().bad(kind, subject, problem);
    }
}
