//! Devices in a bad state: a full disk, a wrong clock, a flood of garbage in their name. Each is seen, the device
//! goes on with what it can do, and the other devices notice nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use e2e::device::Device;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use e2e::workload::{PATIENCE, Scene, condition, daemon_set, pod, shell};
use fleet_wire::name::DeviceName;
use fleet_wire::subject::{Subject, UpVerb};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]).small_disk("alpha", 8);
    a_device_with_a_full_disk,
    a_device_whose_clock_is_an_hour_off,
    devices_do_not_make_each_others_sessions_suffer,
);

/// What was put off while a disk was full is tried again after at most a minute.
const AFTER_FULL: Duration = Duration::from_secs(120);
const HOUR: i64 = 3600;
/// How far a time may be from the cluster's. Far more than two programs on one machine need, far less than an hour.
const NEAR: SignedDuration = SignedDuration::from_mins(5);

fn sleeper(name: &str, node: &str) -> Value {
    pod(name, &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": node }))
}

fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
}

fn container_id(pod: &Value) -> Result<String> {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
    Ok(id.with_context(|| format!("no container: {}", pod["status"]))?.to_owned())
}

async fn node_says(fleet: &Fleet, node: &str, kind: &str, status: &str, within: Duration) -> Result<()> {
    until(format!("Node {node} to have {kind}={status}"), within, async || {
        let seen = fleet.kubectl.json(&format!("get node {node}")).await?;
        Ok(match condition(&seen, kind) {
            Some(now) if now == status => Look::Done(()),
            _ => Look::not_yet(&seen["status"]["conditions"]),
        })
    })
    .await
}

/// What the agent says of itself, on the device.
async fn agent_status(device: &Device) -> Result<Value> {
    let text = device.ask("status --output json").await?.success()?;
    serde_json::from_str(&text).with_context(|| format!("`device-kubelet status` printed {text}"))
}

/// Waits until the agent has a session, and gives its status.
async fn open_session(device: &Device) -> Result<Value> {
    until(format!("{} to have a session", device.name), PATIENCE, async || {
        let status = agent_status(device).await?;
        Ok(if status["session"]["open"] == true { Look::Done(status) } else { Look::not_yet(status) })
    })
    .await
}

/// Waits until the agent has another session than the one that it has had since `before`.
async fn new_session(device: &Device, before: &Value) -> Result<()> {
    until(format!("{} to have a new session", device.name), PATIENCE, async || {
        let session = agent_status(device).await?["session"].clone();
        let new = session["open"] == true && session["since"] != before["session"]["since"];
        Ok(if new { Look::Done(()) } else { Look::not_yet(session) })
    })
    .await
}

async fn events(scene: &Scene<'_>, object: &str) -> Result<Vec<Value>> {
    let list = scene.json(&format!("get events --field-selector involvedObject.name={object}")).await?;
    Ok(list["items"].as_array().context("no list of Events")?.clone())
}

async fn a_device_with_a_full_disk(fleet: &Fleet) -> Result<()> {
    let device = fleet.device("alpha")?;
    let result = full_disk(fleet, device).await;
    device.disk()?.free()?;
    result
}

