//! What a device sends: subscriptions that are its own.
//!
//! The client reads one socket for all devices, and gives each message to its subscription's queue or, when
//! that is full, drops it; it never waits. A queue for each device is therefore all that keeps one that floods
//! from taking the others' room.

use std::pin::Pin;

use bytes::Bytes;
use fleet_wire::subject::{Subject, SubjectError};
use futures::{Stream, StreamExt as _, future::BoxFuture, stream};

/// Messages that may wait in one subscription; one more is dropped and counted, and the device sends it again
/// when no answer comes.
pub const QUEUE: usize = 128;

/// A message of the device.
#[derive(Debug)]
pub struct Inbound {
    /// Parsed subject; its device is the subscription's.
    pub subject: Subject,
    /// Where an answer is wanted; not checked yet.
    pub reply: Option<String>,
    /// Sealed.
    pub payload: Bytes,
}

/// What arrives under one subscription, until the connection is closed for good.
pub type Arrivals = Pin<Box<dyn Stream<Item = Result<Inbound, SubjectError>> + Send + Sync>>;

/// Where messages come from. NATS in the process, queues in tests.
pub trait Subscriber: std::fmt::Debug + Send + Sync + 'static {
    /// Subscribes. Messages that are published through the same connection after it returned, and their
    /// answers, come after the subscription.
    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<Arrivals, String>>;
}

impl Subscriber for async_nats::Client {
    fn subscribe(&self, subject: String) -> BoxFuture<'_, Result<Arrivals, String>> {
        Box::pin(async move {
            let messages =
                async_nats::Client::subscribe(self, subject).await.map_err(|error| error.to_string())?;
            Ok(Box::pin(messages.map(inbound)) as Arrivals)
        })
    }
}

fn inbound(message: async_nats::Message) -> Result<Inbound, SubjectError> {
    Ok(Inbound {
        subject: Subject::parse(&message.subject)?,
        reply: message.reply.map(|reply| reply.to_string()),
        payload: message.payload,
    })
}

/// No subscription: nothing arrives, and that is no end.
pub fn silence() -> Arrivals {
    Box::pin(stream::pending())
}

#[cfg(test)]
#[path = "tests/ear.rs"]
mod tests;
