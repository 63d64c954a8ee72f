//! What a Kubernetes user does with devices: the whole chain, from `kubectl` to a container and back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, until};
use e2e::workload::{PATIENCE, Scene, condition, daemon_set, pod, shell};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]);
    devices_are_nodes,
    a_daemon_set_runs_on_every_device_and_rolls_out,
    a_deployment_places_its_replicas,
    logs_follow_tail_and_outlive_a_restart,
    settings_reach_a_container_as_variables_and_files,
    a_changed_config_map_reaches_the_running_pod,
    restart_policies_are_kept,
    a_pod_of_two_containers_shares_its_network,
    a_deletion_is_graceful,
    a_successor_of_the_same_name_is_another_pod,
    a_force_deleted_pod_stops_on_the_device,
    the_device_answers_locally,
);

async fn devices_are_nodes(fleet: &Fleet) -> Result<()> {
    let nodes = fleet.kubectl.run("get nodes --output wide").await?;
    for device in fleet.devices() {
        let line = nodes.lines().find(|line| line.starts_with(&device.name)).context("not listed")?;
        ensure!(line.contains(" Ready ") && line.contains("podman://"), "{nodes}");
        let node = fleet.kubectl.json(&format!("get node {}", device.name)).await?;
        let status = &node["status"];
        for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
            ensure!(status["capacity"][resource].is_string(), "no capacity of {resource}: {status}");
            ensure!(status["allocatable"][resource].is_string(), "no allocatable {resource}: {status}");
        }
        ensure!(
            status["nodeInfo"]["architecture"] == "amd64" || status["nodeInfo"]["architecture"] == "arm64"
        );
        ensure!(condition(&node, "MemoryPressure") == Some("False"), "{status}");
        let addresses: Vec<_> = status["addresses"].as_array().context("no addresses")?.iter().collect();
        ensure!(addresses.len() == 1 && addresses[0]["type"] == "Hostname", "{addresses:?}");
        ensure!(node["metadata"]["labels"]["kubernetes.io/arch"].is_string(), "{}", node["metadata"]);
        ensure!(node["spec"]["taints"][0]["key"] == "fleet.harmony.io/device", "{}", node["spec"]);
        fleet.kubectl.run(&format!("--namespace kube-node-lease get lease {}", device.name)).await?;
        let described = fleet.kubectl.run(&format!("describe node {}", device.name)).await?;
        ensure!(
            described.contains("Container Runtime Version:") && described.contains("Non-terminated Pods")
        );
        let types: Vec<_> = status["conditions"]
            .as_array()
            .context("no conditions")?
            .iter()
            .filter_map(|condition| condition["type"].as_str())
            .filter(|type_| ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"].contains(type_))
            .collect();
        ensure!(types == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"], "{types:?}");
        // As a kubelet's of a new Node; they give way to other writes, so they may come a moment later.
        let expected = [
            "Starting",
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID",
            "NodeReady",
        ];
        until(format!("the Events of node {}", device.name), PATIENCE, async || {
            let described = fleet.kubectl.run(&format!("describe node {}", device.name)).await?;
            let told = |reason: &&str| {
                described.lines().any(|line| line.split_whitespace().any(|word| word == *reason))
            };
            Ok(if expected.iter().all(told) { Look::Done(()) } else { Look::not_yet(described) })
        })
        .await?;
    }
    Ok(())
}

/// A page served on a port of the device, with its text from a ConfigMap.
fn web(image: &str, port: u16) -> Value {
    json!({
        "containers": [{
            "name": "web", "image": image,
            "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
            "ports": [{ "containerPort": 8080, "hostPort": port }],
            "volumeMounts": [{ "name": "page", "mountPath": "/www" }],
        }],
        "volumes": [{ "name": "page", "configMap": { "name": "page" } }],
    })
}

fn page(text: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "page" },
            "data": { "index.html": text } })
}

async fn serves(fleet: &Fleet, device: &str, port: u16, text: &str) -> Result<()> {
    until(format!("{device} to serve {text:?}"), Duration::from_secs(90), async || {
        let answer = fleet.device(device)?.curl(port, "/").await?;
        Ok(if answer.stdout.trim() == text { Look::Done(()) } else { Look::not_yet(answer) })
    })
    .await
}

