//! A rollout over a fleet of which a part is switched off.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::workload::{Scene, daemon_set, shell};
use serde_json::json;

scenarios!(
    FleetOptions::with_devices(["d1", "d2", "d3", "d4", "d5"]);
    two_of_five_devices_are_off,
);

async fn two_of_five_devices_are_off(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "part").await?;
    let set = |word: &str| {
        let container = shell("c", &format!("echo {word}; exec sleep 100000"));
        let mut set = daemon_set("web", &json!({ "containers": [container] }));
        // An offline device counts as unavailable: more than the expected share may be so.
        set["spec"]["updateStrategy"] =
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 3 } });
        set
    };
    scene.apply(&set("one")).await?;
    scene.kubectl("rollout status daemonset/web --timeout 120s").await?;
    for name in ["d4", "d5"] {
        fleet.device(name)?.power_off().await?;
    }
    for name in ["d4", "d5"] {
        fleet.node_ready(name, "Unknown", Duration::from_secs(120)).await?;
    }
    scene.apply(&set("two")).await?;
    let updated = |count: u64| {
        move |set: &serde_json::Value| {
            let status = &set["status"];
            let current = status["observedGeneration"] == set["metadata"]["generation"];
            if current && status["updatedNumberScheduled"] == count && status["numberAvailable"] == count {
                Ok(())
            } else {
                Err(status.to_string())
            }
        }
    };
    // The three that are on go on; the pods of the two that are off wait for their devices.
    scene
        .until("daemonset/web", "three updated pods", Duration::from_secs(120), |set| {
            let status = &set["status"];
            if status["observedGeneration"] == set["metadata"]["generation"]
                && status["numberAvailable"].as_u64() >= Some(3)
                && status["updatedNumberScheduled"].as_u64() >= Some(3)
            {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
        .await?;
    for name in ["d4", "d5"] {
        fleet.device(name)?.power_on().await?;
    }
    scene.until("daemonset/web", "five updated pods", Duration::from_secs(150), updated(5)).await?;
    let pods = scene.json("get pods --field-selector status.phase=Running").await?;
    let pods = pods["items"].as_array().context("no pods")?;
    ensure!(pods.len() == 5, "{pods:?}");
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        ensure!(scene.kubectl(&format!("logs {name}")).await? == "two\n", "{name} is an old one");
    }
    scene.close().await
}
