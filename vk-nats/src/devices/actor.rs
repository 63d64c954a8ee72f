//! The actor of one device.

mod ask;
mod greet;
mod membership;
mod push;
mod report;
mod upkeep;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fleet_daemon::shutdown::Shutdown;
use fleet_wire::{
    envelope::{EnvelopeError, Opened},
    message::{EventsAck, Refusal, RefusalCode, Rehello, Reply, StatusAck},
    name::{DeviceName, RequestId},
    session::{Arrival, FleetSession},
    stream::Frame,
    subject::{self, DownVerb, Subject, SubjectError, UpVerb},
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::NodeStatus;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    complaints::Complaints,
    desired::Ledger,
    directory::Context,
    down::{DownError, Handle},
    ear::{self, Arrivals, Inbound},
    fleet::Fleet,
    incarnation::Token,
    stream::Streams,
};
use crate::{
    bundle::SetReceiver,
    events::Progress,
    identity::ApiError,
    nodes::DeviceNode,
    packed::Packed,
    status::{Turns, Waiting},
};

use greet::Greeting;
use membership::Keys;
use report::Rest;
use upkeep::Upkeep;

/// How often at most a device is asked to say hello again.
const REHELLO_EVERY: Duration = Duration::from_secs(5);

/// A request of the kubelet API.
#[derive(Debug)]
pub struct Question {
    pub(super) verb: DownVerb,
    pub(super) id: RequestId,
    pub(super) body: Box<RawValue>,
    pub(super) answer: oneshot::Sender<Result<Vec<u8>, DownError>>,
}

/// What an actor is given.
#[derive(Debug)]
pub enum Input {
    /// To be asked of the device.
    Ask(Question),
    /// To be sent on a stream.
    Frame {
        /// The stream.
        stream: RequestId,
        /// Number of the frame.
        number: u64,
        /// The frame.
        frame: Frame,
    },
    /// The Node is gone, as far as the watch shows: if it really is, the device is told.
    Gone,
    /// Another actor takes over: the device was given new keys.
    End,
}

/// What a task beside the actor found.
#[derive(Debug)]
enum Done {
    Status { asked: Asked, ack: StatusAck, waiting: Vec<Waiting>, rest: Option<Rest> },
    Late(Vec<Waiting>),
    Events { asked: Asked, result: Result<EventsAck, Refusal> },
    Node { result: Result<(), ApiError>, report: Arc<Packed<NodeStatus>> },
    Lease(Result<(), ApiError>),
    Told,
}

/// A request of the device that waits for its answer.
#[derive(Debug, Clone)]
struct Asked {
    verb: &'static str,
    reply: String,
    counter: u64,
    session: Option<fleet_wire::envelope::SessionId>,
}

/// Why an actor hears nothing any more, which only the process's own end brings.
#[derive(Debug, thiserror::Error)]
pub enum Deaf {
    /// The client refused the subscription.
    #[error("the messages of device {device} cannot be subscribed to: {reason}")]
    Subscribe {
        /// The device.
        device: DeviceName,
        /// What the client said.
        reason: String,
    },
    /// The connection was closed for good.
    #[error("the subscription of device {device} ended: the connection to NATS was closed")]
    Closed {
        /// The device.
        device: DeviceName,
    },
}

/// All state of one device.
pub struct Actor {
    context: Arc<Context>,
    device: DeviceName,
    node: watch::Receiver<(Arc<DeviceNode>, u16)>,
    inbox: mpsc::Receiver<Box<Input>>,
    set: SetReceiver,
    streams: Streams,
    connected: Arc<AtomicBool>,
    session: FleetSession,
    /// Everything but streams.
    up: Arrivals,
    /// Streams, while there are any.
    frames: Option<Arrivals>,
    greetings: Vec<Greeting>,
    token: Option<Token>,
    conflict: bool,
    conflict_told: Option<Instant>,
    ledger: Ledger,
    push_due: Option<Instant>,
    upkeep: Upkeep,
    turns: Turns,
    questions: HashMap<RequestId, oneshot::Sender<Result<Vec<u8>, DownError>>>,
    work: JoinSet<Done>,
    /// Statuses that wait for their time.
    paced: JoinSet<()>,
    events: Arc<Progress>,
    complaints: Complaints,
    rehello_due: Option<Instant>,
    rehello_at: Option<Instant>,
    fleet: watch::Receiver<Fleet>,
    keys: Keys,
}