async fn a_daemon_set_runs_on_every_device_and_rolls_out(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "rolls-out").await?;
    scene.apply(&page("first")).await?;
    scene.apply(&daemon_set("web", &web("localhost/hello:v1", 8081))).await?;
    scene.kubectl("rollout status daemonset/web --timeout 90s").await?;
    for device in fleet.devices() {
        serves(fleet, &device.name, 8081, "first").await?;
    }
    let set = scene.json("get daemonset web").await?;
    ensure!(
        set["status"]["numberReady"] == 2 && set["status"]["desiredNumberScheduled"] == 2,
        "{}",
        set["status"]
    );

    scene.kubectl("set image daemonset/web web=localhost/hello:v2").await?;
    scene.kubectl("rollout status daemonset/web --timeout 120s").await?;
    let pods = scene.json("get pods --selector app=web").await?;
    let images: Vec<_> = pods["items"]
        .as_array()
        .context("no pods")?
        .iter()
        .map(|pod| pod["status"]["containerStatuses"][0]["image"].clone())
        .collect();
    ensure!(images == ["localhost/hello:v2", "localhost/hello:v2"], "{images:?}");
    scene.close().await?;
    for device in fleet.devices() {
        until("no container to be left", PATIENCE, async || {
            let left = device.podman.running().await?;
            Ok(if left.is_empty() { Look::Done(()) } else { Look::not_yet(left.join(" ")) })
        })
        .await?;
    }
    Ok(())
}

async fn a_deployment_places_its_replicas(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "replicas").await?;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "work" },
        "spec": { "replicas": 4, "selector": { "matchLabels": { "app": "work" } },
                  "template": { "metadata": { "labels": { "app": "work" } },
                                "spec": e2e::workload::spec(&json!({ "containers": [shell("w", "exec sleep 100000")] })) } },
    });
    scene.apply(&deployment).await?;
    scene.kubectl("rollout status deployment/work --timeout 90s").await?;
    scene.kubectl("scale deployment/work --replicas 1").await?;
    scene
        .until("deployment/work", "one replica", PATIENCE, |seen| {
            if seen["status"]["readyReplicas"] == 1 && seen["status"]["replicas"] == 1 {
                Ok(())
            } else {
                Err(seen["status"].to_string())
            }
        })
        .await?;
    until("three pods to be gone", PATIENCE, async || {
        let pods = scene.json("get pods").await?;
        let count = pods["items"].as_array().map_or(0, Vec::len);
        Ok(if count == 1 { Look::Done(()) } else { Look::not_yet(format!("{count} pods")) })
    })
    .await?;
    scene.close().await
}

async fn logs_follow_tail_and_outlive_a_restart(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "logs").await?;
    // Counts, waits for a file, then fails: so the follower sees an end, and a previous instance exists.
    let line = "i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; echo oops; \
                while [ ! -e /gate/open ]; do sleep 0.1; done; echo last; exit 3";
    scene
        .apply(&pod(
            "talks",
            &json!({
                "containers": [{ "name": "c", "image": "localhost/hello:v1", "command": ["sh", "-c", line],
                                 "volumeMounts": [{ "name": "gate", "mountPath": "/gate" }] },
                               shell("keeper", "exec sleep 100000")],
                "volumes": [{ "name": "gate", "emptyDir": {} }],
                "nodeName": null,
            }),
        ))
        .await?;
    let seen = scene.ready("talks").await?;
    let node = seen["spec"]["nodeName"].as_str().context("not scheduled")?.to_owned();
    until("51 lines of log", PATIENCE, async || {
        let text = scene.kubectl("logs talks --container c").await?;
        Ok(if text.lines().count() == 51 { Look::Done(()) } else { Look::not_yet(text.lines().count()) })
    })
    .await?;
    let tail = scene.kubectl("logs talks --container c --tail 2").await?;
    ensure!(tail == "line 50\noops\n", "{tail:?}");
    let limited = scene.kubectl("logs talks --container c --limit-bytes 9").await?;
    ensure!(limited == "line 1\nli", "{limited:?}");
    let stamped = scene.kubectl("logs talks --container c --tail 1 --timestamps").await?;
    ensure!(stamped.contains("T") && stamped.ends_with(" oops\n"), "{stamped:?}");
    let recent = scene.kubectl("logs talks --container c --since 1h").await?;
    ensure!(recent.lines().count() == 51, "{recent}");

    let mut follower = fleet.kubectl.spawn("--namespace logs logs talks --container c --follow --tail 1")?;
    let mut lines = BufReader::new(follower.stdout.take().context("no output")?).lines();
    ensure!(lines.next_line().await?.as_deref() == Some("oops"));
    // Opens the gate from the other container, on the device itself.
    let device = fleet.device(&node)?;
    let keeper = device.podman.run("ps --quiet --filter label=io.kubernetes.container.name=c").await?;
    device.podman.run(&format!("exec {} touch /gate/open", keeper.trim())).await?;
    ensure!(lines.next_line().await?.as_deref() == Some("last"));
    ensure!(tokio::time::timeout(PATIENCE, lines.next_line()).await??.is_none(), "the follower did not end");

    scene
        .until("pod/talks", "a restart", PATIENCE, |seen| {
            let found = seen["status"]["containerStatuses"].as_array().is_some_and(|all| {
                all.iter().any(|c| {
                    c["restartCount"].as_u64() >= Some(1) && c["lastState"]["terminated"]["exitCode"] == 3
                })
            });
            if found { Ok(()) } else { Err(seen["status"].to_string()) }
        })
        .await?;
    let previous = scene.kubectl("logs talks --container c --previous --tail 1").await?;
    ensure!(previous == "last\n", "{previous:?}");
    let refused = fleet.kubectl.ask("--namespace logs logs talks --container nobody").await?;
    ensure!(!refused.ok(), "logs of a container that does not exist");
    scene.close().await
}

