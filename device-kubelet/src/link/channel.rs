//! Sealed messages between the device and the cluster side.
//!
//! The session lies behind a short lock that is never held while waiting. Whoever sends asks the channel;
//! when messages arrive, [`super::dispatch`] does.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::RequestErrorKind;
use bytes::Bytes;
use fleet_daemon::nats::{Connection, LinkState};
use fleet_wire::{
    envelope::{EnvelopeError, Opened, SessionId},
    keys::FleetKeys,
    message::{HelloReply, HelloRequest, Refusal, RefusalCode, Reply},
    name::{DeviceName, KeyVersion, RequestId},
    session::DeviceSession,
    stream::Frame,
    subject::{Leg, Subject, UpVerb},
};
use nkeys::XKey;
use serde::{Serialize, de::DeserializeOwned, de::IgnoredAny};

use super::metrics::LinkMetrics;

/// Why a message did not reach the cluster side, or its answer not the device.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// NATS cannot be reached.
    #[error("{verb}: not connected to NATS")]
    Disconnected {
        /// What was asked.
        verb: UpVerb,
    },
    /// Nobody listens.
    #[error("{verb}: the cluster side is not there")]
    NoResponders {
        /// What was asked.
        verb: UpVerb,
    },
    /// No answer came.
    #[error("{verb}: no answer within {} s", after.as_secs())]
    Timeout {
        /// What was asked.
        verb: UpVerb,
        /// How long was waited.
        after: Duration,
    },
    /// The client refused the message.
    #[error("{verb}: the message was not sent: {reason}")]
    Publish {
        /// What was asked.
        verb: UpVerb,
        /// What the client said.
        reason: String,
    },
    /// The request was refused.
    #[error("{verb} was refused: {refusal}")]
    Refused {
        /// What was asked.
        verb: UpVerb,
        /// Why not.
        refusal: Refusal,
    },
    /// The answer is for another request.
    #[error("{verb}: the answer belongs to another request")]
    OtherAnswer {
        /// What was asked.
        verb: UpVerb,
    },
    /// The request could not be sealed, or the answer not be read.
    #[error("{verb}: the message cannot be sealed or read")]
    Envelope {
        /// What was asked.
        verb: UpVerb,
        /// Why.
        #[source]
        source: EnvelopeError,
    },
}

impl RequestError {
    /// Whether the cluster side has no session with this device any more.
    pub fn is_unknown_session(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if refusal.code == RefusalCode::UnknownSession)
    }

    /// Whether the content is at fault, so that sending it again is of no use.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => {
                matches!(refusal.code, RefusalCode::Malformed | RefusalCode::TooLarge)
            }
            Self::Envelope { source, .. } => matches!(source, EnvelopeError::TooLarge { .. }),
            _ => false,
        }
    }
}

/// The sealed way to the cluster side. Clones share it.
#[derive(Clone)]
pub struct Channel {
    device: DeviceName,
    connection: Connection,
    session: Arc<Mutex<DeviceSession>>,
    metrics: LinkMetrics,
}

impl Channel {
    /// A channel over a connection.
    pub fn new(
        device: DeviceName,
        connection: Connection,
        session: DeviceSession,
        metrics: LinkMetrics,
    ) -> Self {
        Self { device, connection, session: Arc::new(Mutex::new(session)), metrics }
    }

    /// The device.
    pub fn device(&self) -> &DeviceName {
        &self.device
    }

    /// Follows the connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Counters.
    pub fn metrics(&self) -> &LinkMetrics {
        &self.metrics
    }

    /// The session's id, for people.
    pub fn session_id(&self) -> Option<SessionId> {
        self.session().id()
    }

    /// The fleet has other keys, for the next hello on.
    pub fn set_fleet(&self, fleet: FleetKeys) {
        self.session().set_fleet(fleet);
    }

    /// The device has another curve key; the session ends.
    pub fn set_own(&self, own: XKey) {
        self.session().set_own(own);
    }

    /// The version of the fleet's key with which the session is sealed.
    pub fn key_version(&self) -> Option<KeyVersion> {
        self.session().key_version()
    }

    /// Says hello. When it returns, the session is open.
    pub async fn hello(&self, body: &HelloRequest, timeout: Duration) -> Result<HelloReply, RequestError> {
        let verb = UpVerb::Hello;
        let envelope = |source| RequestError::Envelope { verb: UpVerb::Hello, source };
        let subject = Subject::Up(self.device.clone(), verb.clone()).to_string();
        let before = self.session_id();
        let message = self.session().seal_hello(&subject, body).map_err(envelope)?;
        let answer = self.ask(&verb, subject, message, timeout).await?;
        let mut session = self.session();
        let reply: Reply<HelloReply> =
            session.open_hello_reply(answer.subject.as_str(), &answer.payload).map_err(envelope)?;
        match reply.into_result() {
            Err(refusal) => Err(RequestError::Refused { verb, refusal }),
            // Only an answer that carries a session can say yes.
            Ok(_) if session.id() == before => Err(envelope(EnvelopeError::Session)),
            Ok(reply) => Ok(reply),
        }
    }

