//! Sealing by itself, and a log stream in which everything is sealed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::bench::process_figures::Usage;
use e2e::bench::quantiles::{hundredths, tenths};
use e2e::bench::sightings::Sightings;
use e2e::fleet::Fleet;
use e2e::wait::{Look, until};
use fleet_wire::keys::FleetKeys;
use fleet_wire::name::{KeyVersion, OwnerEpoch};
use fleet_wire::session::{Arrival, DeviceSession, FleetSession};
use fleet_wire::stream::MAX_CHUNK;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use nkeys::XKey;

use crate::DEVICE;
use crate::authorizer::each_us;
use crate::idle::pid;
use crate::pods::pod;
use crate::report::{LogStream, Sealed, Sealing};

const CHUNKS: usize = 2000;
const MESSAGES: usize = 5000;
/// Of the body of a message.
const MESSAGE_BYTES: usize = 1024;
const NAME: &str = "log";
/// Of the log that the container writes.
const LOG_BYTES: usize = 32 * 1024 * 1024;
const READS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(180);

/// Measures both.
pub async fn measure(fleet: &Fleet) -> Result<Sealing> {
    tracing::info!("sealing and opening");
    let (chunks, messages) = tokio::task::spawn_blocking(alone).await??;
    let stream = log_stream(fleet, &chunks).await?;
    Ok(Sealing { chunks, messages, stream })
}

/// Two ends of a session, in this thread.
fn alone() -> Result<(Sealed, Sealed)> {
    let (mut device, mut fleet) = session()?;
    let chunk = vec![b'x'; MAX_CHUNK];
    let subject = "bench.stream";
    let sealed = device.seal_frame(subject, 1, &chunk)?;
    let seal_us =
        each_us(CHUNKS, |number| Ok(device.seal_frame(subject, u64::try_from(number)?, &chunk)?))?;
    let open_us = each_us(CHUNKS, |_| Ok(fleet.open_frame(subject, &sealed)?))?;
    let chunks = Sealed::of(MAX_CHUNK, seal_us, open_us);

    // Bytes that compress a little, as names, numbers and times in JSON do.
    let random: Vec<u8> =
        (0..MESSAGE_BYTES * 3 / 4).map(|n| u8::try_from(n * n * 31 % 251)).collect::<Result<_, _>>()?;
    let body = STANDARD.encode(random);
    let mut sealed = Vec::with_capacity(MESSAGES);
    let seal_us = each_us(MESSAGES, |_| {
        sealed.push(device.seal(subject, &body)?.message);
        Ok(())
    })?;
    let open_us = each_us(MESSAGES, |number| match fleet.open(subject, &sealed[number])? {
        Arrival::InSession(opened) => Ok(opened.body::<String>()?),
        Arrival::Hello(_) => anyhow::bail!("a message became a hello"),
    })?;
    Ok((chunks, Sealed::of(body.len(), seal_us, open_us)))
}

fn session() -> Result<(DeviceSession, FleetSession)> {
    let (own, curve, version) = (XKey::new(), XKey::new(), KeyVersion(1));
    let public = XKey::from_public_key(&curve.public_key())?;
    let peer = XKey::from_public_key(&own.public_key())?;
    let fleet_keys = |key| FleetKeys::new(BTreeMap::from([(version, key)]));
    let mut device = DeviceSession::new(DEVICE.parse()?, own, fleet_keys(public)?, OwnerEpoch(0));
    let mut fleet = FleetSession::new(DEVICE.parse()?, peer, fleet_keys(curve)?, OwnerEpoch(1));
    let (hello, answer, first) = ("bench.hello", "bench.answer", "bench.first");
    let message = device.seal_hello(hello, &"hello")?;
    let Arrival::Hello(arrived) = fleet.open(hello, &message)? else { anyhow::bail!("no hello arrived") };
    let message = fleet.accept_hello(&arrived, answer, &"welcome")?;
    device.open_hello_reply::<String>(answer, &message)?;
    fleet.open(first, &device.seal(first, &"first")?.message)?;
    Ok((device, fleet))
}

/// A container writes a log; `kubectl logs` reads all of it, again and again.
async fn log_stream(fleet: &Fleet, chunks: &Sealed) -> Result<LogStream> {
    tracing::info!("reading a log of {} MiB", LOG_BYTES / 1024 / 1024);
    let api: Api<Pod> = Api::default_namespaced(fleet.client().await?);
    let sightings = Sightings::begin(api.clone(), "bench=start").await?;
    let mut writer = pod(NAME)?;
    let line = "2026-01-01T00:00:00Z INFO request method=GET path=/api/v1/items status=200 duration_ms=12";
    let program = format!(
        "yes '{line}' | head -c {LOG_BYTES}; echo; echo written; trap 'exit 0' TERM; sleep 3600 & wait"
    );
    let container = writer.spec.as_mut().and_then(|spec| spec.containers.first_mut());
    container.context("a pod without containers")?.command =
        Some(["sh", "-c", &program].map(str::to_owned).into());
    api.create(&PostParams::default(), &writer).await?;
    sightings.of(NAME, PATIENCE, |seen| seen.up).await?;
    until("the log to be written", PATIENCE, async || {
        let end = fleet.kubectl.run(&format!("logs {NAME} --tail 1")).await?;
        Ok(if end.trim() == "written" { Look::Done(()) } else { Look::not_yet(end) })
    })
    .await?;

    let (agent, vk) = (pid(&fleet.device(DEVICE)?.agent)?, pid(&fleet.vk()?.process)?);
    let server = pid(&fleet.nats.server)?;
    let before = (Usage::of(agent)?, Usage::of(vk)?, Usage::of(server)?);
    let (began, mut bytes) = (Instant::now(), 0);
    for _ in 0..READS {
        let text = fleet.kubectl.run(&format!("logs {NAME}")).await?;
        ensure!(text.len() >= LOG_BYTES, "kubectl logs gave {} bytes only", text.len());
        bytes += text.len();
    }
    let took = began.elapsed().as_secs_f64();
    let megabytes = f64::from(u32::try_from(bytes)?) / 1e6;
    let ms_each = |pid: i32, before: &Usage| -> Result<f64> {
        Ok(tenths(Usage::of(pid)?.since(before).cpu_seconds * 1000.0 / megabytes))
    };
    let agent_cpu_ms = ms_each(agent, &before.0)?;
    let vk_cpu_ms = ms_each(vk, &before.1)?;
    let nats_server_cpu_ms = ms_each(server, &before.2)?;
    api.delete(NAME, &DeleteParams::default()).await?;
    sightings.of(NAME, PATIENCE, |seen| seen.gone).await?;
    let share = |rate: f64, cpu_ms: f64| tenths(100.0 * (1000.0 / rate.max(1e-9)) / cpu_ms.max(1e-9));
    Ok(LogStream {
        megabytes: tenths(megabytes),
        megabytes_per_second: hundredths(megabytes / took),
        agent_cpu_ms,
        vk_cpu_ms,
        nats_server_cpu_ms,
        computed_sealing_percent_of_agent: share(chunks.seal_megabytes_per_second, agent_cpu_ms),
        computed_opening_percent_of_vk: share(chunks.open_megabytes_per_second, vk_cpu_ms),
    })
}
