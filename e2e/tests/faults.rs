//! What goes wrong in a fleet: crashes, reboots, cut cables, servers that go away. Nothing is lost,
//! doubled or stuck.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use e2e::workload::{PATIENCE, Scene, daemon_set, pod, shell};
use serde_json::{Value, json};

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]);
    a_crashed_agent_adopts_what_runs,
    a_crash_of_the_cluster_side_disturbs_nothing,
    a_silent_device_is_not_ready_and_comes_back,
    a_device_that_reboots_without_network_runs_its_pods,
    nats_goes_away_in_the_middle_of_a_rollout,
    the_api_server_goes_away_in_the_middle_of_a_rollout,
    both_sides_crash_during_a_rollout,
    whoever_crashes_at_whatever_moment_of_a_rollout_loses_nothing,
    a_pod_deleted_while_its_device_is_away_is_stopped_later,
);

/// The container ids that run on a device, in order: the same before and after means that nothing was
/// restarted or doubled.
async fn running(fleet: &Fleet, device: &str) -> Result<Vec<String>> {
    let listed = fleet.device(device)?.podman.run("ps --no-trunc --quiet").await?;
    let mut ids: Vec<String> = listed.lines().map(str::to_owned).collect();
    ids.sort();
    Ok(ids)
}

fn sleeper(name: &str, node: &str) -> Value {
    pod(name, &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": node }))
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
}

async fn a_crashed_agent_adopts_what_runs(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "adopts").await?;
    scene.apply(&sleeper("stays", "alpha")).await?;
    scene.ready("stays").await?;
    let before = running(fleet, "alpha").await?;
    let device = fleet.device("alpha")?;
    device.agent.kill().await?;
    // Wanted while the agent is dead: made when it is back.
    scene.apply(&sleeper("new", "alpha")).await?;
    device.agent.start().await?;
    scene.ready("new").await?;
    let after = running(fleet, "alpha").await?;
    ensure!(before.iter().all(|id| after.contains(id)), "{before:?} became {after:?}");
    ensure!(after.len() == 2 * before.len(), "{before:?} became {after:?}");
    ensure!(restarts(&scene.json("get pod stays").await?) == 0);
    scene.close().await
}

async fn a_crash_of_the_cluster_side_disturbs_nothing(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "disturbs").await?;
    for node in ["alpha", "beta"] {
        scene.apply(&sleeper(&format!("on-{node}"), node)).await?;
        scene.ready(&format!("on-{node}")).await?;
    }
    let before = (running(fleet, "alpha").await?, running(fleet, "beta").await?);
    fleet.vk()?.process.kill().await?;
    scene.apply(&sleeper("meanwhile", "alpha")).await?;
    scene.kubectl("delete pod on-beta --wait=false").await?;
    fleet.vk()?.start().await?;
    scene.ready("meanwhile").await?;
    scene.kubectl("wait --for=delete pod/on-beta --timeout 60s").await?;
    let after = running(fleet, "alpha").await?;
    ensure!(before.0.iter().all(|id| after.contains(id)), "{before:?} became {after:?}");
    for node in ["alpha", "beta"] {
        fleet.node_ready(node, "True", PATIENCE).await?;
    }
    scene.close().await
}