async fn settings_reach_a_container_as_variables_and_files(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "settings").await?;
    scene
        .apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "plain" },
                         "data": { "colour": "green", "file.txt": "from a config map" } }))
        .await?;
    scene
        .apply(&json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "hidden" },
                         "stringData": { "word": "s3cret", "key.pem": "from a secret" } }))
        .await?;
    let line = "echo $COLOUR $WORD $PRE_colour $NAME $COMBINED; cat /plain/file.txt; echo; cat /hidden/key.pem; echo; \
                stat -L -c %a /hidden/key.pem; ls /plain; echo kept > /scratch/x && cat /scratch/x";
    scene
        .apply(&pod("reads", &json!({
            "restartPolicy": "Never",
            "containers": [{
                "name": "c", "image": "localhost/hello:v1", "command": ["sh", "-c", line],
                "env": [
                    { "name": "COLOUR", "valueFrom": { "configMapKeyRef": { "name": "plain", "key": "colour" } } },
                    { "name": "WORD", "valueFrom": { "secretKeyRef": { "name": "hidden", "key": "word" } } },
                    { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "COMBINED", "value": "$(NAME)-$(COLOUR)-$$(X)" },
                ],
                "envFrom": [{ "prefix": "PRE_", "configMapRef": { "name": "plain" } }],
                "volumeMounts": [{ "name": "plain", "mountPath": "/plain" }, { "name": "hidden", "mountPath": "/hidden" },
                                 { "name": "scratch", "mountPath": "/scratch" }],
                "resources": { "limits": { "memory": "64Mi", "cpu": "500m" } },
            }],
            "volumes": [
                { "name": "plain", "configMap": { "name": "plain", "items": [{ "key": "file.txt", "path": "file.txt" }] } },
                { "name": "hidden", "secret": { "secretName": "hidden", "defaultMode": 256 } },
                { "name": "scratch", "emptyDir": {} },
            ],
        })))
        .await?;
    scene.phase("reads", "Succeeded").await?;
    let text = scene.kubectl("logs reads").await?;
    ensure!(
        text == "green s3cret green reads reads-green-$(X)\nfrom a config map\nfrom a secret\n400\nfile.txt\nkept\n",
        "{text}"
    );
    scene.close().await
}

async fn a_changed_config_map_reaches_the_running_pod(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "changes").await?;
    scene.apply(&page("before")).await?;
    scene.apply(&daemon_set("web", &web("localhost/hello:v1", 8082))).await?;
    scene.kubectl("rollout status daemonset/web --timeout 90s").await?;
    serves(fleet, "alpha", 8082, "before").await?;
    scene.apply(&page("after")).await?;
    for device in fleet.devices() {
        serves(fleet, &device.name, 8082, "after").await?;
    }
    let pods = scene.json("get pods").await?;
    for pod in pods["items"].as_array().context("no pods")? {
        ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", pod["status"]);
    }
    scene.close().await
}