async fn full_disk(fleet: &Fleet, device: &Device) -> Result<()> {
    let scene = Scene::open(fleet, "full-disk").await?;
    for name in ["stays", "goes"] {
        scene.apply(&sleeper(name, "alpha")).await?;
    }
    let stays_before = container_id(&scene.ready("stays").await?)?;
    scene.ready("goes").await?;
    let agent = device.agent.identity();
    node_says(fleet, "alpha", "DiskPressure", "False", PATIENCE).await?;

    device.disk()?.fill()?;
    scene.apply(&sleeper("late", "alpha")).await?;
    node_says(fleet, "alpha", "DiskPressure", "True", PATIENCE).await?;
    until("an Event that says why the pod does not start", PATIENCE, async || {
        let events = events(&scene, "late").await?;
        let told = events.iter().find(|event| event["reason"] == "DeviceStorageFailed");
        let Some(told) = told else { return Ok(Look::not_yet(json!(events))) };
        let message = told["message"].as_str().unwrap_or_default();
        ensure!(message.contains("No space left on device"), "{message}");
        Ok(Look::Done(()))
    })
    .await?;

    let late = scene.json("get pod late").await?;
    ensure!(late["status"]["phase"] == "Pending", "{}", late["status"]);

    // It goes on with what it has: pods can be deleted, sessions opened, questions answered.
    scene.kubectl("delete pod goes --timeout 60s").await?;
    // What the pod had on the disk may be room enough for the one that waits.
    device.disk()?.fill()?;
    for _ in 0..2 {
        // With each session comes a new token, which cannot be written down.
        let before = agent_status(device).await?;
        fleet.vk()?.crash_and_restart().await?;
        new_session(device, &before).await?;
        node_says(fleet, "alpha", "Ready", "True", PATIENCE).await?;
    }
    let local = device.ask("pods").await?.success()?;
    ensure!(local.contains("stays") && local.contains("Running"), "on the device: {local}");
    ensure!(container_id(&scene.json("get pod stays").await?)? == stays_before);

    device.disk()?.free()?;
    node_says(fleet, "alpha", "DiskPressure", "False", PATIENCE).await?;
    scene
        .until("pod/late", "condition Ready", AFTER_FULL, |seen| {
            if condition(seen, "Ready") == Some("True") { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await?;
    ensure!(
        device.agent.identity() == agent && device.agent.is_running(),
        "the agent ended:\n{}",
        device.agent.log_tail(20)
    );
    let stays = scene.json("get pod stays").await?;
    ensure!(container_id(&stays)? == stays_before && restarts(&stays) == 0, "{}", stays["status"]);
    let node = fleet.kubectl.json("get node alpha").await?;
    ensure!(condition(&node, "IdentityConflict") != Some("True"), "taken for a copy: {}", node["status"]);
    scene.close().await
}

async fn a_device_whose_clock_is_an_hour_off(fleet: &Fleet) -> Result<()> {
    let device = fleet.device("beta")?;
    let scene = Scene::open(fleet, "clocks").await?;
    scene.apply(&sleeper("stays", "beta")).await?;
    let before = container_id(&scene.ready("stays").await?)?;
    let mut result = Ok(());
    for (name, seconds) in [("ahead", HOUR), ("behind", -HOUR)] {
        device.set_clock(seconds)?;
        device.agent.restart(Duration::from_secs(20)).await?;
        result = wrong_clock(&scene, device, name, seconds).await.context(name);
        if result.is_err() {
            break;
        }
        let stays = scene.json("get pod stays").await?;
        ensure!(container_id(&stays)? == before && restarts(&stays) == 0, "{name}: {}", stays["status"]);
    }
    device.set_clock(0)?;
    device.agent.restart(Duration::from_secs(20)).await?;
    result?;
    node_says(fleet, "beta", "Ready", "True", PATIENCE).await?;
    scene.ready("stays").await?;
    scene.close().await
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value.as_str().with_context(|| format!("no time: {value}"))?;
    text.parse().with_context(|| format!("no time: {text}"))
}

fn near(what: &str, seen: Timestamp, cluster: Timestamp) -> Result<()> {
    let off = seen.duration_since(cluster);
    ensure!(off.abs() < NEAR, "{what}: {seen} is {off:#} from the cluster's {cluster}");
    Ok(())
}

async fn wrong_clock(scene: &Scene<'_>, device: &Device, name: &str, seconds: i64) -> Result<()> {
    let fleet = scene.fleet;
    let status = open_session(device).await?;
    let off = time(&status["started"])?.duration_since(Timestamp::now()).as_secs();
    ensure!((off - seconds).abs() < 60, "the agent's clock is {off} s off, and not {seconds}");

    let (runs, ends, crashes) = (format!("runs-{name}"), format!("ends-{name}"), format!("crashes-{name}"));
    let with = |policy: &str, line: &str| json!({ "restartPolicy": policy, "containers": [shell("c", line)], "nodeName": "beta" });
    scene.apply(&sleeper(&runs, "beta")).await?;
    scene.apply(&pod(&ends, &with("Never", "true"))).await?;
    scene.apply(&pod(&crashes, &with("Always", "exit 3"))).await?;
    ensure!(restarts(&scene.ready(&runs).await?) == 0);
    let ended = scene.phase(&ends, "Succeeded").await?;
    let terminated = &ended["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(time(&terminated["startedAt"])? <= time(&terminated["finishedAt"])?, "{terminated}");

    // Delays are no matter of the time of day: neither skipped nor an hour long.
    scene
        .until(&format!("pod/{crashes}"), "two restarts", PATIENCE, |seen| {
            if restarts(seen) >= 2 { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await?;
    let seen = scene.waits(&crashes, "CrashLoopBackOff").await?;
    ensure!(restarts(&seen) < 6, "restarted without delay: {}", seen["status"]);

    for object in [&runs, &ends, &crashes] {
        let created =
            time(&scene.json(&format!("get pod {object}")).await?["metadata"]["creationTimestamp"])?;
        let events = until(format!("the Events of {object}"), PATIENCE, async || {
            let events = events(scene, object).await?;
            let started = events.iter().any(|event| event["reason"] == "Started");
            Ok(if started { Look::Done(events) } else { Look::not_yet(json!(events)) })
        })
        .await?;
        for event in events.iter().filter(|event| event["source"]["component"] == "kubelet") {
            for field in ["firstTimestamp", "lastTimestamp"] {
                near(&format!("{field} of {}", event["reason"]), time(&event[field])?, created)?;
            }
        }
    }
    stays("Ready=True", Duration::from_secs(5), async || {
        let node = fleet.kubectl.json("get node beta").await?;
        let ready = condition(&node, "Ready") == Some("True");
        Ok(if ready { Look::Done(()) } else { Look::not_yet(&node["status"]["conditions"]) })
    })
    .await?;
    let lease = fleet.kubectl.json("--namespace kube-node-lease get lease beta").await?;
    near("the Lease", time(&lease["spec"]["renewTime"])?, Timestamp::now())?;
    scene.kubectl(&format!("delete pod {runs} {ends} {crashes} --timeout 60s")).await?;
    Ok(())
}

/// How long the flood goes on at least: longer than Kubernetes waits for a Lease before it gives a Node up.
const FLOOD: Duration = Duration::from_secs(60);

async fn devices_do_not_make_each_others_sessions_suffer(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "flood").await?;
    let (alpha, beta) = (fleet.device("alpha")?, fleet.device("beta")?);
    let since = open_session(beta).await?["session"]["since"].clone();
    let subject = Subject::Up("alpha".parse::<DeviceName>()?, UpVerb::Status).to_string();

    // Garbage of all prices: no message at all, and one that only turns out to be none once it is opened.
    let observer = fleet.nats.observer().await?;
    let mut heard = observer.subscribe(Subject::Up("alpha".parse()?, UpVerb::Heartbeat).to_string()).await?;
    observer.flush().await?;
    let heartbeat = tokio::time::timeout(PATIENCE, heard.next()).await?.context("closed")?;
    let mut damaged = heartbeat.payload.to_vec();
    *damaged.last_mut().context("an empty heartbeat")? ^= 1;
    let garbage: [Vec<u8>; 3] = [vec![0xff; 1024], b"HF".to_vec(), damaged];

    let flooder = fleet.nats.connect(&alpha.seeds()?.identity).await?;
    let sent = AtomicU64::new(0);
    // Without a pause, until the others are done.
    let flood = async {
        for message in garbage.iter().cycle() {
            flooder.publish(subject.clone(), message.clone().into()).await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        end = flood => return end.context("the flood ended"),
        result = beside_a_flood(fleet, &scene) => result?,
    }
    let sent = sent.into_inner();
    ensure!(sent > 100_000, "{sent} messages are no flood");
    ensure!(agent_status(beta).await?["session"]["since"] == since, "the other device lost its session");

    // Nor is the flooder itself shut out for longer than it floods.
    scene.apply(&sleeper("after", "alpha")).await?;
    scene.ready("after").await?;
    for device in fleet.devices() {
        node_says(fleet, &device.name, "Ready", "True", PATIENCE).await?;
    }
    ensure!(fleet.vk()?.process.is_running(), "vk-nats ended:\n{}", fleet.vk()?.process.log_tail(20));
    scene.close().await
}

/// What the other device does all the while: pods, a rollout, heartbeats.
async fn beside_a_flood(fleet: &Fleet, scene: &Scene<'_>) -> Result<()> {
    let began = Instant::now();
    scene.apply(&sleeper("unimpressed", "beta")).await?;
    scene.ready("unimpressed").await?;
    for word in ["one", "two"] {
        let spec = json!({
            "containers": [shell("c", &format!("echo {word}; exec sleep 100000"))],
            "nodeSelector": { "kubernetes.io/hostname": "beta" },
        });
        scene.apply(&daemon_set("web", &spec)).await?;
        scene.kubectl("rollout status daemonset/web --timeout 120s").await?;
    }
    stays("Ready=True", FLOOD.saturating_sub(began.elapsed()), async || {
        let node = fleet.kubectl.json("get node beta").await?;
        let ready = condition(&node, "Ready") == Some("True");
        Ok(if ready { Look::Done(()) } else { Look::not_yet(&node["status"]["conditions"]) })
    })
    .await
}
