//! Pods that cannot run as they are: each says why, where an operator looks, and recovers when it can.

use anyhow::{Context as _, Result, ensure};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use e2e::workload::{PATIENCE, Scene, daemon_set, pod, shell};
use serde_json::json;

scenarios!(
    FleetOptions::with_devices(["alpha"]);
    an_image_that_does_not_exist,
    a_command_that_does_not_exist,
    a_config_map_that_comes_later,
    a_volume_that_devices_lack,
    an_addon_that_tolerates_everything_is_not_made_again_and_again,
);

async fn an_image_that_does_not_exist(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "no-image").await?;
    let container = json!({ "name": "c", "image": "localhost/nothing:v9", "imagePullPolicy": "Never" });
    scene.apply(&pod("never", &json!({ "containers": [container] }))).await?;
    scene.waits("never", "ErrImageNeverPull").await?;
    // A registry that refuses connections: the loopback of the device itself.
    let container = json!({ "name": "c", "image": "127.0.0.1:1/nothing:v9" });
    scene.apply(&pod("pulls", &json!({ "containers": [container] }))).await?;
    scene.waits("pulls", "ImagePullBackOff").await?;
    scene.event("pulls", "Failed", "127.0.0.1:1/nothing:v9").await?;
    scene.event("pulls", "BackOff", "127.0.0.1:1/nothing:v9").await?;
    scene.close().await
}

async fn a_command_that_does_not_exist(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "no-command").await?;
    let container = json!({ "name": "c", "image": "localhost/hello:v1", "command": ["/no/such/program"] });
    scene.apply(&pod("lost", &json!({ "restartPolicy": "Never", "containers": [container] }))).await?;
    let seen = scene.phase("lost", "Failed").await?;
    let state = &seen["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(state["exitCode"] == 128 || state["exitCode"] == 127, "{state}");
    ensure!(state["message"].as_str().is_some_and(|text| text.contains("/no/such/program")), "{state}");
    scene.event("lost", "Failed", "/no/such/program").await?;
    scene.close().await
}

async fn a_config_map_that_comes_later(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "later").await?;
    let mut container = shell("c", "echo $WORD; exec sleep 100000");
    container["env"] =
        json!([{ "name": "WORD", "valueFrom": { "configMapKeyRef": { "name": "words", "key": "word" } } }]);
    scene.apply(&pod("by-env", &json!({ "containers": [container] }))).await?;
    let mut container = shell("c", "exec sleep 100000");
    container["volumeMounts"] = json!([{ "name": "words", "mountPath": "/words" }]);
    scene
        .apply(&pod(
            "by-volume",
            &json!({ "containers": [container],
            "volumes": [{ "name": "words", "configMap": { "name": "words" } }] }),
        ))
        .await?;
    let seen = scene.waits("by-env", "CreateContainerConfigError").await?;
    let waiting = &seen["status"]["containerStatuses"][0]["state"]["waiting"];
    ensure!(waiting["message"].as_str().is_some_and(|text| text.contains("words")), "{waiting}");
    // Tried again and again: one Event that counts.
    until("the mount to have failed three times", PATIENCE, async || {
        let events = scene.json("get events --field-selector involvedObject.name=by-volume").await?;
        let events = events["items"].as_array().context("no list of Events")?;
        let failed: Vec<_> = events.iter().filter(|event| event["reason"] == "FailedMount").collect();
        ensure!(failed.len() < 2, "{failed:?}");
        let often = failed.iter().any(|event| event["count"].as_u64().is_some_and(|count| count >= 3));
        Ok(if often { Look::Done(()) } else { Look::not_yet(format!("{failed:?}")) })
    })
    .await?;
    scene
        .apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "words" },
                        "data": { "word": "at last" } }))
        .await?;
    let seen = scene.ready("by-env").await?;
    // Why it was not ready is over.
    let conditions = seen["status"]["conditions"].as_array().context("no conditions")?;
    for condition in conditions.iter().filter(|condition| condition["status"] == "True") {
        ensure!(condition["reason"].is_null() && condition["message"].is_null(), "{condition}");
    }
    scene.ready("by-volume").await?;
    until("the value", PATIENCE, async || {
        let text = scene.kubectl("logs by-env").await?;
        Ok(if text == "at last\n" { Look::Done(()) } else { Look::not_yet(text) })
    })
    .await?;
    scene.close().await
}

async fn a_volume_that_devices_lack(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "no-volume").await?;
    let mut container = shell("c", "exec sleep 100000");
    container["volumeMounts"] = json!([{ "name": "share", "mountPath": "/share" }]);
    let volume = json!({ "name": "share", "nfs": { "server": "192.0.2.1", "path": "/" } });
    scene.apply(&pod("wants-nfs", &json!({ "containers": [container], "volumes": [volume] }))).await?;
    let seen = scene.waits("wants-nfs", "DeviceUnsupported").await?;
    ensure!(seen["status"]["phase"] == "Pending", "{}", seen["status"]);
    scene.event("wants-nfs", "DeviceUnsupported", "nfs").await?;
    scene.close().await
}

async fn an_addon_that_tolerates_everything_is_not_made_again_and_again(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "addon").await?;
    // As a cluster's network add-on: everywhere, privileged, with a volume that only servers have.
    let mut container = shell("agent", "exec sleep 100000");
    container["volumeMounts"] = json!([{ "name": "share", "mountPath": "/share" }]);
    let addon = daemon_set(
        "addon",
        &json!({
            "nodeSelector": null, "tolerations": [{ "operator": "Exists" }], "hostNetwork": true,
            "containers": [container],
            "volumes": [{ "name": "share", "nfs": { "server": "192.0.2.1", "path": "/" } }],
        }),
    );
    scene.apply(&addon).await?;
    let pods = until("the add-on's pod to be refused", PATIENCE, async || {
        let pods = scene.json("get pods").await?;
        let uids: Vec<String> = pods["items"]
            .as_array()
            .context("no pods")?
            .iter()
            .filter(|pod| {
                pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "DeviceUnsupported"
            })
            .map(|pod| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
            .collect();
        Ok(if uids.len() == 1 { Look::Done(uids) } else { Look::not_yet(&pods) })
    })
    .await?;
    stays("the add-on's only pod", std::time::Duration::from_secs(5), async || {
        let now = scene.json("get pods").await?;
        let uids: Vec<_> =
            now["items"].as_array().context("no pods")?.iter().map(|pod| &pod["metadata"]["uid"]).collect();
        Ok(if uids == [&json!(pods[0])] { Look::Done(()) } else { Look::not_yet(&now) })
    })
    .await?;
    scene.close().await
}
