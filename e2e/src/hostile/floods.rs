//! Too much of everything.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::permissions::MAX_SUBSCRIPTIONS;
use fleet_wire::subject::{self, UpVerb};
use tokio::time::Instant;

use super::client::{Heard, Login, RawClient, publication};
use super::member::Member;
use super::subjects::verdict;
use super::table::{Table, Verdict};
use crate::nats::Nats;

/// How long a flood lasts: several heartbeats of the devices beside it.
const FLOOD: Duration = Duration::from_secs(12);

/// Messages, subscriptions and lines without measure.
///
/// # Errors
/// When the connection is not there.
pub async fn try_all(table: &mut Table, nats: &Nats, own: &Member) -> Result<()> {
    let subject = own.up(UpVerb::Status);
    let mut client = own.connect_patiently(nats).await?;
    let heard = client.publish(&subject, "", &vec![b'x'; 200 * 1024]).await?;
    table.control("a message of 200 KiB", verdict(&heard));
    let heard = client.publish(&subject, "", &vec![b'x'; 1024 * 1024]).await?;
    table.attempt("a message of 1 MiB", verdict(&heard));

    let sent = at_line_rate(nats, own, &publication(&subject, "", &vec![b'x'; 1024 * 1024])).await?;
    table.note(
        format!("1 MiB messages at line rate for {} s", FLOOD.as_secs()),
        format!("each connection closed at its first; {sent} tries"),
        Verdict::Refused,
    );
    let sent = at_line_rate(nats, own, &publication(&subject, "", &vec![b'x'; 256 * 1024])).await?;
    table.note(
        format!("256 KiB messages at line rate for {} s", FLOOD.as_secs()),
        format!("{sent} sent"),
        Verdict::Harmless,
    );
    let small: Vec<u8> = publication(&subject, "", b"HF").repeat(1000);
    let sent = at_line_rate(nats, own, &small).await?;
    table.note(
        format!("2-byte messages at line rate for {} s", FLOOD.as_secs()),
        format!("{} sent", sent * 1000),
        Verdict::Harmless,
    );

    subscriptions(table, nats, own).await?;

    let mut client = own.connect_patiently(nats).await?;
    let long = format!("SUB {}.{} 1\r\n", subject::inbox_prefix(&own.name), "x".repeat(100 * 1024));
    let heard = client.exchange(long.as_bytes()).await?;
    table.attempt("a line of 100 KiB", verdict(&heard));
    for (attempt, line) in [
        ("a line that is none", "FROB x y\r\n"),
        ("a negative length", "PUB x -1\r\n"),
        ("a length beyond all bounds", "PUB x 99999999999999999999\r\n"),
        ("an INFO of its own", "INFO {}\r\n"),
        ("a route's line", "RS+ FLEET > 1\r\n"),
        ("an account's line", "A+ FLEET\r\n"),
    ] {
        let mut client = own.connect_patiently(nats).await?;
        let heard = client.exchange(line.as_bytes()).await?;
        let result = verdict(&heard);
        match result {
            Ok(_) => table.note(attempt, "ignored", Verdict::Harmless),
            refused => table.attempt(attempt, refused),
        }
    }
    Ok(())
}

/// 10,000 subscriptions, each on a subject that is allowed by itself.
async fn subscriptions(table: &mut Table, nats: &Nats, own: &Member) -> Result<()> {
    let mut client = own.connect_patiently(nats).await?;
    let inbox = subject::inbox_prefix(&own.name);
    let lines: String = (0..10_000).map(|sid| format!("SUB {inbox}.s{sid} {sid}\r\n")).collect();
    let heard = client.exchange(lines.as_bytes()).await?;
    let refused = heard.iter().filter(|heard| matches!(heard, Heard::Error(_))).count();
    let held = nats
        .connections_of(&format!("device:{}", own.name))
        .await?
        .iter()
        .map(|connection| connection.subscriptions)
        .max()
        .context("it is not listed")?;
    let closed = if heard.contains(&Heard::Closed) { ", closed" } else { "" };
    let answer = format!("{refused} refused{closed}, {held} held");
    let verdict = if held <= u64::from(MAX_SUBSCRIPTIONS) && (refused > 0 || !closed.is_empty()) {
        Verdict::Refused
    } else {
        Verdict::Succeeded
    };
    table.note("10,000 subscriptions", answer, verdict);
    Ok(())
}

/// Sends the same bytes for a while, connecting again whenever the server closes; gives how often they were sent.
async fn at_line_rate(nats: &Nats, own: &Member, bytes: &[u8]) -> Result<usize> {
    let until = Instant::now() + FLOOD;
    let mut sent = 0;
    while Instant::now() < until {
        // Refused while the server or the callout slows it down: it goes on, as a flood does.
        let Ok(mut client) = RawClient::open(nats).await else { continue };
        let login = Login::key(&own.identity, client.nonce())?;
        if !matches!(client.login(&login).await, Ok(Ok(()))) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        while Instant::now() < until {
            match tokio::time::timeout_at(until, client.send(bytes)).await {
                Ok(Ok(())) => sent += 1,
                _ => break,
            }
        }
    }
    Ok(sent)
}
