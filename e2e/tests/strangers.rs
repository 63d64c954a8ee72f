//! Messages that the cluster side must not take: malformed, huge, replayed, moved, from nobody it knows.
//! Each is counted, none is fatal, and the other devices notice nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::RequestErrorKind;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, until};
use e2e::workload::{PATIENCE, Scene, pod, shell};
use fleet_wire::name::{DeviceName, Shard};
use fleet_wire::subject::{self, PREFIX, Subject, UpVerb};
use futures::StreamExt as _;
use serde_json::json;

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]);
    what_is_not_a_message_is_counted_and_dropped,
    replayed_and_moved_messages_are_refused,
    an_answer_goes_to_the_devices_own_inbox_only,
);

fn up(device: &str, verb: UpVerb) -> Result<String> {
    Ok(Subject::Up(device.parse::<DeviceName>()?, verb).to_string())
}

/// The sum of the samples of a metric whose labels hold all of `labels`.
async fn counted(fleet: &Fleet, metric: &str, labels: &[&str]) -> Result<f64> {
    let text = fleet.vk()?.metrics().await?;
    Ok(text
        .lines()
        .filter(|line| line.starts_with(metric) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum())
}

const MESSAGES: &str = "vk_nats_messages_total";

/// Waits until so many more messages had this result.
async fn grows(fleet: &Fleet, result: &str, from: f64, by: f64) -> Result<()> {
    until(format!("{by} more messages with the result {result}"), PATIENCE, async || {
        let now = counted(fleet, MESSAGES, &[result]).await?;
        Ok(if now >= from + by { Look::Done(()) } else { Look::not_yet(format!("{from} → {now}")) })
    })
    .await
}

async fn works(fleet: &Fleet, name: &'static str) -> Result<()> {
    let scene = Scene::open(fleet, name).await?;
    scene
        .apply(&pod("fine", &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": "alpha" })))
        .await?;
    scene.ready("fine").await?;
    scene.close().await
}

async fn what_is_not_a_message_is_counted_and_dropped(fleet: &Fleet) -> Result<()> {
    let client = fleet.nats.observer().await?;
    let before = counted(fleet, MESSAGES, &["Format"]).await?;
    let subject = up("alpha", UpVerb::Status)?;
    for garbage in [&b""[..], b"HF", b"HF\x01", b"{}", b"HF\x02aaaaaaaaaa", &[0xff; 4096]] {
        client.publish(subject.clone(), garbage.to_vec().into()).await?;
    }
    client.flush().await?;
    grows(fleet, "Format", before, 5.0).await?;

    let before = counted(fleet, MESSAGES, &["TooLarge"]).await?;
    client.publish(subject, vec![b'x'; 260 * 1024].into()).await?;
    client.flush().await?;
    grows(fleet, "TooLarge", before, 1.0).await?;

    // Names out of grammar, wrong shards, nobody's name: nobody listens there.
    let alpha: DeviceName = "alpha".parse()?;
    let foreign = Shard::all().find(|shard| *shard != Shard::of(&alpha)).context("one shard only")?;
    for subject in [
        format!("{PREFIX}.{foreign}.alpha.up.status"),
        format!("{PREFIX}.9999.alpha.up.status"),
        format!("{PREFIX}.{}.ALPHA.up.status", Shard::of(&alpha)),
        up("nobody", UpVerb::Hello)?,
    ] {
        let answer = client.request(subject.clone(), b"HF\x01".to_vec().into()).await;
        let unheard = answer.as_ref().is_err_and(|error| error.kind() == RequestErrorKind::NoResponders);
        ensure!(unheard, "somebody listens on {subject}: {answer:?}");
    }
    // Under its own name a device is heard: what is no subject there is counted, each time.
    let before = counted(fleet, MESSAGES, &["\"Subject\""]).await?;
    let misshapen = ["up.re.x.y", "up.status.more", "up.st@tus"];
    for tail in misshapen {
        client.publish(format!("{}.{tail}", subject::device_root(&alpha)), b"HF\x01".to_vec().into()).await?;
    }
    client.flush().await?;
    grows(fleet, "\"Subject\"", before, misshapen.len() as f64).await?;
    works(fleet, "garbage").await
}

async fn replayed_and_moved_messages_are_refused(fleet: &Fleet) -> Result<()> {
    let client = fleet.nats.observer().await?;
    let mut heard = client.subscribe(up("alpha", UpVerb::Heartbeat)?).await?;
    client.flush().await?;
    let heartbeat = tokio::time::timeout(Duration::from_secs(30), heard.next()).await?.context("closed")?;
    let replayed = counted(fleet, MESSAGES, &["Replayed"]).await?;
    let bound = counted(fleet, MESSAGES, &["Binding"]).await?;
    let sender = counted(fleet, MESSAGES, &["Sender"]).await?;
    // Again on its own subject; on another of the same device; as another device.
    client.publish(heartbeat.subject.clone(), heartbeat.payload.clone()).await?;
    client.publish(up("alpha", UpVerb::Status)?, heartbeat.payload.clone()).await?;
    client.publish(up("beta", UpVerb::Heartbeat)?, heartbeat.payload.clone()).await?;
    client.flush().await?;
    grows(fleet, "Replayed", replayed, 1.0).await?;
    grows(fleet, "Binding", bound, 1.0).await?;
    grows(fleet, "Sender", sender, 1.0).await?;
    works(fleet, "replays").await
}

async fn an_answer_goes_to_the_devices_own_inbox_only(fleet: &Fleet) -> Result<()> {
    let client = fleet.nats.observer().await?;
    // A hello of the device itself, with its reply subject bent to another device's inbox.
    let mut heard = client.subscribe(up("alpha", UpVerb::Hello)?).await?;
    client.flush().await?;
    fleet.device("alpha")?.agent.restart(Duration::from_secs(20)).await?;
    let hello = tokio::time::timeout(Duration::from_secs(60), heard.next()).await?.context("closed")?;
    let victim = format!("{}.stolen", subject::inbox_prefix(&"beta".parse()?));
    let mut inbox = client.subscribe(victim.clone()).await?;
    let own = format!("{}.again", subject::inbox_prefix(&"alpha".parse()?));
    let mut answers = client.subscribe(own.clone()).await?;
    client.publish_with_reply(hello.subject.clone(), victim, hello.payload.clone()).await?;
    // The second one is answered (a replayed hello is harmless), which shows that the first was looked at.
    client.publish_with_reply(hello.subject.clone(), own, hello.payload.clone()).await?;
    client.flush().await?;
    tokio::time::timeout(Duration::from_secs(30), answers.next()).await?.context("closed")?;
    let stolen = tokio::time::timeout(Duration::from_millis(200), inbox.next()).await;
    ensure!(stolen.is_err(), "the cluster side answered into another device's inbox");
    fleet.node_ready("alpha", "True", PATIENCE).await?;
    works(fleet, "inboxes").await
}
