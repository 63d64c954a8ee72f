//! Messages that are sealed, and not what they should be: damaged, repeated, moved, of others.
//!
//! What became of each is read from the counters of `vk-nats`: a message that it takes is counted `Ok`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::digest::Digest;
use fleet_wire::envelope::{self, Direction, Route, Stamp};
use fleet_wire::keys::Agreement;
use fleet_wire::message::{FetchReply, FetchRequest, PodReport, Refusal, Reply, StatusAck, StatusReport};
use fleet_wire::name::{DeviceName, PodKey};
use fleet_wire::subject::{self, Subject, UpVerb};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::PodStatus;
use nkeys::XKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::{Heard, RawClient};
use super::member::{InSession, Member};
use super::table::{Table, Verdict};
use crate::nats::Nats;
use crate::service::Service;
use crate::wait::{Look, until};

/// Both ends of what is measured here.
#[derive(Debug, Clone, Copy)]
pub struct Wire<'a> {
    /// The broker.
    pub nats: &'a Nats,
    /// Whose counters say what became of a message.
    pub vk: &'a Service,
}

/// The sum of `vk-nats`'s messages with a result.
///
/// # Errors
/// When it does not answer.
pub async fn counted(vk: &Service, result: &str) -> Result<f64> {
    let label = format!("result=\"{result}\"");
    let text = vk.metrics().await?;
    let lines =
        text.lines().filter(|line| line.starts_with("vk_nats_messages_total") && line.contains(&label));
    Ok(lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum())
}

impl Wire<'_> {
    /// Publishes something of which exactly one refusal of a kind is to come.
    async fn counts(
        self,
        table: &mut Table,
        client: &mut RawClient,
        attempt: &str,
        (subject, message, result): (&str, &[u8], &str),
    ) -> Result<()> {
        let before = counted(self.vk, result).await?;
        let heard = client.publish(subject, "", message).await?;
        if let Some(error) = heard.iter().find_map(Heard::error) {
            table.note(attempt, error, Verdict::Refused);
            return Ok(());
        }
        let grown =
            until(format!("one more message counted {result}"), Duration::from_secs(20), async || {
                let now = counted(self.vk, result).await?;
                Ok(if now > before { Look::Done(()) } else { Look::not_yet(format!("{before} → {now}")) })
            })
            .await;
        match grown {
            Ok(()) => table.note(attempt, format!("counted {result}"), Verdict::Refused),
            Err(error) => table.note(attempt, format!("{error:#}"), Verdict::Succeeded),
        }
        Ok(())
    }
}

/// Damaged, repeated, moved and old messages of a session of its own.
///
/// # Errors
/// When the session does not open.
pub async fn damage(table: &mut Table, wire: Wire<'_>, own: &Member, victim: &DeviceName) -> Result<()> {
    let mut first = own.open_session(wire.nats, None).await?;
    let token = first.welcome.incarnation.clone();
    let (subject, confirmed) = first.heartbeat(own)?;
    control(table, wire, &mut first, "a heartbeat of the own session", (&subject, &confirmed)).await?;
    // The next session of the same device: everything of the first one is old now.
    let mut second = own.open_session(wire.nats, Some(token)).await?;
    let (_, heartbeat) = second.heartbeat(own)?;
    control(table, wire, &mut second, "a heartbeat of a second session", (&subject, &heartbeat)).await?;
    let (_, of_the_old) = first.heartbeat(own)?;

    let client = &mut second.client;
    wire.counts(table, client, "the same heartbeat again", (&subject, &heartbeat, "Replayed")).await?;
    wire.counts(table, client, "a heartbeat of the session before", (&subject, &of_the_old, "Session"))
        .await?;
    let status = own.up(UpVerb::Status);
    wire.counts(table, client, "a heartbeat moved to another verb", (&status, &heartbeat, "Binding")).await?;
    for (attempt, kept) in
        [("an empty message", 0), ("2 bytes of a message", 2), ("a message cut in its outside", 9)]
    {
        wire.counts(table, client, attempt, (&subject, &heartbeat[..kept], "Format")).await?;
    }
    let cut = &heartbeat[..heartbeat.len() - 1];
    wire.counts(table, client, "a message without its last byte", (&subject, cut, "Seal")).await?;
    for (attempt, at) in [
        ("a flipped bit in the seal", heartbeat.len() - 1),
        ("a flipped bit in the middle", heartbeat.len() / 2),
    ] {
        let mut flipped = heartbeat.clone();
        flipped[at] ^= 1;
        wire.counts(table, client, attempt, (&subject, &flipped, "Seal")).await?;
    }
    let mut version = heartbeat.clone();
    version[6] ^= 0x40;
    wire.counts(table, client, "another version of the fleet's key", (&subject, &version, "KeyVersion"))
        .await?;

    forge(table, wire, client, own, victim).await?;
    reorder(table, wire, &mut second, own).await
}

