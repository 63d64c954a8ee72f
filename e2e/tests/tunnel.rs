//! k3s and k3d: the API server reaches nodes only through a proxy that has no way to what a Node lists as
//! its own IP address.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::control_plane::ControlPlaneOptions;
use e2e::egress_proxy::EgressProxy;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, until};
use e2e::workload::{PATIENCE, Scene, pod, shell};
use serde_json::json;

scenarios!(
    options();
    logs_of_two_devices_behind_one_address,
);

/// Short, because a unix socket's path may have 107 characters; of this process, because two runs may meet.
fn socket() -> PathBuf {
    std::env::temp_dir().join(format!("harmony-egress-{}.sock", std::process::id()))
}

fn options() -> FleetOptions {
    let mut options = FleetOptions::with_devices(["alpha", "beta"]);
    options.control_plane =
        ControlPlaneOptions { egress_proxy: Some(socket()), ..ControlPlaneOptions::default() };
    options
}

async fn logs_of_two_devices_behind_one_address(fleet: &Fleet) -> Result<()> {
    let proxy = EgressProxy::start(&socket(), fleet.client().await?)?;
    let scene = Scene::open(fleet, "tunnel").await?;
    for node in ["alpha", "beta"] {
        let container = shell("c", &format!("echo I am on {node}; exec sleep 100000"));
        scene.apply(&pod(node, &json!({ "containers": [container], "nodeName": node }))).await?;
        scene.ready(node).await?;
    }
    for node in ["alpha", "beta"] {
        until(format!("the log of {node}"), PATIENCE, async || {
            let text = scene.kubectl(&format!("logs {node}")).await?;
            Ok(if text == format!("I am on {node}\n") { Look::Done(()) } else { Look::not_yet(text) })
        })
        .await?;
    }
    let seen = proxy.seen();
    ensure!(seen.refused.is_empty(), "the API server asked for tunnels: {seen:?}");
    ensure!(seen.passed.len() == 2, "two devices have two ports of one address: {seen:?}");
    let hosts: std::collections::BTreeSet<_> =
        seen.passed.iter().filter_map(|target| target.rsplit_once(':')).map(|(host, _)| host).collect();
    ensure!(hosts.len() == 1, "{seen:?}");

    // The rule itself bites: an address that any Node lists as its own IP cannot be reached.
    let host = hosts.first().context("no host")?;
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "server" } });
    fleet.kubectl.apply(&node.to_string()).await?;
    let patch = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": host }] } }).to_string();
    let args = ["patch", "node", "server", "--subresource=status", "--type=merge", "--patch", &patch];
    fleet.kubectl.run_args(&args).await?;
    // The API server keeps its connections to nodes, and only a new one asks the proxy.
    fleet.vk()?.crash_and_restart().await?;
    until("the proxy to refuse", PATIENCE, async || {
        let answer = fleet.kubectl.ask("--namespace tunnel logs alpha").await?;
        let refused = !answer.ok() && !proxy.seen().refused.is_empty();
        Ok(if refused { Look::Done(()) } else { Look::not_yet(answer) })
    })
    .await?;
    fleet.kubectl.run("delete node server").await?;
    scene.close().await?;
    Ok(std::fs::remove_file(socket())?)
}