impl Actor {
    /// An actor for the device of this handle.
    pub fn new(context: Arc<Context>, handle: &Handle, inbox: mpsc::Receiver<Box<Input>>) -> Self {
        let node = handle.node.subscribe();
        let mut fleet = context.fleet.clone();
        let keys = fleet.borrow_and_update().keys.clone();
        let first = Arc::clone(&node.borrow().0);
        let device = first.device.clone();
        // A device that the API believes ready probably has a session with an earlier incarnation: ask it
        // for a new one instead of waiting for its next heartbeat, but not all in the same moment.
        let rehello_due =
            first.is_ready().then(|| Instant::now() + Duration::from_secs_f64(rand::random_range(0.0..1.0)));
        Self {
            session: FleetSession::new(device.clone(), first.curve_key.clone(), keys, context.epoch),
            set: context.sets.receiver(&device),
            token: first.incarnation.as_deref().and_then(Token::parse),
            conflict: first.observed.get().is_some_and(|observed| {
                let condition = observed.condition(crate::nodes::status::IDENTITY_CONFLICT);
                condition.is_some_and(|condition| condition.status == "True")
            }),
            ledger: Ledger::new(context.epoch),
            upkeep: Upkeep::new(),
            streams: handle.streams.clone(),
            connected: Arc::clone(&handle.connected),
            up: ear::silence(),
            frames: None,
            greetings: Vec::new(),
            conflict_told: None,
            push_due: None,
            turns: Turns::default(),
            questions: HashMap::new(),
            work: JoinSet::new(),
            paced: JoinSet::new(),
            events: Arc::default(),
            complaints: Complaints::default(),
            rehello_due,
            rehello_at: None,
            fleet,
            keys: Keys::default(),
            context,
            device,
            node,
            inbox,
        }
    }

