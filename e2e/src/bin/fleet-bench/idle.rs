//! An agent with one running pod and nothing to do.

use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::answer::Answer;
use e2e::bench::process_figures::{Memory, Usage};
use e2e::bench::quantiles::tenths;
use e2e::bench::sightings::Sightings;
use e2e::fleet::Fleet;
use e2e::process::Process;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};

use crate::DEVICE;
use crate::pods::pod;
use crate::report::Idle;

const NAME: &str = "idle";
/// After this the start of the pod is no longer part of what is measured: the last status is on its way
/// for a moment, and threads for files end after 10 s without work.
const SETTLED: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// Watches the agent for a while.
pub async fn measure(fleet: &Fleet, window: Duration) -> Result<Idle> {
    tracing::info!("watching an idle agent for {} s", window.as_secs());
    let api: Api<Pod> = Api::default_namespaced(fleet.client().await?);
    let sightings = Sightings::begin(api.clone(), "bench=start").await?;
    api.create(&PostParams::default(), &pod(NAME)?).await?;
    sightings.of(NAME, PATIENCE, |seen| seen.up).await?;
    tokio::time::sleep(SETTLED).await;

    let device = fleet.device(DEVICE)?;
    let (agent, podman) = (pid(&device.agent)?, pid(&device.podman.service)?);
    let traffic_before = Traffic::of(fleet).await?;
    let (agent_before, podman_before) = (Usage::of(agent)?, Usage::of(podman)?);
    tokio::time::sleep(window).await;
    let used = Usage::of(agent)?.since(&agent_before);
    let podman_service_used = Usage::of(podman)?.since(&podman_before);
    let traffic = Traffic::of(fleet).await?;
    let (memory, podman_service_memory) = (Memory::of(agent)?, Memory::of(podman)?);

    api.delete(NAME, &DeleteParams::default()).await?;
    sightings.of(NAME, PATIENCE, |seen| seen.gone).await?;
    let a_minute = |bytes: u64| {
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        tenths(bytes * 60.0 / used.seconds.max(1e-9))
    };
    Ok(Idle {
        memory,
        used,
        wake_ups_per_minute: a_minute(used.wake_ups),
        podman_service_wake_ups_per_minute: a_minute(podman_service_used.wake_ups),
        sent_bytes_per_minute: a_minute(traffic.sent - traffic_before.sent),
        received_bytes_per_minute: a_minute(traffic.received - traffic_before.received),
        disk_written_bytes_per_minute: a_minute(used.disk_written_bytes),
        podman_service_memory,
        podman_service_used,
    })
}

/// The process id of what has to run.
pub fn pid(process: &Process) -> Result<i32> {
    let identity = process.identity().filter(|identity| identity.is_running());
    identity.map(|identity| identity.pid).with_context(|| format!("{} does not run", process.name()))
}

/// Bytes on the device's only network interface to the outside.
struct Traffic {
    sent: u64,
    received: u64,
}

impl Traffic {
    async fn of(fleet: &Fleet) -> Result<Self> {
        let mut command = fleet.network.device(0).command("cat");
        let table = Answer::of(command.arg("/proc/net/dev")).await?.success()?;
        let numbers: Vec<u64> = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("eth0:"))
            .context("the device has no eth0")?
            .split_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        // Eight columns of what was received, then as many of what was sent; bytes come first.
        match (numbers.first(), numbers.get(8)) {
            (Some(&received), Some(&sent)) => Ok(Self { sent, received }),
            _ => anyhow::bail!("/proc/net/dev has another form: {table}"),
        }
    }
}
