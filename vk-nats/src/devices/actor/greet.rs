//! Hello, and what follows once the device has proved that it got the answer.

use std::{sync::atomic::Ordering, time::Duration};

use fleet_wire::{
    digest::Digest,
    envelope::SessionId,
    message::{
        DesiredVersion, EventRecord, EventType, HelloReply, HelloRequest, PROTOCOL, Refusal, RefusalCode,
        Reply,
    },
    session::Hello,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::NodeStatus;
use tokio::time::Instant;

use super::{Actor, Done};
use crate::{
    devices::incarnation::{Token, Verdict, judge},
    events,
};

/// How often at most an Event tells of an old incarnation. The condition stays as long as it lasts.
const CONFLICT_AGAIN: Duration = Duration::from_secs(60);

/// A hello that was answered, and the session that it opens. A replayed one never gets further than this, and
/// what it says is never taken for what the device said in another.
#[derive(Debug)]
pub(super) struct Greeting {
    session: SessionId,
    token: Token,
    verdict: Verdict,
    node: NodeStatus,
    desired: DesiredVersion,
    set_digest: Digest,
    answered: Digest,
    agent_version: String,
    boot_id: String,
    rotated: Option<String>,
}

/// As much of a device's word as a line of a log takes.
fn short(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}

impl Actor {
    pub(super) async fn hello(&mut self, hello: Hello, reply: Option<String>) {
        let Some(reply) = reply else {
            return self.complain("hello", "NoReply", &"a hello without a reply subject");
        };
        let request: HelloRequest = match hello.opened.body() {
            Ok(request) => request,
            Err(error) => {
                self.complain("hello", error.label(), &error);
                let refusal = Refusal::new(RefusalCode::Malformed, error.to_string());
                return self.publish_sessionless(reply, &Reply::<()>::Refused(refusal)).await;
            }
        };
        if request.protocol.major != PROTOCOL.major {
            self.complain("hello", "Protocol", &"another major version of the protocol");
            let refusal = Refusal::new(
                RefusalCode::Unsupported,
                format!(
                    "the cluster side speaks protocol {}, the device {}: update the older one",
                    PROTOCOL.major, request.protocol.major
                ),
            );
            return self.publish_sessionless(reply, &Reply::<()>::Refused(refusal)).await;
        }
        let shown = request.incarnation.as_deref().and_then(Token::parse);
        let verdict = judge(self.token.as_ref(), shown.as_ref());
        let newest = if verdict == Verdict::Newest && shown.is_some() { &shown } else { &self.token };
        let token = Token::next(newest.as_ref());
        // Before the set is known, the device is left with what it has.
        let set_digest = self.set.borrow().as_ref().map_or(request.set_digest, |set| set.digest());
        let interval = self.context.settings.heartbeat_interval.as_secs();
        let answer = HelloReply {
            protocol: PROTOCOL,
            cluster_version: env!("CARGO_PKG_VERSION").to_owned(),
            owner_epoch: self.context.epoch,
            incarnation: token.to_string(),
            heartbeat_interval_seconds: u32::try_from(interval).unwrap_or(u32::MAX),
            node_settings: self.node.borrow().0.settings.clone(),
            set_digest,
            keys: self.fleet.borrow().news(&request),
        };
        match self.session.accept_hello(&hello, &reply, &Reply::Ok(answer)) {
            Ok(message) => {
                self.context.metrics.message("hello", "Ok");
                self.forget_greetings();
                if let Some(session) = self.session.pending().next_back() {
                    self.greetings.push(Greeting {
                        session,
                        token,
                        verdict,
                        node: request.node,
                        desired: request.desired,
                        set_digest: request.set_digest,
                        answered: set_digest,
                        agent_version: request.agent_version,
                        boot_id: request.boot_id,
                        rotated: request.rotated,
                    });
                }
                self.publish(reply, message).await;
            }
            Err(error) => self.complain("hello", error.label(), &error),
        }
    }

    /// Forgets greetings whose sessions cannot become live any more: there are never more than pending ones.
    fn forget_greetings(&mut self) {
        let session = &self.session;
        self.greetings.retain(|greeting| session.pending().any(|pending| pending == greeting.session));
    }

    /// A message came in the live session: the device lives, and if that session has a greeting, it holds.
    pub(super) fn heard(&mut self) {
        let now = Instant::now();
        let live = self.session.id();
        if let Some(position) = self.greetings.iter().position(|greeting| Some(greeting.session) == live) {
            let greeting = self.greetings.swap_remove(position);
            self.forget_greetings();
            self.greeted(greeting, now);
        }
        let was_silent = !self.connected.swap(true, Ordering::Relaxed);
        if was_silent {
            self.context.metrics.devices_connected.inc();
            tracing::info!(device = %self.device, session = ?self.session.id(), "connected");
            self.returned(now);
        } else {
            self.upkeep.heard(now);
        }
    }

    fn greeted(&mut self, greeting: Greeting, now: Instant) {
        if self.complaints.forget(now) {
            tracing::info!(
                device = %self.device,
                session = ?self.session.id(),
                agent_version = short(&greeting.agent_version),
                boot_id = short(&greeting.boot_id),
                "a session begins"
            );
        }
        self.conflict = greeting.verdict == Verdict::Old;
        let told = self.conflict_told.is_some_and(|at| now.saturating_duration_since(at) < CONFLICT_AGAIN);
        if self.conflict && !told {
            self.conflict_told = Some(now);
            self.report_conflict(&greeting.token);
        }
        self.token = Some(greeting.token);
        // Questions of the older session are not answered any more.
        self.questions.clear();
        let set = self.set.borrow_and_update().clone();
        self.ledger.resume(greeting.desired);
        self.ledger.begin(set.as_ref(), greeting.set_digest, greeting.answered, now);
        self.push_due = Some(now);
        self.keys.greeted(greeting.rotated, now);
        self.upkeep.reported(&greeting.node, now);
    }

    fn report_conflict(&mut self, token: &Token) {
        tracing::warn!(device = %self.device, "hello with an old incarnation token: a cloned or restored disk");
        let now = Timestamp::now().as_millisecond();
        let record = EventRecord {
            id: format!("identity-conflict-{token}"),
            pod: None,
            container: None,
            type_: EventType::Warning,
            reason: crate::nodes::status::IDENTITY_CONFLICT.to_owned(),
            message: "The device said hello with an old incarnation token: its disk was cloned or restored. \
                      The older session was ended. If another machine runs with the same keys, take it off \
                      the network and enroll it anew."
                .to_owned(),
            count: 1,
            first: now,
            last: now,
        };
        let (client, device) = (self.context.client.clone(), self.device.clone());
        self.work.spawn(async move {
            if let Err(error) =
                events::write_one(&client, &device, &record, events::CONTAINERS, SignedDuration::ZERO).await
            {
                tracing::warn!(%device, %error, "the event about the old incarnation was not written");
            }
            Done::Told
        });
    }
}