/// Messages under others' names and keys, and its own turned round.
async fn forge(
    table: &mut Table,
    wire: Wire<'_>,
    client: &mut RawClient,
    own: &Member,
    victim: &DeviceName,
) -> Result<()> {
    let (keys, subject) = (own.fleet_keys()?, own.up(UpVerb::Heartbeat));
    let (key_version, fleet) = keys.newest();
    let seal = |direction: Direction, at: &str, device: &DeviceName, key: &XKey| {
        let route = Route { direction, subject: at, device, key_version };
        let agreement = Agreement::new(key, fleet)?;
        envelope::seal(route, Stamp { counter: 1, ..Stamp::default() }, &agreement, &"forged")
    };
    let victims = Subject::Up(victim.clone(), UpVerb::Heartbeat).to_string();
    let forged = seal(Direction::Up, &victims, victim, &own.curve)?;
    wire.counts(table, client, "a message that says it is another device's", (&subject, &forged, "Sender"))
        .await?;
    let forged = seal(Direction::Up, &subject, &own.name, &XKey::new())?;
    wire.counts(table, client, "a message sealed with another key", (&subject, &forged, "Seal")).await?;
    let reflected = seal(Direction::Down, &subject, &own.name, &own.curve)?;
    wire.counts(table, client, "a message for the other direction", (&subject, &reflected, "Sender")).await?;
    let sessionless = seal(Direction::Up, &subject, &own.name, &own.curve)?;
    wire.counts(table, client, "a message of no session", (&subject, &sessionless, "Session")).await?;

    // What the cluster side says to this device, sent back to it.
    let inbox = format!("{}.reflected", subject::inbox_prefix(&own.name));
    client.subscribe(&inbox, 7).await?;
    let hello = own.up(UpVerb::Hello);
    let mut session = fleet_wire::session::DeviceSession::new(
        own.name.clone(),
        own.curve.clone(),
        keys.clone(),
        fleet_wire::name::OwnerEpoch::default(),
    );
    let message = session.seal_hello(&hello, &own.hello(None)?)?;
    let mut heard = client.publish(&hello, &inbox, &message).await?;
    let answer = match heard.pop() {
        Some(Heard::Message(answer)) => answer,
        _ => client.message_on(&inbox, Duration::from_secs(20)).await?,
    };
    wire.counts(
        table,
        client,
        "an answer of the cluster side, reflected",
        (&hello, &answer.payload, "Sender"),
    )
    .await?;

    // What the operator of the broker has seen of another device, on its own subject.
    let observer = wire.nats.observer().await?;
    let mut seen = observer.subscribe(victims).await?;
    observer.flush().await?;
    let seen = tokio::time::timeout(Duration::from_secs(30), seen.next()).await?.context("closed")?;
    wire.counts(table, client, "another device's heartbeat as its own", (&subject, &seen.payload, "Sender"))
        .await
}

