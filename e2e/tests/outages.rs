//! The callout goes away, and what it relies on; NATS users run out. Who is known gets in all the same, and
//! what runs notices nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::client::RawClient;
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use e2e::workload::{PATIENCE, Scene, daemon_set, pod, shell};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

scenarios!(
    // Users of NATS last ten seconds here instead of twelve minutes: all of it goes on across many of them.
    FleetOptions::with_devices(["alpha", "beta"]).callouts(2).callout_setting("jwt-lifetime", LIFETIME);
    a_log_and_a_rollout_go_on_across_expiries,
    one_of_two_callouts_is_enough,
    without_any_callout_nobody_gets_in_and_all_come_back,
    known_devices_get_in_without_the_api_server,
);

const LIFETIME: i64 = 10;

async fn connection_of(fleet: &Fleet, user: &str) -> Result<u64> {
    let connections = fleet.nats.connections_of(user).await?;
    Ok(connections.first().with_context(|| format!("{user} is not connected"))?.cid)
}

/// Waits until a user has another connection than this one.
async fn reconnected(fleet: &Fleet, user: &str, old: u64) -> Result<u64> {
    until(format!("{user} to connect anew"), PATIENCE, async || {
        let connections = fleet.nats.connections_of(user).await?;
        Ok(match connections.iter().find(|connection| connection.cid != old) {
            Some(new) => Look::Done(new.cid),
            None => Look::not_yet(format!("{connections:?}")),
        })
    })
    .await
}

async fn a_log_and_a_rollout_go_on_across_expiries(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "expiries").await?;
    let count = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done";
    scene.apply(&pod("counts", &json!({ "containers": [shell("c", count)], "nodeName": "alpha" }))).await?;
    scene.ready("counts").await?;
    let mut child = fleet.kubectl.spawn("--namespace expiries logs --follow counts")?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();

    let (mut device, mut cluster) =
        (connection_of(fleet, "device:alpha").await?, connection_of(fleet, "component:vk-nats").await?);
    let expiries = async {
        for _ in 0..3 {
            device = reconnected(fleet, "device:alpha", device).await?;
            cluster = reconnected(fleet, "component:vk-nats", cluster).await?;
        }
        anyhow::Ok(())
    };
    let rollout = async {
        for word in ["one", "two"] {
            let line = format!("echo {word}; exec sleep 100000");
            scene.apply(&daemon_set("rolls", &json!({ "containers": [shell("c", &line)] }))).await?;
            scene.kubectl("rollout status daemonset/rolls --timeout 60s").await?;
        }
        anyhow::Ok(())
    };
    // Each line follows the one before it: nothing is lost, doubled or swapped.
    let mut last = 0;
    let read = async {
        let mut slowest = Duration::ZERO;
        loop {
            let began = tokio::time::Instant::now();
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
            slowest = slowest.max(began.elapsed());
            let number: u64 = line.context("the log ended")?.parse()?;
            ensure!(number == last + 1, "{number} follows {last}");
            last = number;
            ensure!(slowest < Duration::from_secs(5), "the log stood still for {slowest:?}");
        }
        #[expect(unreachable_code, reason = "gives the loop its type")]
        anyhow::Ok(())
    };
    tokio::select! {
        result = read => result?,
        result = async { tokio::try_join!(expiries, rollout) } => drop(result?),
    }
    ensure!(last > 50, "only {last} lines");
    for device in fleet.devices() {
        fleet.node_ready(&device.name, "True", PATIENCE).await?;
    }
    scene.close().await
}

async fn one_of_two_callouts_is_enough(fleet: &Fleet) -> Result<()> {
    for callout in &fleet.callouts {
        callout.process.kill().await?;
        let old = connection_of(fleet, "device:alpha").await?;
        reconnected(fleet, "device:alpha", old).await?;
        callout.start().await?;
    }
    fleet.node_ready("alpha", "True", PATIENCE).await
}

async fn without_any_callout_nobody_gets_in_and_all_come_back(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "no-callout").await?;
    let sleeper = |name: &str| {
        pod(name, &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": "beta" }))
    };
    scene.apply(&sleeper("stays")).await?;
    scene.ready("stays").await?;
    let before = fleet.device("beta")?.podman.run("ps --no-trunc --quiet").await?;
    for callout in &fleet.callouts {
        callout.process.kill().await?;
    }
    until("every user to run out", PATIENCE, async || {
        let mut left = fleet.nats.connections().await?;
        left.retain(|connection| connection.authorized_user.contains(':'));
        Ok(if left.is_empty() { Look::Done(()) } else { Look::not_yet(format!("{left:?}")) })
    })
    .await?;
    let seed = fleet.device("alpha")?.seeds()?.identity;
    ensure!(
        RawClient::as_device(&fleet.nats, &nkeys::KeyPair::from_seed(&seed)?).await.is_err(),
        "somebody was let in by nobody"
    );
    for callout in &fleet.callouts {
        callout.start().await?;
    }
    scene.apply(&sleeper("new")).await?;
    scene.ready("new").await?;
    let after = fleet.device("beta")?.podman.run("ps --no-trunc --quiet").await?;
    ensure!(before.lines().all(|id| after.contains(id)), "what ran was restarted");
    for device in fleet.devices() {
        fleet.node_ready(&device.name, "True", PATIENCE).await?;
    }
    scene.close().await
}

async fn known_devices_get_in_without_the_api_server(fleet: &Fleet) -> Result<()> {
    fleet.control_plane.apiserver.kill().await?;
    let old = connection_of(fleet, "device:alpha").await?;
    let new = reconnected(fleet, "device:alpha", old).await?;
    let again = reconnected(fleet, "device:alpha", new).await?;
    ensure!(again != new, "it did not connect twice");
    stays("vk-nats", Duration::from_secs(i64::unsigned_abs(LIFETIME)), async || {
        let connected = fleet.nats.connections().await?;
        let there = connected.iter().any(|connection| connection.authorized_user == "device:alpha");
        // Between two users there is a moment without one.
        Ok(if there || connected.len() > 1 {
            Look::Done(())
        } else {
            Look::not_yet(format!("{connected:?}"))
        })
    })
    .await?;
    fleet.control_plane.start_apiserver().await?;
    for device in fleet.devices() {
        fleet.node_ready(&device.name, "True", PATIENCE).await?;
    }
    Ok(())
}
