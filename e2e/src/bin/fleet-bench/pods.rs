//! Starts and deletions on real Podman, one at a time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::bench::quantiles::{Quantiles, tenths};
use e2e::bench::sightings::{Seen, Sightings, between};
use e2e::device::Device;
use e2e::fleet::Fleet;
use e2e::workload;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::DEVICE;
use crate::report::{self, ratio};

/// The label of the pods that are measured.
const LABEL: &str = "bench=start";
/// Runs until SIGTERM, at which it ends at once; a shell without the trap would not, as process 1.
pub const PROGRAM: &str = "trap 'exit 0' TERM; sleep 3600 & wait";
const IMAGE: &str = "localhost/hello:v1";
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod that is `PROGRAM` on the real device.
pub fn pod(name: &str) -> Result<Pod> {
    let pod = workload::pod(
        name,
        &json!({
            "nodeSelector": { "kubernetes.io/hostname": DEVICE },
            "terminationGracePeriodSeconds": 30,
            "containers": [workload::shell("main", PROGRAM)],
        }),
    );
    let mut pod: Pod = serde_json::from_value(pod)?;
    pod.metadata.labels = Some([("bench".to_owned(), "start".to_owned())].into());
    Ok(pod)
}

/// Starts and deletes `count` pods, and as many with Podman alone, in turns.
pub async fn measure(fleet: &Fleet, count: usize) -> Result<report::Pods> {
    tracing::info!("starting {count} pods, one at a time");
    let api: Api<Pod> = Api::default_namespaced(fleet.client().await?);
    let sightings = Sightings::begin(api.clone(), LABEL).await?;
    let device = fleet.device(DEVICE)?;

    // The first pod of a device and of Podman pays for what the others find in place.
    one(&api, &sightings, "warm-up").await?;
    with_podman(device).await?;
    let (mut ours, mut podman) = (Vec::new(), Vec::new());
    for number in 0..count {
        ours.push(one(&api, &sightings, &format!("start-{number}")).await?);
        podman.push(with_podman(device).await?);
    }

    let seen: Vec<Seen> = ours.iter().map(|(seen, _)| *seen).collect();
    let quantiles = |times: Vec<Duration>| Quantiles::of(times).context("no pod was started");
    let created_to_running = quantiles(between(&seen, |seen| seen.created, |seen| seen.up).collect())?;
    let podman_pod_create_and_run = quantiles(podman.iter().map(|times| times.pod).collect())?;
    Ok(report::Pods {
        created_to_running,
        bound_to_running: quantiles(between(&seen, |seen| seen.bound, |seen| seen.up).collect())?,
        delete_to_gone: quantiles(ours.iter().map(|(_, gone)| *gone).collect())?,
        podman_pod_create_and_run,
        podman_run: quantiles(podman.iter().map(|times| times.run).collect())?,
        podman_pod_remove: quantiles(podman.iter().map(|times| times.remove).collect())?,
        ratio_p50: ratio(created_to_running.p50, podman_pod_create_and_run.p50),
        over_podman_p50: tenths(created_to_running.p50 - podman_pod_create_and_run.p50),
    })
}

/// One pod's moments, and how long its deletion took.
async fn one(api: &Api<Pod>, sightings: &Sightings, name: &str) -> Result<(Seen, Duration)> {
    api.create(&PostParams::default(), &pod(name)?).await?;
    let seen = sightings.of(name, PATIENCE, |seen| seen.up).await?;
    let asked = Instant::now();
    api.delete(name, &DeleteParams::default()).await?;
    let gone = sightings.of(name, PATIENCE, |seen| seen.gone).await?.gone.context("it is gone")?;
    Ok((seen, gone.saturating_duration_since(asked)))
}

struct PodmanTimes {
    pod: Duration,
    run: Duration,
    remove: Duration,
}

/// What a person at the device would type for the same.
async fn with_podman(device: &Device) -> Result<PodmanTimes> {
    let podman = &device.podman;
    let program = ["sh", "-c", PROGRAM];
    let run = async |options: &[&str]| -> Result<()> {
        let line = [&["run", "--detach", "--pull", "never"], options, &[IMAGE], &program].concat();
        podman.ask_args(&line).await?.success().map(drop)
    };

    let began = Instant::now();
    podman.run("pod create --name bench").await?;
    run(&["--pod", "bench"]).await?;
    let pod = began.elapsed();

    let began = Instant::now();
    podman.run("pod stop --time 30 bench").await?;
    podman.run("pod rm --force bench").await?;
    let remove = began.elapsed();

    let began = Instant::now();
    run(&["--name", "bench-alone"]).await?;
    let alone = began.elapsed();
    podman.run("rm --force --time 0 bench-alone").await?;
    Ok(PodmanTimes { pod, run: alone, remove })
}
