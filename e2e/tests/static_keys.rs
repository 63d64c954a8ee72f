//! The keys that stand in nats-server's configuration come from a Secret, and are replaced on the running fleet.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::client::RawClient;
use e2e::scenarios;
use e2e::service::Service;
use e2e::wait::{Look, until};
use e2e::workload::{PATIENCE, Scene, pod, shell};
use nkeys::KeyPair;
use serde_json::{Value, json};

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]).callouts(2);
    static_keys_come_from_a_secret,
    all_static_keys_are_rotated_and_nobody_is_locked_out,
);

async fn static_keys_come_from_a_secret(fleet: &Fleet) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let secret = fleet.kubectl.json("get secret fleet-nats-auth --namespace harmony-fleet").await?;
    let secret: k8s_openapi::api::core::v1::Secret = serde_json::from_value(secret)?;
    let data = secret.data.context("an empty Secret")?;
    ensure!(data.len() == 4, "{:?}", data.keys());
    for (entry, seed) in &data {
        let file = fleet.nats.seed_folder().join(entry);
        ensure!(std::fs::read(&file)? == seed.0, "{entry} is another one");
        ensure!(file.metadata()?.permissions().mode() & 0o777 == 0o600, "{entry} may be read by others");
    }
    let before = std::fs::read_to_string(fleet.nats.seed_folder().join("auth.conf"))?;
    fleet.take_static_keys().await?;
    let after = std::fs::read_to_string(fleet.nats.seed_folder().join("auth.conf"))?;
    ensure!(before == after, "a second `nats-init` made other keys");
    let shown = fleet.command("keys nats-init --dry-run --output yaml").await?.success()?;
    ensure!(shown.contains("fleet-nats-auth") && shown.contains("kicker.nk"), "no manifest: {shown}");
    Ok(())
}

/// Runs a step, and brings its result to the files.
async fn step(fleet: &Fleet, step: &str) -> Result<Value> {
    let answer =
        fleet.command(&format!("keys nats-rotate {step} callout issuer xkey kicker --output json")).await?;
    let public = serde_json::from_str(&answer.success()?)?;
    fleet.take_static_keys().await?;
    Ok(public)
}

/// Ends each gently and starts it again, while the others work.
async fn restart(services: impl IntoIterator<Item = &Service>) -> Result<()> {
    for service in services {
        service.process.stop(Duration::from_secs(20)).await?;
        service.start().await?;
    }
    Ok(())
}

/// Waits until devices and components are connected to a server that was started again, and connects anew.
async fn all_are_in(fleet: &Fleet) -> Result<()> {
    for user in ["device:alpha", "device:beta", "component:vk-nats", "component:enroller"] {
        until(format!("{user} to be connected"), PATIENCE, async || {
            let there = fleet.nats.connections_of(user).await?;
            Ok(if there.is_empty() { Look::not_yet("it is not") } else { Look::Done(()) })
        })
        .await?;
    }
    // What is connected may have been let in before: somebody who comes now is, too.
    let seed = fleet.device("alpha")?.seeds()?.identity;
    until("a device to be let in", PATIENCE, async || {
        Ok(if logs_in(fleet, &seed).await? { Look::Done(()) } else { Look::not_yet("it is refused") })
    })
    .await
}

/// Since when the Node is Ready.
async fn ready_since(fleet: &Fleet, node: &str) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}{.status.conditions[?(@.type=='Ready')].lastTransitionTime}";
    fleet.kubectl.run_args(&["get", "node", node, "--output", path]).await
}

async fn logs_in(fleet: &Fleet, seed: &str) -> Result<bool> {
    let key = KeyPair::from_seed(seed.trim())?;
    Ok(RawClient::as_device(&fleet.nats, &key).await.is_ok())
}

async fn all_static_keys_are_rotated_and_nobody_is_locked_out(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "rotated").await?;
    let container = shell("c", "echo still here; exec sleep 100000");
    scene.apply(&pod("speaker", &json!({ "containers": [container], "nodeName": "alpha" }))).await?;
    scene.ready("speaker").await?;
    let seed = |key: &str| std::fs::read_to_string(fleet.nats.seed_file(key));
    let old = [seed("callout")?, seed("kicker")?];
    let since = ready_since(fleet, "alpha").await?;
    ensure!(since.starts_with("True"), "{since}");
    let early = fleet.command("keys nats-rotate use kicker").await?;
    ensure!(early.code == Some(4), "a step was left out: {early}");

    // Both logins are accepted, and the callouts answer for both issuers.
    let begun = step(fleet, "begin").await?;
    fleet.nats.restart().await?;
    restart(&fleet.callouts).await?;
    all_are_in(fleet).await?;

    // The new logins are used, by one after the other; then the server learns the new issuer and xkey.
    let used = step(fleet, "use").await?;
    ensure!(used["callout"] == begun["otherCallout"] && used["otherCallout"] == begun["callout"], "{used}");
    restart(fleet.callouts.iter().chain(&fleet.enroller)).await?;
    all_are_in(fleet).await?;
    ensure!(logs_in(fleet, &old[0]).await?, "the old login was refused before the rotation was finished");
    fleet.nats.restart().await?;
    all_are_in(fleet).await?;

    let finished = step(fleet, "finish").await?;
    fleet.nats.restart().await?;
    restart(&fleet.callouts).await?;
    all_are_in(fleet).await?;
    for key in ["callout", "issuer", "xkey", "kicker"] {
        ensure!(finished[key] == used[key] && finished[key] != begun[key], "{key}: {finished}");
    }
    let left = std::fs::read_dir(fleet.nats.seed_folder())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> =
        left.filter(|name| name.contains(".next") || name.contains(".previous")).collect();
    ensure!(left.is_empty(), "{left:?}");
    for seed in &old {
        ensure!(!logs_in(fleet, seed).await?, "an old key is still accepted");
    }

    // Nobody noticed, and the new kicker kicks.
    let now = ready_since(fleet, "alpha").await?;
    ensure!(now == since, "alpha was not Ready meanwhile: {since}, {now}");
    let text = scene.kubectl("logs speaker").await?;
    ensure!(text.contains("still here"), "{text}");
    fleet.kubectl.run("delete node beta").await?;
    until("beta to be thrown out", Duration::from_secs(10), async || {
        let left = fleet.nats.connections_of("device:beta").await?;
        Ok(if left.is_empty() { Look::Done(()) } else { Look::not_yet(format!("{left:?}")) })
    })
    .await?;
    scene.close().await
}