    /// Asks something within the session.
    pub async fn request<Q: Serialize, A: DeserializeOwned>(
        &self,
        verb: UpVerb,
        body: &Q,
        timeout: Duration,
    ) -> Result<A, RequestError> {
        let envelope = |source| RequestError::Envelope { verb: verb.clone(), source };
        let subject = Subject::Up(self.device.clone(), verb.clone()).to_string();
        let (sealed, asked_in) = {
            let mut session = self.session();
            (session.seal(&subject, body).map_err(envelope)?, session.id())
        };
        let answer = self.ask(&verb, subject, sealed.message, timeout).await?;
        if self.session_id() != asked_in {
            // Another hello was accepted in the meantime: what the answer says of the session is no news.
            return Err(RequestError::OtherAnswer { verb });
        }
        let opened = self.session().open(answer.subject.as_str(), &answer.payload).map_err(envelope)?;
        if opened.header.session.is_none() {
            // A cluster side that lost the session can only refuse.
            return match opened.body::<Reply<IgnoredAny>>().map_err(envelope)? {
                Reply::Refused(refusal) => Err(RequestError::Refused { verb, refusal }),
                Reply::Ok(_) => Err(envelope(EnvelopeError::Session)),
            };
        }
        if opened.header.answers != Some(sealed.counter) {
            return Err(RequestError::OtherAnswer { verb });
        }
        opened
            .body::<Reply<A>>()
            .map_err(envelope)?
            .into_result()
            .map_err(|refusal| RequestError::Refused { verb: verb.clone(), refusal })
    }

    /// Tells something within the session, unanswered.
    pub async fn tell<T: Serialize>(&self, verb: UpVerb, body: &T) -> Result<(), RequestError> {
        if !self.is_connected() {
            // What waits in the client's queue would arrive late, and all at once.
            return Err(RequestError::Disconnected { verb });
        }
        let subject = Subject::Up(self.device.clone(), verb.clone()).to_string();
        let sealed = self
            .session()
            .seal(&subject, body)
            .map_err(|source| RequestError::Envelope { verb: verb.clone(), source })?;
        self.publish(&verb, subject, sealed.message).await
    }

    /// Answers a request of the cluster side.
    pub async fn answer<T: Serialize>(
        &self,
        request: &RequestId,
        reply: &Reply<T>,
    ) -> Result<(), RequestError> {
        let verb = UpVerb::Unknown("re".to_owned());
        let subject = Subject::Answer(self.device.clone(), request.clone()).to_string();
        let sealed = self
            .session()
            .seal(&subject, reply)
            .map_err(|source| RequestError::Envelope { verb: verb.clone(), source })?;
        self.publish(&verb, subject, sealed.message).await
    }

    /// Sends frame `number` of a stream.
    pub async fn frame(&self, stream: &RequestId, number: u64, frame: &Frame) -> Result<(), RequestError> {
        let verb = UpVerb::Unknown("session".to_owned());
        if !self.is_connected() {
            return Err(RequestError::Disconnected { verb });
        }
        let subject = Subject::Stream(self.device.clone(), stream.clone(), Leg::Up).to_string();
        let message = self
            .session()
            .seal_frame(&subject, number, &frame.encode())
            .map_err(|source| RequestError::Envelope { verb: verb.clone(), source })?;
        self.publish(&verb, subject, message).await
    }

    /// Opens a command.
    pub fn open(&self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        self.metrics.received(message.len());
        self.session().open(subject, message)
    }

    /// Opens a stream frame.
    pub fn open_frame(&self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        self.metrics.received(message.len());
        self.session().open_frame(subject, message)
    }

    /// Whether NATS can be reached right now.
    pub fn is_connected(&self) -> bool {
        *self.connection.state.borrow() == LinkState::Connected
    }

    async fn publish(&self, verb: &UpVerb, subject: String, message: Vec<u8>) -> Result<(), RequestError> {
        self.metrics.sent(label(verb), message.len());
        self.connection
            .client
            .publish(subject, Bytes::from(message))
            .await
            .map_err(|error| RequestError::Publish { verb: verb.clone(), reason: error.to_string() })
    }

    /// One request and its answer; gives up as soon as the connection is lost, because the answer is then,
    /// too.
    async fn ask(
        &self,
        verb: &UpVerb,
        subject: String,
        message: Vec<u8>,
        timeout: Duration,
    ) -> Result<async_nats::Message, RequestError> {
        let mut state = self.connection.state.clone();
        if *state.borrow_and_update() != LinkState::Connected {
            return Err(RequestError::Disconnected { verb: verb.clone() });
        }
        self.metrics.sent(label(verb), message.len());
        let request = async_nats::Request::new().payload(message.into()).timeout(Some(timeout));
        let answer = tokio::select! {
            answer = self.connection.client.send_request(subject, request) => answer,
            _ = state.wait_for(|state| *state != LinkState::Connected) => {
                return Err(RequestError::Disconnected { verb: verb.clone() });
            }
        };
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::TimedOut => RequestError::Timeout { verb: verb.clone(), after: timeout },
            RequestErrorKind::NoResponders => RequestError::NoResponders { verb: verb.clone() },
            _ => RequestError::Publish { verb: verb.clone(), reason: error.to_string() },
        })?;
        self.metrics.received(answer.payload.len());
        Ok(answer)
    }

    fn session(&self) -> MutexGuard<'_, DeviceSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn label(verb: &UpVerb) -> &'static str {
    match verb {
        UpVerb::Hello => "hello",
        UpVerb::Sync => "sync",
        UpVerb::Fetch => "fetch",
        UpVerb::Status => "status",
        UpVerb::Events => "events",
        UpVerb::Heartbeat => "heartbeat",
        UpVerb::Unknown(token) if token == "re" => "answer",
        UpVerb::Unknown(token) if token == "session" => "stream",
        UpVerb::Unknown(_) => "other",
    }
}