async fn a_silent_device_is_not_ready_and_comes_back(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "silent").await?;
    scene.apply(&daemon_set("web", &json!({ "containers": [shell("c", "exec sleep 100000")] }))).await?;
    scene.kubectl("rollout status daemonset/web --timeout 90s").await?;
    let before = running(fleet, "beta").await?;
    let device = fleet.device("beta")?;
    device.unplug().await?;
    fleet.node_ready("beta", "Unknown", Duration::from_secs(120)).await?;
    let answer = device.ask("pods").await?.success()?;
    ensure!(answer.contains("Running"), "without network: {answer}");
    device.plug().await?;
    fleet.node_ready("beta", "True", Duration::from_secs(90)).await?;
    ensure!(before == running(fleet, "beta").await?, "something was restarted");
    scene
        .until("daemonset/web", "two ready pods", PATIENCE, |seen| {
            if seen["status"]["numberReady"] == 2 { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await?;
    scene.close().await
}

async fn a_device_that_reboots_without_network_runs_its_pods(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "reboots").await?;
    scene.apply(&daemon_set("web", &json!({ "containers": [shell("c", "exec sleep 100000")] }))).await?;
    scene.kubectl("rollout status daemonset/web --timeout 90s").await?;
    let count = running(fleet, "alpha").await?.len();
    let device = fleet.device("alpha")?;
    fleet.nats.server.stop(Duration::from_secs(20)).await?;
    device.power_off().await?;
    device.power_on().await?;
    until("the pods to run again without network", PATIENCE, async || {
        let now = running(fleet, "alpha").await?;
        Ok(if now.len() == count { Look::Done(()) } else { Look::not_yet(format!("{now:?}")) })
    })
    .await?;
    fleet.nats.start().await?;
    fleet.node_ready("alpha", "True", Duration::from_secs(90)).await?;
    scene
        .until("daemonset/web", "two ready pods", PATIENCE, |seen| {
            if seen["status"]["numberReady"] == 2 { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await?;
    ensure!(running(fleet, "alpha").await?.len() == count, "something was doubled");
    scene.close().await
}

/// Rolls a DaemonSet out while something happens, and sees it through.
async fn during_a_rollout(
    fleet: &Fleet,
    scene: &'static str,
    what: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let scene = Scene::open(fleet, scene).await?;
    let set = |word: &str| {
        daemon_set("web", &json!({ "containers": [shell("c", &format!("echo {word}; exec sleep 100000"))] }))
    };
    scene.apply(&set("one")).await?;
    scene.kubectl("rollout status daemonset/web --timeout 90s").await?;
    scene.apply(&set("two")).await?;
    what().await?;
    until("the API server to answer", PATIENCE, async || {
        scene.kubectl("get daemonset web").await.map(Look::Done)
    })
    .await?;
    scene.kubectl("rollout status daemonset/web --timeout 180s").await?;
    let pods = scene.json("get pods --field-selector status.phase=Running").await?;
    let pods = pods["items"].as_array().context("no pods")?;
    ensure!(pods.len() == 2, "{pods:?}");
    for device in fleet.devices() {
        // One container and the sandbox's own.
        until("exactly one pod on the device", PATIENCE, async || {
            let pods = device.podman.run("pod ps --quiet").await?;
            let count = pods.lines().count();
            Ok(if count == 1 { Look::Done(()) } else { Look::not_yet(format!("{count} pods")) })
        })
        .await?;
    }
    scene.close().await
}

async fn nats_goes_away_in_the_middle_of_a_rollout(fleet: &Fleet) -> Result<()> {
    during_a_rollout(fleet, "without-nats", async || {
        fleet.nats.server.kill().await?;
        fleet.nats.start().await
    })
    .await
}

async fn the_api_server_goes_away_in_the_middle_of_a_rollout(fleet: &Fleet) -> Result<()> {
    during_a_rollout(fleet, "without-api", async || {
        fleet.control_plane.apiserver.kill().await?;
        fleet.control_plane.start_apiserver().await
    })
    .await?;
    if !fleet.vk()?.process.is_running() {
        anyhow::bail!("vk-nats ended with the API server:\n{}", fleet.vk()?.process.log_tail(20));
    }
    Ok(())
}

async fn both_sides_crash_during_a_rollout(fleet: &Fleet) -> Result<()> {
    during_a_rollout(fleet, "crashes", async || {
        for device in fleet.devices() {
            device.agent.kill().await?;
        }
        fleet.vk()?.process.kill().await?;
        for device in fleet.devices() {
            device.agent.start().await?;
        }
        fleet.vk()?.start().await?;
        for device in fleet.devices() {
            device.agent.kill().await?;
            device.agent.start().await?;
        }
        Ok(())
    })
    .await
}

/// A rollout takes some three seconds: other moments each time, and what they were in the error.
async fn whoever_crashes_at_whatever_moment_of_a_rollout_loses_nothing(fleet: &Fleet) -> Result<()> {
    for scene in ["at-random-1", "at-random-2", "at-random-3"] {
        let moments: [Duration; 3] = std::array::from_fn(|_| {
            let random = RandomState::new().build_hasher().finish();
            Duration::from_millis(random % 3000)
        });
        let agent_crashes = async |device: usize| -> Result<()> {
            // Not to wait for something, but to meet it in the middle of whatever it does.
            tokio::time::sleep(moments[device]).await;
            let agent = &fleet.devices()[device].agent;
            agent.kill().await?;
            agent.start().await
        };
        let cluster_side_crashes = async || -> Result<()> {
            tokio::time::sleep(moments[2]).await;
            fleet.vk()?.process.kill().await?;
            fleet.vk()?.start().await
        };
        during_a_rollout(fleet, scene, async || {
            tokio::try_join!(agent_crashes(0), agent_crashes(1), cluster_side_crashes()).map(drop)
        })
        .await
        .with_context(|| format!("killed after {moments:?}: the agents, the cluster side"))?;
    }
    Ok(())
}

async fn a_pod_deleted_while_its_device_is_away_is_stopped_later(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "away").await?;
    scene.apply(&sleeper("doomed", "beta")).await?;
    scene.ready("doomed").await?;
    let device = fleet.device("beta")?;
    device.unplug().await?;
    scene.kubectl("delete pod doomed --wait=false").await?;
    stays("the pod in the API while its device is away", Duration::from_secs(5), async || {
        let answer = fleet.kubectl.ask("--namespace away get pod doomed").await?;
        Ok(if answer.ok() { Look::Done(()) } else { Look::not_yet(answer) })
    })
    .await?;
    device.plug().await?;
    scene.kubectl("wait --for=delete pod/doomed --timeout 90s").await?;
    ensure!(running(fleet, "beta").await?.is_empty(), "the container outlived its pod");
    fleet.node_ready("beta", "True", PATIENCE).await?;
    scene.close().await
}