    /// Runs until the Node is gone or the shutdown begins.
    ///
    /// # Errors
    /// [`Deaf`].
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Deaf> {
        let mut stop = std::pin::pin!(shutdown.cancelled());
        // Without NATS this may take long; there is nothing to do for the device meanwhile.
        self.up = tokio::select! {
            () = &mut stop => return Ok(()),
            up = self.context.ear.subscribe(subject::up_wildcard(&self.device)) => {
                up.map_err(|reason| Deaf::Subscribe { device: self.device.clone(), reason })?
            }
        };
        let end = loop {
            let deadline = self.deadline();
            tokio::select! {
                () = &mut stop => break Ok(()),
                input = self.inbox.recv() => match input.map(|input| *input) {
                    None | Some(Input::End) => break Ok(()),
                    Some(Input::Gone) => {
                        Box::pin(self.tell_revoked()).await;
                        break Ok(());
                    }
                    Some(Input::Ask(question)) => Box::pin(self.ask(question)).await,
                    Some(Input::Frame { stream, number, frame }) => {
                        Box::pin(self.send_frame(&stream, number, &frame)).await;
                    }
                },
                message = self.up.next() => match message {
                    Some(message) => self.arrived(message).await,
                    None => break Err(Deaf::Closed { device: self.device.clone() }),
                },
                Some(message) = next_frame(&mut self.frames) => self.arrived(message).await,
                changed = self.set.changed() => match changed {
                    Ok(()) => self.set_changed(),
                    // The Node went and came back: so did the channel.
                    Err(_) => self.set = self.context.sets.receiver(&self.device),
                },
                Ok(()) = self.node.changed() => self.node_changed(),
                Ok(()) = self.fleet.changed() => self.fleet_changed(),
                Some(done) = self.work.join_next(), if !self.work.is_empty() => {
                    if let Ok(done) = done {
                        Box::pin(self.done(done)).await;
                    }
                }
                Some(_) = self.paced.join_next(), if !self.paced.is_empty() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            self.due(Instant::now()).await;
        };
        self.disconnect();
        self.streams.end_all();
        end
    }

    /// A message, and then the others' turn: opening one costs far more than receiving it, and a flood leaves
    /// this actor always something to do.
    async fn arrived(&mut self, message: Result<Inbound, SubjectError>) {
        match message {
            // In a box, while it is worked on: within this future it would be kept for every silent device, too.
            Ok(message) => Box::pin(self.message(message)).await,
            Err(error) => self.complain("unknown", "Subject", &error),
        }
        tokio::task::yield_now().await;
    }

    /// When something is due at the latest.
    fn deadline(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        [self.push_due, self.rehello_due, self.keys.deadline(), self.upkeep.deadline(&self.context.settings)]
            .into_iter()
            .flatten()
            .fold(far, Instant::min)
    }

    async fn due(&mut self, now: Instant) {
        if self.rehello_due.is_some_and(|due| due <= now) {
            self.rehello_due = None;
            if !self.session.is_live() {
                self.rehello("the cluster side was started again").await;
            }
        }
        if self.push_due.is_some_and(|due| due <= now) {
            self.push_due = None;
            self.push(now).await;
        }
        Box::pin(self.keep_keys(now)).await;
        self.keep_up(now);
    }

    fn node(&self) -> (Arc<DeviceNode>, u16) {
        let node = self.node.borrow();
        (Arc::clone(&node.0), node.1)
    }

    async fn message(&mut self, message: Inbound) {
        let subject = message.subject.to_string();
        match message.subject {
            Subject::Up(_, verb) => {
                let label = label(&verb);
                // Before anything is opened: what cannot be answered is not worked on.
                if let Some(reply) = &message.reply
                    && !subject::is_own_inbox(&self.device, reply)
                {
                    self.complain(label, "ForeignReply", &"the reply subject is not the device's own inbox");
                    return;
                }
                self.up(verb, label, &subject, message.reply, &message.payload).await;
            }
            Subject::Answer(_, id) => self.answer(&id, &subject, &message.payload),
            Subject::Stream(_, id, subject::Leg::Up) => self.frame(&id, &subject, &message.payload).await,
            Subject::Stream(..) | Subject::Down(..) => {
                self.complain("unknown", "Misplaced", &"this subject is the cluster's to send on");
            }
        }
    }

    async fn up(
        &mut self,
        verb: UpVerb,
        label: &'static str,
        subject: &str,
        reply: Option<String>,
        payload: &[u8],
    ) {
        let opened = match self.session.open(subject, payload) {
            Ok(Arrival::Hello(hello)) if verb == UpVerb::Hello => {
                return self.hello(hello, reply).await;
            }
            Ok(Arrival::Hello(_)) => {
                return self.complain(label, "Misplaced", &"a hello under another verb");
            }
            Ok(Arrival::InSession(opened)) => opened,
            Err(error) => return self.refused_envelope(label, &error, reply).await,
        };
        self.heard();
        if verb == UpVerb::Heartbeat {
            return self.heartbeat(&opened).await;
        }
        let Some(reply) = reply else {
            return self.complain(label, "NoReply", &"a request without a reply subject");
        };
        let asked = Asked { verb: label, reply, counter: opened.header.counter, session: self.session.id() };
        match verb {
            UpVerb::Sync => self.sync(asked, &opened).await,
            UpVerb::Fetch => self.fetch(asked, &opened).await,
            UpVerb::Status => self.status(asked, &opened).await,
            UpVerb::Events => self.events(asked, &opened).await,
            UpVerb::Hello | UpVerb::Heartbeat | UpVerb::Unknown(_) => {
                let refusal = Refusal::new(
                    RefusalCode::UnknownVerb,
                    format!("the cluster side {} does not know this verb here", env!("CARGO_PKG_VERSION")),
                );
                self.refuse(&asked, refusal).await;
            }
        }
    }

    /// An envelope that does not open. A lost session is not the device's fault: it is told.
    async fn refused_envelope(&mut self, label: &'static str, error: &EnvelopeError, reply: Option<String>) {
        if !matches!(error, EnvelopeError::Session) {
            return self.complain(label, error.label(), error);
        }
        self.context.metrics.message(label, error.label());
        match reply {
            Some(reply) => {
                let refusal = Refusal::new(
                    RefusalCode::UnknownSession,
                    "the cluster side has no such session: say hello again",
                );
                self.publish_sessionless(reply, &Reply::<()>::Refused(refusal)).await;
            }
            None => self.rehello("the cluster side has no session with this device").await,
        }
    }

    async fn rehello(&mut self, reason: &str) {
        let now = Instant::now();
        if self.rehello_at.is_some_and(|at| now.saturating_duration_since(at) < REHELLO_EVERY) {
            return;
        }
        self.rehello_at = Some(now);
        let subject = Subject::Down(self.device.clone(), DownVerb::Rehello).to_string();
        self.publish_sessionless(subject, &Rehello { reason: reason.to_owned() }).await;
    }

    /// The body of a request; a refusal goes out if it cannot be read.
    async fn body<T: serde::de::DeserializeOwned>(&mut self, asked: &Asked, opened: &Opened) -> Option<T> {
        match opened.body() {
            Ok(body) => Some(body),
            Err(error) => {
                self.complain(asked.verb, error.label(), &error);
                let refusal = Refusal::new(RefusalCode::Malformed, error.to_string());
                self.reply(asked, &Reply::<()>::Refused(refusal)).await;
                None
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Status { asked, ack, waiting, rest } => {
                self.write_in_time(waiting);
                self.write_on(rest);
                self.accept(&asked, ack).await;
            }
            Done::Late(waiting) => self.write_in_time(waiting),
            Done::Events { asked, result: Ok(ack) } => self.accept(&asked, ack).await,
            Done::Events { asked, result: Err(refusal) } => self.refuse(&asked, refusal).await,
            Done::Node { result, report } => self.node_written(result, report),
            Done::Lease(result) => self.lease_written(&result),
            Done::Told => {}
        }
    }

    async fn accept<T: Serialize>(&mut self, asked: &Asked, body: T) {
        self.context.metrics.message(asked.verb, "Ok");
        self.reply(asked, &Reply::Ok(body)).await;
    }

    async fn refuse(&mut self, asked: &Asked, refusal: Refusal) {
        self.context.metrics.message(asked.verb, refusal.code.as_str());
        self.reply(asked, &Reply::<()>::Refused(refusal)).await;
    }

    async fn reply<T: Serialize>(&mut self, asked: &Asked, body: &T) {
        // The device has said hello again meanwhile: it asks again in the new session.
        if self.session.id() != asked.session {
            return;
        }
        match self.session.seal(&asked.reply, Some(asked.counter), body) {
            Ok(message) => self.publish(asked.reply.clone(), message).await,
            Err(error) => {
                tracing::warn!(verb = asked.verb, %error, "an answer cannot be sealed");
            }
        }
    }

    async fn publish_sessionless<T: Serialize>(&self, subject: String, body: &T) {
        match self.session.seal_sessionless(&subject, body) {
            Ok(message) => self.publish(subject, message).await,
            Err(error) => tracing::warn!(%error, "a message cannot be sealed"),
        }
    }

    async fn publish(&self, subject: String, message: Vec<u8>) {
        if let Err(reason) = self.context.courier.publish(subject, message).await {
            tracing::debug!(reason, "a message was not sent");
        }
    }

    fn complain(&mut self, verb: &'static str, kind: &str, detail: &dyn std::fmt::Display) {
        self.complaints.record(&self.context.metrics, &self.device, verb, kind, detail);
    }

    fn disconnect(&mut self) {
        if self.connected.swap(false, Ordering::Relaxed) {
            self.context.metrics.devices_connected.dec();
        }
    }
}

/// The next message of a stream. Ends by itself only when `up` does, too.
async fn next_frame(frames: &mut Option<Arrivals>) -> Option<Result<Inbound, SubjectError>> {
    match frames {
        Some(frames) => frames.next().await,
        None => std::future::pending().await,
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
        UpVerb::Unknown(_) => "unknown",
    }
}

#[cfg(test)]
#[path = "tests/actor/mod.rs"]
mod tests;
