//! `kubectl delete node` is revocation: a device that is connected is out within seconds, stays out, and stops
//! what it runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::enrollment::Issued;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::client::RawClient;
use e2e::hostile::member::Member;
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use e2e::workload::{PATIENCE, Scene, pod, shell};
use fleet_wire::enrollment::{RECORDS_NAMESPACE, Record, RecordState, record_name};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use serde_json::json;

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]);
    a_deleted_node_is_out_within_five_seconds_and_stays_out,
    whoever_connects_during_the_deletion_is_out_too,
    a_device_that_was_away_learns_it_when_it_comes_back,
);

/// From `kubectl delete node` to the last connection's end.
const OUT: Duration = Duration::from_secs(5);

async fn record(fleet: &Fleet, device: &str) -> Result<Record> {
    let secrets: Api<Secret> = Api::namespaced(fleet.client().await?, RECORDS_NAMESPACE);
    Ok(Record::parse(&secrets.get(&record_name(&device.parse()?)).await?)?)
}

/// Waits until a device has no connection; gives the time from `since`.
async fn out(fleet: &Fleet, device: &str, since: Instant, within: Duration) -> Result<Duration> {
    let user = format!("device:{device}");
    until(format!("{device} to be thrown out"), within, async || {
        let left = fleet.nats.connections_of(&user).await?;
        Ok(if left.is_empty() { Look::Done(since.elapsed()) } else { Look::not_yet(format!("{left:?}")) })
    })
    .await
}

/// Whether NATS refuses the holder of a seed.
async fn shut_out(fleet: &Fleet, seed: &str) -> Result<bool> {
    Ok(RawClient::as_device(&fleet.nats, &nkeys::KeyPair::from_seed(seed)?).await.is_err())
}

#[expect(clippy::print_stdout, reason = "a figure for whoever reads the test's output")]
fn figure(what: &str, time: Duration) {
    println!("{what}: {:.2} s", time.as_secs_f64());
}

async fn a_deleted_node_is_out_within_five_seconds_and_stays_out(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "revoked").await?;
    let sleeper = json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": "alpha" });
    scene.apply(&pod("doomed", &sleeper)).await?;
    scene.ready("doomed").await?;
    let device = fleet.device("alpha")?;
    ensure!(!device.podman.running().await?.is_empty(), "nothing runs");
    ensure!(fleet.nats.connections_of("device:alpha").await?.len() == 1, "alpha is not connected");

    let began = Instant::now();
    fleet.kubectl.run("delete node alpha --wait=false").await?;
    figure("from kubectl delete node to the end of the connection", out(fleet, "alpha", began, OUT).await?);
    until("what it ran to be stopped", PATIENCE, async || {
        let running = device.podman.running().await?;
        Ok(if running.is_empty() { Look::Done(()) } else { Look::not_yet(format!("{running:?}")) })
    })
    .await?;
    figure("from kubectl delete node to the end of its pods", began.elapsed());
    stays("being out", Duration::from_secs(12), async || {
        let connected = fleet.nats.connections_of("device:alpha").await?;
        let node = fleet.kubectl.ask("get node alpha").await?;
        Ok(match connected.is_empty() && !node.ok() {
            true => Look::Done(()),
            false => Look::not_yet(format!("{connected:?} {node}")),
        })
    })
    .await?;
    ensure!(
        matches!(record(fleet, "alpha").await?.state, RecordState::Revoked(_)),
        "the record says enrolled"
    );
    ensure!(shut_out(fleet, &device.seeds()?.identity).await?, "its key was let in");
    fleet.node_ready("beta", "True", PATIENCE).await?;
    scene.close().await
}

async fn whoever_connects_during_the_deletion_is_out_too(fleet: &Fleet) -> Result<()> {
    let member = Member::enroll(&fleet.nats, &Issued::for_device("racer")?.intent(fleet).await?).await?;
    let mut kept = Vec::new();
    for _ in 0..10 {
        kept.push(member.connect(&fleet.nats).await?);
    }
    let listed = fleet.nats.connections_of("device:racer").await?.len();
    ensure!(listed == kept.len(), "{listed} connections are listed");
    let began = Instant::now();
    let delete = fleet.kubectl.run("delete node racer --wait=false");
    // Some of these are authorized before the callout has heard of the deletion.
    let race = async {
        let mut late = Vec::new();
        while began.elapsed() < Duration::from_secs(3) {
            match RawClient::as_device(&fleet.nats, &member.identity).await {
                Ok(client) => late.push(client),
                Err(_) => break,
            }
        }
        late
    };
    let (deleted, late) = tokio::join!(delete, race);
    deleted?;
    figure(
        &format!("from kubectl delete node to the end of {} connections", kept.len() + late.len()),
        out(fleet, "racer", began, OUT + Duration::from_secs(3)).await?,
    );
    stays("being out", Duration::from_secs(5), async || {
        let connected = fleet.nats.connections_of("device:racer").await?;
        Ok(if connected.is_empty() { Look::Done(()) } else { Look::not_yet(format!("{connected:?}")) })
    })
    .await
}

async fn a_device_that_was_away_learns_it_when_it_comes_back(fleet: &Fleet) -> Result<()> {
    let device = fleet.device("beta")?;
    device.unplug().await?;
    fleet.kubectl.run("delete node beta --wait=false").await?;
    until("the record to say revoked", PATIENCE, async || {
        let state = record(fleet, "beta").await?.state;
        Ok(if state == RecordState::Enrolled { Look::not_yet("enrolled") } else { Look::Done(()) })
    })
    .await?;
    device.plug().await?;
    let began = Instant::now();
    out(fleet, "beta", began, Duration::from_secs(60)).await?;
    ensure!(shut_out(fleet, &device.seeds()?.identity).await?, "its key was let in");
    let status = device.ask("status").await?;
    let said = status.stdout.lines().next().context("no status")?.to_owned();
    ensure!(device.agent.is_running(), "the agent ended; it last said: {said}");
    Ok(())
}