/// Messages out of order: within the window each is taken once, behind it none.
async fn reorder(table: &mut Table, wire: Wire<'_>, own: &mut InSession, member: &Member) -> Result<()> {
    let mut sealed = Vec::new();
    for _ in 0..1100 {
        sealed.push(own.heartbeat(member)?);
    }
    let (subject, newest) = sealed.last().context("none")?.clone();
    control(table, wire, own, "the newest of 1,100 heartbeats first", (&subject, &newest)).await?;
    let (_, late) = &sealed[1000];
    control(table, wire, own, "one that is 99 behind it", (&subject, late)).await?;
    let client = &mut own.client;
    wire.counts(table, client, "the same one again", (&subject, late, "Replayed")).await?;
    let (_, oldest) = &sealed[0];
    wire.counts(table, client, "one that is 1,099 behind", (&subject, oldest, "Replayed")).await
}

async fn control(
    table: &mut Table,
    wire: Wire<'_>,
    own: &mut InSession,
    attempt: &str,
    (subject, message): (&str, &[u8]),
) -> Result<()> {
    let before = counted(wire.vk, "Ok").await?;
    own.client.publish(subject, "", message).await?;
    let grown = until("one more message counted Ok", Duration::from_secs(20), async || {
        let now = counted(wire.vk, "Ok").await?;
        Ok(if now > before { Look::Done(()) } else { Look::not_yet(format!("{before} → {now}")) })
    })
    .await;
    table.control(attempt, grown.map(|()| "counted Ok".to_owned()).map_err(|error| format!("{error:#}")));
    Ok(())
}

/// Well-sealed questions and reports about pods of others.
///
/// # Errors
/// When the session does not open.
pub async fn meddle(
    table: &mut Table,
    wire: Wire<'_>,
    own: &Member,
    incarnation: Option<String>,
    (pod, digest): (&PodKey, Digest),
) -> Result<()> {
    let mut open = own.open_session(wire.nats, incarnation).await?;
    let fetch = FetchRequest { uid: pod.uid.clone(), digest, offset: 0 };
    let answer: Reply<FetchReply> = ask(&mut open, own, UpVerb::Fetch, &fetch).await?;
    table.attempt("fetch another device's pod", outcome(answer.into_result().map(|_| "its bundle")));

    let status = PodStatus { phase: Some("Failed".to_owned()), ..PodStatus::default() };
    let report = StatusReport {
        node: None,
        pods: vec![PodReport { key: pod.clone(), revision: 1, status, stopped: true }],
    };
    let answer: Reply<StatusAck> = ask(&mut open, own, UpVerb::Status, &report).await?;
    let result = match answer.into_result() {
        Ok(ack) => match ack.pods.first().map(|pod| &pod.outcome) {
            Some(fleet_wire::message::Outcome::Taken) => Ok("taken".to_owned()),
            other => Err(format!("{other:?}")),
        },
        Err(refusal) => Err(refusal.to_string()),
    };
    table.attempt("report another device's pod as failed and stopped", result);

    let unknown = UpVerb::Unknown("take-over".to_owned());
    let answer: Reply<serde_json::Value> = ask(&mut open, own, unknown, &"please").await?;
    table.attempt("a verb that does not exist", outcome(answer.into_result().map(|_| "an answer")));
    Ok(())
}

fn outcome(result: std::result::Result<&str, Refusal>) -> std::result::Result<String, String> {
    result.map(str::to_owned).map_err(|refusal| refusal.to_string())
}

async fn ask<T: DeserializeOwned>(
    open: &mut InSession,
    own: &Member,
    verb: UpVerb,
    body: &impl Serialize,
) -> Result<T> {
    let (subject, inbox) = (own.up(verb), format!("{}.ask", subject::inbox_prefix(&own.name)));
    open.client.subscribe(&inbox, 8).await?;
    let sealed = open.session.seal(&subject, body)?;
    let mut heard = open.client.publish(&subject, &inbox, &sealed.message).await?;
    let answer = match heard.pop() {
        Some(Heard::Message(answer)) => answer,
        Some(other) => anyhow::bail!("{subject}: {other:?}"),
        None => open.client.message_on(&inbox, Duration::from_secs(20)).await?,
    };
    Ok(open.session.open(&inbox, &answer.payload)?.body()?)
}
