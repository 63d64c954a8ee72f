//! A thousand devices under `vk-nats`, then as many nodes under kwok, on one control plane.
//!
//! Both do the same, one after the other, and the other's nodes are gone meanwhile: nodes that exist in the
//! API become Ready; a Deployment's pods, placed by the scheduler, run; nothing happens for a while; the
//! Deployment is scaled to nothing. The simulated devices use the same processor as everything else, which
//! kwok has no counterpart of.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::bench::process_figures::{Memory, Usage, Used};
use e2e::bench::quantiles::{Quantiles, hundredths, rate};
use e2e::bench::sightings::{Seen, Sightings, between, until_last};
use e2e::fleet::Fleet;
use e2e::process::Process;
use e2e::workload;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::idle::pid;
use crate::report::{Phase, Ratios, Scale, Scaled, Scaling};
use crate::{kwok, simulation};

/// The label that tells whose nodes and pods these are.
const LABEL: &str = "bench";
const OURS: &str = "sim";
const THEIRS: &str = "kwok";
const PATIENCE: Duration = Duration::from_secs(600);
/// Between the last pod and the watched idle time: last statuses and Events are on their way.
const SETTLED: Duration = Duration::from_secs(20);

/// Measures both.
pub async fn measure(fleet: &Fleet, devices: usize, pods: usize, window: Duration) -> Result<Scale> {
    tracing::info!("enrolling {devices} simulated devices");
    let simulation = simulation::prepare(fleet, devices, (LABEL, OURS)).await?;
    let vk = &fleet.vk()?.process;
    let run = Run { fleet, devices, pods, window };
    let ours = run.program(OURS, &simulation, vk, Some(&simulation)).await?;
    simulation.stop(Duration::from_secs(30)).await?;
    run.remove_nodes(OURS).await?;

    tracing::info!("making {devices} nodes for kwok");
    let nodes: Api<Node> = Api::all(fleet.client().await?);
    stream::iter(0..devices)
        .map(|number| {
            let nodes = &nodes;
            async move {
                nodes.create(&PostParams::default(), &kwok::node(number, (LABEL, THEIRS))?).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(8)
        .try_collect::<()>()
        .await?;
    let kwok = kwok::process(fleet).await?;
    let theirs = run.program(THEIRS, &kwok, &kwok, None).await?;
    kwok.stop(Duration::from_secs(30)).await?;
    run.remove_nodes(THEIRS).await?;

    let (vk_nats, kwok) = (ours.scaled, theirs.scaled);
    let simulation = ours.beside.context("the simulated devices were not measured")?;
    Ok(Scale { devices, pods, ratios: Ratios::of(&vk_nats, &kwok), vk_nats, simulation, kwok })
}

struct Run<'a> {
    fleet: &'a Fleet,
    devices: usize,
    pods: usize,
    window: Duration,
}

/// What one program did, and what another process beside it used for that.
struct Outcome {
    scaled: Scaled,
    beside: Option<Scaling>,
}

impl Run<'_> {
    /// Starts `starts`, whereupon Nodes become Ready, and measures `program`.
    async fn program(
        &self,
        whose: &str,
        starts: &Process,
        program: &Process,
        beside: Option<&Process>,
    ) -> Result<Outcome> {
        let client = self.fleet.client().await?;
        let selector = format!("{LABEL}={whose}");
        let nodes = Sightings::begin(Api::<Node>::all(client.clone()), &selector).await?;
        let pods = Sightings::begin(Api::<Pod>::default_namespaced(client.clone()), &selector).await?;
        let deployments: Api<Deployment> = Api::default_namespaced(client);
        let runs = program.is_running();

        tracing::info!("{whose}: waiting for {} Nodes to be Ready", self.devices);
        let before = if runs { Some(Usage::of(pid(program)?)?) } else { None };
        let began = Instant::now();
        starts.start().await?;
        let seen = nodes.all(self.devices, PATIENCE, |seen| seen.up).await?;
        let pid_of = pid(program)?;
        let used = match before {
            Some(before) => Usage::of(pid_of)?.since(&before).cpu_seconds,
            None => Usage::of(pid_of)?.total_cpu_seconds(),
        };
        let nodes_ready = phase(self.devices, until_last(began, &seen, |seen| seen.up), used);
        let beside_nodes = beside.map(pid).transpose()?.map(Usage::of).transpose()?;
        drop(nodes);

        tracing::info!("{whose}: waiting for {} pods to run", self.pods);
        let before = Usage::of(pid_of)?;
        let began = Instant::now();
        deployments.create(&PostParams::default(), &self.deployment(whose)?).await?;
        let seen = pods.all(self.pods, PATIENCE, |seen| seen.up).await?;
        let used = Usage::of(pid_of)?.since(&before).cpu_seconds;
        let pods_running = phase(self.pods, until_last(began, &seen, |seen| seen.up), used);
        let pods_bound_per_second = rate(self.pods, until_last(began, &seen, |seen| seen.bound));
        let bound_to_running = Quantiles::of(between(&seen, |seen| seen.bound, |seen| seen.up));
        let beside_pods = beside.map(pid).transpose()?.map(Usage::of).transpose()?;

        tokio::time::sleep(SETTLED).await;
        tracing::info!("{whose}: watching it idle for {} s", self.window.as_secs());
        let beside_idle = beside.map(pid).transpose()?.map(Usage::of).transpose()?;
        let before = Usage::of(pid_of)?;
        tokio::time::sleep(self.window).await;
        let idle = Usage::of(pid_of)?.since(&before);
        let memory = Memory::of(pid_of)?;
        let beside = match (beside, beside_nodes, beside_pods, beside_idle) {
            (Some(process), Some(nodes), Some(pods), Some(idle)) => {
                Some(scaling(pid(process)?, &nodes, &pods, &idle)?)
            }
            _ => None,
        };

        tracing::info!("{whose}: deleting {} pods", self.pods);
        let before = Usage::of(pid_of)?;
        let began = Instant::now();
        let scale = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
        deployments.patch(whose, &PatchParams::default(), &scale).await?;
        let seen = pods.all(self.pods, PATIENCE, |seen| seen.gone).await?;
        let used = Usage::of(pid_of)?.since(&before).cpu_seconds;
        let pods_deleted = phase(self.pods, until_last(began, &seen, |seen: &Seen| seen.gone), used);
        deployments.delete(whose, &DeleteParams::default()).await?;

        let bound_to_running = bound_to_running.context("no pod was seen from its binding on")?;
        let scaled = Scaled {
            nodes_ready,
            pods_running,
            pods_bound_per_second,
            bound_to_running,
            pods_deleted,
            memory,
            idle,
        };
        Ok(Outcome { scaled, beside })
    }

    fn deployment(&self, whose: &str) -> Result<Deployment> {
        let labels = json!({ (LABEL): whose });
        let mut spec = workload::on_devices();
        spec["nodeSelector"] = labels.clone();
        // A name that means nothing to the simulation: it runs until it is asked to end.
        spec["containers"] =
            json!([{ "name": "main", "image": "localhost/hello:v1", "command": ["/bin/serve"] }]);
        let deployment = json!({
            "metadata": { "name": whose },
            "spec": {
                "replicas": self.pods,
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels }, "spec": spec },
            },
        });
        serde_json::from_value(deployment).context("the Deployment is none")
    }

    async fn remove_nodes(&self, whose: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.fleet.client().await?);
        let of_program = ListParams::default().labels(&format!("{LABEL}={whose}"));
        nodes.delete_collection(&DeleteParams::default(), &of_program).await?;
        Ok(())
    }
}

fn phase(count: usize, took: Duration, cpu_seconds: f64) -> Phase {
    Phase { seconds: hundredths(took.as_secs_f64()), per_second: rate(count, took), cpu_seconds }
}

/// `nodes`, `pods`, `idle`: the devices' process when all Nodes were Ready, when all pods ran, and when
/// the idle time began.
fn scaling(pid: i32, nodes: &Usage, pods: &Usage, idle: &Usage) -> Result<Scaling> {
    let between: Used = pods.since(nodes);
    Ok(Scaling {
        nodes_ready_cpu_seconds: nodes.total_cpu_seconds(),
        pods_running_cpu_seconds: between.cpu_seconds,
        memory: Memory::of(pid)?,
        idle: Usage::of(pid)?.since(idle),
    })
}
