//! The ground that every other scenario stands on: real control plane, NATS server
//! and two Podmans, without anything of ours.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::answer::Answer;
use e2e::device::Device;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::client::{Login, RawClient};
use e2e::netns::Netns;
use e2e::scenarios;
use e2e::wait::{Look, until};
use serde_json::json;

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]).bare();
    kubectl_works_from_an_ordinary_shell,
    the_control_plane_schedules,
    nats_lets_in_nobody_without_a_callout,
    two_devices_run_the_same_port_and_do_not_see_each_other,
    a_device_reaches_nats_and_nothing_else,
    a_power_cut_leaves_images_and_no_process,
);

async fn kubectl_works_from_an_ordinary_shell(fleet: &Fleet) -> Result<()> {
    let version = fleet.kubectl.json("version").await?;
    ensure!(version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"], "{version}");
    fleet.kubectl.run("get namespace default").await.map(drop)
}

async fn the_control_plane_schedules(fleet: &Fleet) -> Result<()> {
    let objects = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Node", "metadata": { "name": "paper" } },
        { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "waits" },
          "spec": { "containers": [{ "name": "c", "image": "localhost/hello:v1" }],
                    "tolerations": [{ "operator": "Exists" }] } },
    ]});
    fleet.kubectl.apply(&objects.to_string()).await?;
    let status = r#"--patch={"status":{"capacity":{"cpu":"1","memory":"1Gi","pods":"9"},"allocatable":{"cpu":"1","memory":"1Gi","pods":"9"},"conditions":[{"type":"Ready","status":"True"}]}}"#;
    fleet
        .kubectl
        .run_args(&["patch", "node", "paper", "--subresource=status", "--type=merge", status])
        .await?;
    until("the pod to be scheduled", Duration::from_secs(20), async || {
        let pod = fleet.kubectl.json("get pod waits").await?;
        Ok(match pod["spec"]["nodeName"].as_str() {
            Some("paper") => Look::Done(()),
            other => Look::not_yet(format!("nodeName {other:?}")),
        })
    })
    .await?;
    fleet.kubectl.run("delete pod waits --grace-period 0 --force").await?;
    fleet.kubectl.run("delete node paper").await.map(drop)
}

async fn nats_lets_in_nobody_without_a_callout(fleet: &Fleet) -> Result<()> {
    let stranger = nkeys::KeyPair::new_user();
    let mut client = RawClient::open(&fleet.nats).await?;
    let login = Login::key(&stranger, client.nonce())?;
    ensure!(client.login(&login).await?.is_err(), "a stranger's key was let in");
    for login in [json!({}), json!({ "user": "admin", "pass": "admin" }), json!({ "auth_token": "token" })] {
        let mut client = RawClient::open(&fleet.nats).await?;
        ensure!(client.login(&Login(login.clone())).await?.is_err(), "{login} was let in");
    }
    // The server itself works: whom it knows from its configuration, it lets in.
    let observer = fleet.nats.observer().await?;
    let connected = fleet.nats.connections().await?;
    ensure!(connected.len() == 1 && connected[0].account == "FLEET", "{connected:?}");
    drop(observer);
    Ok(())
}

/// A page of the device's own on its port 8080, in a pod `web`; the one of an earlier scenario will do.
async fn serve_page(device: &Device) -> Result<()> {
    if !device.podman.ask("pod exists web").await?.ok() {
        device.podman.run("pod create --name web --publish 8080:8080").await?;
        let page = format!("echo {} > /www/index.html; exec httpd -f -p 8080 -h /www", device.name);
        let run =
            ["run", "--detach", "--pod", "web", "--name", "page", "localhost/hello:v1", "sh", "-c", &page];
        device.podman.ask_args(&run).await?.success()?;
    }
    until(format!("{}'s own page", device.name), Duration::from_secs(20), async || {
        let page = device.curl(8080, "/").await?.success()?;
        Ok(if page.trim() == device.name { Look::Done(()) } else { Look::not_yet(page) })
    })
    .await
}

async fn two_devices_run_the_same_port_and_do_not_see_each_other(fleet: &Fleet) -> Result<()> {
    // Twice: with both up, each still answers with its own.
    for _ in 0..2 {
        for device in fleet.devices() {
            serve_page(device).await?;
        }
    }
    for device in fleet.devices() {
        let running = device.podman.running().await?;
        ensure!(running == ["page"], "{} runs {running:?}", device.name);
    }
    Ok(())
}

async fn a_device_reaches_nats_and_nothing_else(fleet: &Fleet) -> Result<()> {
    let connects = async |from: &Netns, address: Ipv4Addr, port: u16| -> Result<bool> {
        let mut nc = from.command("busybox");
        nc.args(["nc", "-w", "3", &address.to_string(), &port.to_string()]);
        Ok(Answer::of(&mut nc).await?.ok())
    };
    let (device, cluster) = (fleet.network.device(0), fleet.network.cluster());
    let address = fleet.network.cluster_address();
    ensure!(connects(&device, address, e2e::nats::PORT).await?, "a device cannot reach NATS");
    let api = e2e::control_plane::API_PORT;
    ensure!(connects(&cluster, address, api).await?, "the API server does not listen: this shows nothing");
    ensure!(!connects(&device, address, api).await?, "a device reached the API server");

    // There is something to reach: this machine, which is not the cluster side, gets the page.
    let first = &fleet.devices()[0];
    serve_page(first).await?;
    ensure!(!connects(&cluster, first.address(), 8080).await?, "the cluster side reached into a device");
    Ok(())
}

async fn a_power_cut_leaves_images_and_no_process(fleet: &Fleet) -> Result<()> {
    let (alpha, beta) = (fleet.device("alpha")?, fleet.device("beta")?);
    serve_page(alpha).await?;
    serve_page(beta).await?;
    alpha.power_off().await?;
    ensure!(!alpha.curl(8080, "/").await?.ok(), "a container survived the power cut");
    ensure!(beta.curl(8080, "/").await?.ok(), "the power cut of one device reached the other");

    alpha.power_on().await?;
    alpha.podman.run("image exists localhost/hello:v1").await?;
    let running = alpha.podman.running().await?;
    ensure!(running.is_empty(), "after the power cut, {running:?} run");
    alpha.podman.run("pod start web").await?;
    serve_page(alpha).await
}
