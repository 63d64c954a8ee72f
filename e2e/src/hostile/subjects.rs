//! Listening where one should not, speaking as somebody else, and having the cluster side speak for one.

use std::time::Duration;

use anyhow::{Result, ensure};
use fleet_wire::enrollment::Door;
use fleet_wire::envelope::{Direction, Outside, Route};
use fleet_wire::keys::Agreement;
use fleet_wire::name::{DeviceName, OwnerEpoch};
use fleet_wire::session::DeviceSession;
use fleet_wire::subject::{self, UpVerb};
use futures::StreamExt as _;

use super::client::{Heard, RawClient};
use super::member::Member;
use super::table::{Table, Verdict};
use crate::nats::Nats;

/// What the server said, as the result of an attempt: silence is consent.
pub fn verdict(heard: &[Heard]) -> std::result::Result<String, String> {
    let errors: Vec<String> = heard.iter().filter_map(Heard::error).collect();
    match (errors.is_empty(), heard.contains(&Heard::Closed)) {
        (false, _) => Err(errors.join("; ")),
        (true, true) => Err("closed".to_owned()),
        (true, false) => Ok("no objection".to_owned()),
    }
}

/// Subscriptions of what belongs to others, and its own as the control.
///
/// # Errors
/// When the connection is not there.
pub async fn listen(table: &mut Table, nats: &Nats, own: &Member, victim: &DeviceName) -> Result<()> {
    let mut client = own.connect(nats).await?;
    let inbox = subject::inbox_prefix(&own.name);
    let mut sid = 1;
    for subject in
        [subject::down_wildcard(&own.name), subject::stream_down_wildcard(&own.name), format!("{inbox}.>")]
    {
        let heard = client.subscribe(&subject, sid).await?;
        table.control(format!("subscribe {subject}"), verdict(&heard));
        sid += 1;
    }
    let (root, victims) = (subject::device_root(victim), subject::inbox_prefix(victim));
    for subject in [
        ">".to_owned(),
        "*".to_owned(),
        "*.>".to_owned(),
        "fleet.>".to_owned(),
        "fleet.v1.>".to_owned(),
        "fleet.v1.*.*.down.>".to_owned(),
        subject::all_up_wildcard(),
        format!("{} vk-nats", subject::all_up_wildcard()),
        format!("{root}.>"),
        subject::down_wildcard(victim),
        format!("{root}.down.changed"),
        subject::stream_down_wildcard(victim),
        format!("{root}.up.>"),
        format!("{}.up.>", subject::device_root(&own.name)),
        "_INBOX.>".to_owned(),
        "_INBOX.*".to_owned(),
        "_INBOX.*.>".to_owned(),
        format!("{victims}.>"),
        "_INBOX._token.>".to_owned(),
        "_INBOX._key.>".to_owned(),
        "fleet.enroll.v1.>".to_owned(),
        "$SYS.>".to_owned(),
        "$SYS.REQ.USER.AUTH".to_owned(),
        "$SYS.REQ.USER.AUTH callouts".to_owned(),
        "$SYS.ACCOUNT.>".to_owned(),
        "$JS.>".to_owned(),
        "$JS.API.>".to_owned(),
        "$KV.>".to_owned(),
        "$G.>".to_owned(),
    ] {
        let heard = client.subscribe(&subject, sid).await?;
        table.attempt(format!("subscribe {subject}"), verdict(&heard));
        sid += 1;
    }
    Ok(())
}

/// Messages in others' names, and its own as the control.
///
/// # Errors
/// When the connection is not there.
pub async fn speak(table: &mut Table, nats: &Nats, own: &Member, victim: &DeviceName) -> Result<()> {
    let mut client = own.connect(nats).await?;
    let observer = nats.observer().await?;
    let mut heard_by_all = everything(&observer).await?;
    let body = b"a stranger's word";
    for subject in [own.up(UpVerb::Heartbeat), Door::Device(own.name.clone()).subject()] {
        let heard = client.publish(&subject, "", body).await?;
        let arrived = wait_for(&mut heard_by_all, &subject, body).await;
        let result = verdict(&heard).and_then(|_| match arrived {
            true => Ok("heard".to_owned()),
            false => Err("nobody heard it".to_owned()),
        });
        table.control(format!("publish {subject}"), result);
    }
    let (root, own_root) = (subject::device_root(victim), subject::device_root(&own.name));
    let subjects = [
        format!("{root}.up.heartbeat"),
        format!("{root}.up.status"),
        format!("{root}.up.hello"),
        format!("{root}.up.re.1"),
        format!("{root}.session.1.up"),
        format!("{root}.session.1.down"),
        format!("{root}.down.changed"),
        format!("{root}.down.revoked"),
        format!("{own_root}.down.revoked"),
        format!("{own_root}.session.1.down"),
        format!("{own_root}.up"),
        "fleet.v1.*.*.up.heartbeat".to_owned(),
        format!("{}.x", subject::inbox_prefix(victim)),
        format!("{}.x", subject::inbox_prefix(&own.name)),
        Door::Device(victim.clone()).subject(),
        format!("fleet.enroll.v1.token.{}", "0".repeat(20)),
        Door::Key(own.identity_key()?).subject(),
        "$SYS.REQ.USER.AUTH".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
        "$SYS.REQ.SERVER.PING.CONNZ".to_owned(),
        "$SYS.REQ.ACCOUNT.FLEET.CONNZ".to_owned(),
        "$JS.API.INFO".to_owned(),
        "$JS.API.STREAM.CREATE.loot".to_owned(),
        "$JS.API.CONSUMER.CREATE.loot".to_owned(),
        "$KV.loot.key".to_owned(),
        "anything".to_owned(),
    ];
    for subject in &subjects {
        let heard = client.publish(subject, "", body).await?;
        table.attempt(format!("publish {subject}"), verdict(&heard));
    }
    let leaked = drain(&mut heard_by_all, |message| message.payload == body[..]).await;
    table.note(
        "what of these messages a listener to everything heard",
        if leaked.is_empty() { "nothing".to_owned() } else { leaked.join(", ") },
        if leaked.is_empty() { Verdict::Refused } else { Verdict::Succeeded },
    );
    Ok(())
}