async fn restart_policies_are_kept(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "restarts").await?;
    let policy =
        |policy: &str, line: &str| json!({ "restartPolicy": policy, "containers": [shell("c", line)] });
    scene.apply(&pod("never-fails", &policy("Never", "exit 7"))).await?;
    scene.apply(&pod("never-ends", &policy("Never", "exit 0"))).await?;
    scene.apply(&pod("on-failure-ends", &policy("OnFailure", "exit 0"))).await?;
    scene.apply(&pod("always", &policy("Always", "exit 5"))).await?;
    let failed = scene.phase("never-fails", "Failed").await?;
    let state = &failed["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(state["exitCode"] == 7 && state["reason"] == "Error", "{state}");
    scene.phase("never-ends", "Succeeded").await?;
    scene.phase("on-failure-ends", "Succeeded").await?;
    let looping = scene.waits("always", "CrashLoopBackOff").await?;
    let status = &looping["status"]["containerStatuses"][0];
    ensure!(
        status["lastState"]["terminated"]["exitCode"] == 5 && looping["status"]["phase"] == "Running",
        "{status}"
    );
    scene.event("always", "BackOff", "restarting failed container c").await?;
    scene.event("always", "Started", "Container started").await?;
    scene.close().await
}

async fn a_pod_of_two_containers_shares_its_network(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "shares").await?;
    scene
        .apply(&pod("pair", &json!({ "restartPolicy": "OnFailure", "containers": [
            shell("server", "echo hello > /tmp/index.html; exec httpd -f -p 9090 -h /tmp"),
            shell("client", "until nc -w 1 127.0.0.1 9090 </dev/null; do sleep 0.1; done; echo reached; exec sleep 100000"),
        ] })))
        .await?;
    scene.ready("pair").await?;
    until("the client to reach the server", PATIENCE, async || {
        let text = scene.kubectl("logs pair --container client").await?;
        Ok(if text == "reached\n" { Look::Done(()) } else { Look::not_yet(text) })
    })
    .await?;
    scene.close().await
}

async fn a_deletion_is_graceful(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "graceful").await?;
    let host = "/tmp/harmony-fleet-graceful";
    let line = "trap 'echo terminated > /out/word; exit 0' TERM; while true; do sleep 0.1; done";
    scene
        .apply(&pod(
            "leaves",
            &json!({
                "terminationGracePeriodSeconds": 20,
                "containers": [{ "name": "c", "image": "localhost/hello:v1", "command": ["sh", "-c", line],
                                 "volumeMounts": [{ "name": "out", "mountPath": "/out" }] }],
                "volumes": [{ "name": "out", "hostPath": { "path": host, "type": "DirectoryOrCreate" } }],
            }),
        ))
        .await?;
    scene.ready("leaves").await?;
    scene.kubectl("delete pod leaves --timeout 60s").await?;
    let word = std::fs::read_to_string(format!("{host}/word")).context("the trap did not run")?;
    std::fs::remove_dir_all(host)?;
    ensure!(word == "terminated\n", "{word:?}");
    scene.event("leaves", "Killing", "Stopping container c").await?;
    scene.close().await
}

async fn a_successor_of_the_same_name_is_another_pod(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "successor").await?;
    let spec = |word: &str| {
        pod(
            "same",
            &json!({ "containers": [shell("c", &format!("echo {word}; exec sleep 100000"))],
                             "nodeName": "alpha" }),
        )
    };
    scene.apply(&spec("one")).await?;
    let first = scene.ready("same").await?;
    scene.kubectl("delete pod same --wait=false").await?;
    scene.kubectl("wait --for=delete pod/same --timeout 60s").await?;
    scene.apply(&spec("two")).await?;
    let second = scene.ready("same").await?;
    ensure!(first["metadata"]["uid"] != second["metadata"]["uid"]);
    until("the second one's log", PATIENCE, async || {
        let text = scene.kubectl("logs same").await?;
        Ok(if text == "two\n" { Look::Done(()) } else { Look::not_yet(text) })
    })
    .await?;
    scene.close().await
}

async fn a_force_deleted_pod_stops_on_the_device(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "forced").await?;
    scene
        .apply(&pod("gone", &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": "beta" })))
        .await?;
    scene.ready("gone").await?;
    scene.kubectl("delete pod gone --grace-period 0 --force").await?;
    let device = fleet.device("beta")?;
    until("its container to be gone", PATIENCE, async || {
        let running = device.podman.running().await?;
        Ok(if running.is_empty() { Look::Done(()) } else { Look::not_yet(running.join(" ")) })
    })
    .await?;
    scene.close().await
}

async fn the_device_answers_locally(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "local").await?;
    scene
        .apply(&pod("here", &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": "alpha" })))
        .await?;
    scene.ready("here").await?;
    let device = fleet.device("alpha")?;
    let pods = device.ask("pods").await?.success()?;
    ensure!(pods.contains("here") && pods.contains("Running"), "{pods}");
    let status = device.ask("status --output json").await?.success()?;
    let status: Value = serde_json::from_str(&status).context("status is no JSON")?;
    ensure!(status["name"] == "alpha", "{status}");
    scene.close().await
}
