//! All devices lose the server at once; then some of them are revoked, one after the other.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::bench::process_figures::Usage;
use e2e::bench::quantiles::{Quantiles, hundredths};
use e2e::bench::sightings::Sightings;
use e2e::fleet::Fleet;
use e2e::process::Process;
use e2e::wait::{Look, until};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, DeleteParams, ListParams};

use crate::idle::pid;
use crate::report::{Revocation, Storm};
use crate::simulation;

const LABEL: (&str, &str) = ("bench", "storm");
const PATIENCE: Duration = Duration::from_secs(600);
/// Last statuses are on their way; every device has sent a few heartbeats.
const SETTLED: Duration = Duration::from_secs(20);
/// Listing thousands of connections or Leases takes the server some time, too.
const PAUSE: Duration = Duration::from_millis(300);

/// Measures both with `devices` simulated devices, of which `revoked` are revoked.
pub async fn measure(fleet: &Fleet, devices: usize, revoked: usize) -> Result<(Storm, Revocation)> {
    tracing::info!("enrolling {devices} simulated devices");
    let simulation = simulation::prepare(fleet, devices, LABEL).await?;
    let nodes: Api<Node> = Api::all(fleet.client().await?);
    let sightings = Sightings::begin(nodes.clone(), &format!("{}={}", LABEL.0, LABEL.1)).await?;
    simulation.start().await?;
    sightings.all(devices, PATIENCE, |seen| seen.up).await?;
    tokio::time::sleep(SETTLED).await;
    let not_ready = sightings.count(|seen| seen.down);
    ensure!(not_ready == 0, "{not_ready} Nodes went down before anything happened");

    let storm = storm(fleet, devices, &simulation, &sightings).await?;
    let revocation = revocation(fleet, devices, revoked, &nodes).await?;
    ensure!(simulation.is_running(), "the simulated devices ended meanwhile");

    simulation.stop(Duration::from_secs(30)).await?;
    let ours = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
    nodes.delete_collection(&DeleteParams::default(), &ours).await?;
    Ok((storm, revocation))
}

async fn storm(fleet: &Fleet, devices: usize, simulation: &Process, sightings: &Sightings) -> Result<Storm> {
    tracing::info!("killing nats-server under {devices} devices");
    let callout = fleet.callouts.iter().map(|callout| pid(&callout.process)).collect::<Result<Vec<_>>>()?;
    let processes: Vec<i32> =
        [pid(&fleet.vk()?.process)?, pid(simulation)?].into_iter().chain(callout).collect();
    let before = processes.iter().map(|pid| Usage::of(*pid)).collect::<Result<Vec<_>>>()?;
    let (killed, killed_at) = (Instant::now(), Timestamp::now());
    fleet.nats.server.kill().await?;
    // The kernel takes a moment to give back the ports of a process with so many connections.
    until("nats-server to be back", PATIENCE, async || fleet.nats.start().await.map(Look::Done)).await?;
    let server_back = killed.elapsed();
    let mut half = None;
    let connected = until("all devices to be connected", PATIENCE, async || {
        let connected = connected(fleet).await?;
        if connected * 2 >= devices {
            half.get_or_insert(killed.elapsed());
        }
        Ok(look(connected, devices, killed).await)
    })
    .await?;
    let leases: Api<Lease> = Api::namespaced(fleet.client().await?, "kube-node-lease");
    let renewed = until("all devices' Leases to be renewed", PATIENCE, async || {
        let leases = leases.list(&ListParams::default()).await?;
        let ours = leases.items.into_iter().filter(|lease| is_ours(lease.metadata.name.as_deref()));
        let renewed = ours.filter_map(|lease| lease.spec?.renew_time).filter(|time| time.0 > killed_at);
        Ok(look(renewed.count(), devices, killed).await)
    })
    .await?;
    let used =
        before.iter().zip(&processes).map(|(before, pid)| Ok(Usage::of(*pid)?.since(before).cpu_seconds));
    let used: Vec<f64> = used.collect::<Result<_>>()?;
    let [vk_cpu_seconds, simulation_cpu_seconds, callouts @ ..] = used.as_slice() else {
        anyhow::bail!("processes without figures")
    };
    let seconds = |time: Duration| hundredths(time.as_secs_f64());
    Ok(Storm {
        devices,
        server_back_seconds: seconds(server_back),
        half_connected_seconds: seconds(half.unwrap_or(connected)),
        connected_seconds: seconds(connected),
        leases_renewed_seconds: seconds(renewed),
        nodes_not_ready: sightings.count(|seen| seen.down),
        callout_cpu_seconds: hundredths(callouts.iter().sum()),
        vk_cpu_seconds: *vk_cpu_seconds,
        simulation_cpu_seconds: *simulation_cpu_seconds,
    })
}

async fn revocation(fleet: &Fleet, devices: usize, revoked: usize, nodes: &Api<Node>) -> Result<Revocation> {
    tracing::info!("revoking {revoked} devices");
    let mut times = Vec::new();
    for number in 0..revoked {
        let name = format!("{}-{number}", LABEL.1);
        let user = format!("device:{name}");
        ensure!(fleet.nats.connections_of(&user).await?.len() == 1, "{name} is not connected");
        let began = Instant::now();
        nodes.delete(&name, &DeleteParams::default()).await?;
        let out = until(format!("{name} to be thrown out"), PATIENCE, async || {
            let left = fleet.nats.connections_of(&user).await?;
            Ok(if left.is_empty() { Look::Done(began.elapsed()) } else { Look::not_yet("connected") })
        });
        times.push(out.await?);
    }
    // They are out because they were thrown out, not because all are.
    let left = connected(fleet).await?;
    ensure!(left + revoked == devices, "{left} devices are connected, of {devices} {revoked} were revoked");
    let disconnected = Quantiles::of(times);
    Ok(Revocation { connected: devices, disconnected })
}

async fn look(found: usize, wanted: usize, since: Instant) -> Look<Duration> {
    if found >= wanted {
        return Look::Done(since.elapsed());
    }
    tokio::time::sleep(PAUSE).await;
    Look::not_yet(format!("{found} of {wanted}"))
}

async fn connected(fleet: &Fleet) -> Result<usize> {
    let connections = fleet.nats.connections().await?;
    let users: std::collections::BTreeSet<String> =
        connections.into_iter().map(|client| client.authorized_user).collect();
    Ok(users.iter().filter(|user| is_ours(user.strip_prefix("device:"))).count())
}

fn is_ours(name: Option<&str>) -> bool {
    name.and_then(|name| name.strip_prefix(LABEL.1)).is_some_and(|rest| rest.starts_with('-'))
}