/// Requests whose answers are to go where the device itself may not publish: the server does not check reply
/// subjects, so whoever answers has to.
///
/// # Errors
/// When the connection is not there, or the control is not answered.
pub async fn bend_replies(table: &mut Table, nats: &Nats, own: &Member, victim: &DeviceName) -> Result<()> {
    let observer = nats.observer().await?;
    let mut all = everything(&observer).await?;
    let mut client = own.connect(nats).await?;
    let (root, inbox) = (subject::device_root(victim), subject::inbox_prefix(&own.name));
    let bent = [
        format!("{}.stolen", subject::inbox_prefix(victim)),
        format!("{root}.down.changed"),
        format!("{root}.down.revoked"),
        format!("{root}.up.status"),
        format!("{root}.session.1.up"),
        format!("{}.down.changed", subject::device_root(&own.name)),
        "_INBOX.cluster.side".to_owned(),
        "_INBOX._token.00000000000000000000.x".to_owned(),
        "fleet.enroll.v1.token.00000000000000000000".to_owned(),
        "$JS.API.STREAM.CREATE.loot".to_owned(),
        "$SYS.REQ.USER.AUTH".to_owned(),
        "$KV.loot.key".to_owned(),
        inbox.clone(),
        format!("{inbox}.*"),
        format!("{inbox}.>"),
        format!("{inbox}..x"),
        format!("{inbox}2.x"),
    ];
    let keys = own.fleet_keys()?;
    let mut session =
        DeviceSession::new(own.name.clone(), own.curve.clone(), keys.clone(), OwnerEpoch::default());
    let hello = own.up(UpVerb::Hello);
    let good = format!("{inbox}.good");
    client.subscribe(&good, 1).await?;
    let mut ask = async |client: &mut RawClient, reply: &str| -> Result<Vec<Heard>> {
        let message = session.seal_hello(&hello, &own.hello(None)?)?;
        client.publish(&hello, reply, &message).await
    };
    for reply in &bent {
        let heard = ask(&mut client, reply).await?;
        if let Err(refusal) = verdict(&heard) {
            table.note(format!("hello with reply subject {reply}"), refusal, Verdict::Refused);
        }
    }
    // The last one is answered: all before it have been looked at.
    let mut answered = ask(&mut client, &good).await?;
    let control = match answered.pop() {
        Some(Heard::Message(_)) => Ok("answered".to_owned()),
        Some(other) => Err(format!("{other:?}")),
        None => client
            .message_on(&good, Duration::from_secs(20))
            .await
            .map(|_| "answered".to_owned())
            .map_err(|error| error.to_string()),
    };
    table.control(format!("hello with reply subject {good}"), control);
    // Others use these subjects, too: an answer is what is sealed to this device.
    let published = drain(&mut all, |message| {
        let subject = message.subject.as_str();
        let opens = |outside: Outside<'_>| {
            let key_version = outside.key_version;
            let route = Route { direction: Direction::Down, subject, device: &own.name, key_version };
            let agreement = keys.get(key_version).and_then(|fleet| Agreement::new(&own.curve, fleet));
            agreement.is_ok_and(|agreement| outside.open(route, &agreement).is_ok())
        };
        bent.iter().any(|reply| subject == reply) && Outside::parse(&message.payload).is_ok_and(opens)
    })
    .await;
    for reply in &bent {
        let result = match published.contains(reply) {
            true => Ok("the cluster side published there".to_owned()),
            false => Err("not answered".to_owned()),
        };
        table.attempt(format!("hello with reply subject {reply}"), result);
    }
    Ok(())
}

/// A subscription to everything that the server knows of: a flush alone says only that the bytes were written.
async fn everything(observer: &async_nats::Client) -> Result<async_nats::Subscriber> {
    let mut all = observer.subscribe(">").await?;
    observer.publish("listening", "".into()).await?;
    ensure!(wait_for(&mut all, "listening", b"").await, "the observer does not hear itself");
    Ok(all)
}

async fn wait_for(all: &mut async_nats::Subscriber, subject: &str, body: &[u8]) -> bool {
    let wait = async {
        while let Some(message) = all.next().await {
            if message.subject.as_str() == subject && message.payload == body {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap_or(false)
}

/// Reads what has arrived until there is nothing for a while, and gives the subjects of what matches.
async fn drain(
    all: &mut async_nats::Subscriber,
    matches: impl Fn(&async_nats::Message) -> bool,
) -> Vec<String> {
    let mut found = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(500), all.next()).await {
        if matches(&message) {
            found.push(message.subject.to_string());
        }
    }
    found
}
