//! How devices become members, get new keys, leave and come back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::device::Device;
use e2e::enrollment::{self, Issued};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::hostile::client::{Login, RawClient};
use e2e::hostile::doors::membership;
use e2e::hostile::member::Member;
use e2e::scenarios;
use e2e::wait::{Look, until};
use e2e::workload::{PATIENCE, Scene, pod, shell};
use fleet_wire::enrollment::{
    CURVE_KEY, FINGERPRINT, IDENTITY_KEY, KEY_VERSION, RECORDS_NAMESPACE, Record, record_name,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use nkeys::KeyPair;
use serde_json::{Value, json};

scenarios!(
    FleetOptions::with_devices(["alpha", "beta", "gamma"])
        .unenrolled("gamma")
        .callout_setting("device-requests", true);
    a_token_enrolls_one_device_once,
    an_expired_token_enrolls_nobody,
    a_device_asks_first_is_denied_and_then_approved,
    a_device_gets_new_keys_without_a_pause,
    the_fleets_key_is_rotated_while_a_device_is_away,
    a_revocation_is_taken_back,
    a_decommissioned_name_is_enrolled_again_with_new_keys,
);

async fn record(fleet: &Fleet, device: &str) -> Result<Record> {
    let secrets: Api<Secret> = Api::namespaced(fleet.client().await?, RECORDS_NAMESPACE);
    Ok(Record::parse(&secrets.get(&record_name(&device.parse()?)).await?)?)
}

fn annotation<'a>(node: &'a Value, name: &str) -> &'a str {
    node["metadata"]["annotations"][name].as_str().unwrap_or_default()
}

/// Whether NATS refuses the holder of a seed.
async fn shut_out(fleet: &Fleet, seed: &str) -> Result<bool> {
    Ok(RawClient::as_device(&fleet.nats, &KeyPair::from_seed(seed)?).await.is_err())
}

fn enrolled(result: std::result::Result<String, String>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(refusal) => bail!("not enrolled: {refusal}"),
    }
}

fn refused(result: std::result::Result<String, String>) -> Result<String> {
    match result {
        Ok(_) => bail!("enrolled"),
        Err(refusal) => Ok(refusal),
    }
}

async fn a_token_enrolls_one_device_once(fleet: &Fleet) -> Result<()> {
    let nats = &fleet.nats;
    let issued =
        Issued { labels: [("site".to_owned(), "hall".to_owned())].into(), ..Issued::for_device("one")? };
    let intent = issued.intent(fleet).await?;
    let member = Member::fresh(&intent)?;
    enrolled(membership(member.ask_with_token(nats, &intent.token).await))?;
    // The answer was lost: the device asks again with the same keys.
    enrolled(membership(member.ask_with_token(nats, &intent.token).await))?;
    let node = fleet.kubectl.json("get node one").await?;
    ensure!(annotation(&node, IDENTITY_KEY) == member.identity_key()?.as_str(), "{}", node["metadata"]);
    ensure!(annotation(&node, CURVE_KEY) == member.curve_key()?.as_str(), "{}", node["metadata"]);
    ensure!(node["metadata"]["labels"]["site"] == "hall", "{}", node["metadata"]);
    ensure!(node["spec"]["providerID"] == "harmony-fleet://one", "{}", node["spec"]);
    ensure!(node["spec"]["taints"].to_string().contains("fleet.harmony.io/device"), "{}", node["spec"]);
    let uid = node["metadata"]["uid"].as_str().context("no UID")?;
    ensure!(record(fleet, "one").await?.admits(uid), "the record does not admit the Node");
    member.open_session(nats, None).await?;

    let other = Member::fresh(&intent)?;
    let refusal = refused(membership(other.ask_with_token(nats, &intent.token).await))?;
    ensure!(shut_out(fleet, &other.identity.seed()?).await?, "other keys were let in after: {refusal}");
    // Another token for a name that is taken.
    let second = Issued::for_device("one")?.intent(fleet).await?;
    refused(membership(other.ask_with_token(nats, &second.token).await))?;
    fleet.kubectl.run("delete node one --wait=false").await.map(drop)
}

async fn an_expired_token_enrolls_nobody(fleet: &Fleet) -> Result<()> {
    let intent = Issued::for_device("late")?.intent(fleet).await?;
    enrollment::expire(fleet, &intent.token).await?;
    let member = Member::fresh(&intent)?;
    refused(membership(member.ask_with_token(&fleet.nats, &intent.token).await))?;
    ensure!(!fleet.kubectl.ask("get node late").await?.ok(), "there is a Node");
    ensure!(shut_out(fleet, &member.identity.seed()?).await?, "its key was let in");
    Ok(())
}

/// The settings of a device that knows its fleet and has no token.
fn asks_by_itself(fleet: &Fleet, device: &Device) -> Result<()> {
    let keys = fleet.keys()?;
    let mut settings = fleet.options.agent_settings.clone();
    let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value.into());
    set("nats-url", fleet.nats.url());
    set("nats-ca-file", fleet.nats.ca_file().display().to_string());
    set("fleet-root-key", keys.root_public()?);
    set("fleet-keys-file", keys.statement().display().to_string());
    settings.insert("request-enrollment".into(), true.into());
    device.configure(&settings, None)
}

/// The open request of a device.
async fn request_of(fleet: &Fleet, device: &str) -> Result<Value> {
    until(format!("a certificate request of {device}"), PATIENCE, async || {
        let all = fleet.kubectl.json("get certificatesigningrequests").await?;
        let found = all["items"].as_array().into_iter().flatten().find(|request| {
            request["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.starts_with(&format!("device-{device}-")))
                && request["status"]["conditions"].is_null()
        });
        Ok(found.map_or_else(|| Look::not_yet(&all["items"]), |request| Look::Done(request.clone())))
    })
    .await
}

async fn a_device_asks_first_is_denied_and_then_approved(fleet: &Fleet) -> Result<()> {
    let gamma = fleet.device("gamma")?;
    asks_by_itself(fleet, gamma)?;
    gamma.agent.start().await?;
    let request = request_of(fleet, "gamma").await?;
    ensure!(request["spec"]["signerName"] == "fleet.harmony.io/device", "{}", request["spec"]);
    ensure!(!fleet.kubectl.ask("get node gamma").await?.ok(), "a Node before approval");
    let name = request["metadata"]["name"].as_str().context("no name")?;
    // What a person compares: on the device, and in the request.
    let shown = gamma.ask("keys").await?.success()?;
    let fingerprint = annotation(&request, FINGERPRINT);
    ensure!(!fingerprint.is_empty() && shown.contains(fingerprint), "{shown} {}", request["metadata"]);
    fleet.kubectl.run(&format!("certificate deny {name}")).await?;
    until("the agent to say that it was denied", PATIENCE, async || {
        let log = gamma.agent.log_text();
        Ok(if log.contains("denied") { Look::Done(()) } else { Look::not_yet(gamma.agent.log_tail(3)) })
    })
    .await?;
    ensure!(!fleet.kubectl.ask("get node gamma").await?.ok(), "a Node after the denial");

    // The operator thinks again: the request goes, and the device asks anew.
    fleet.kubectl.run(&format!("delete certificatesigningrequest {name}")).await?;
    if !gamma.agent.is_running() {
        gamma.agent.start().await?;
    }
    let request = request_of(fleet, "gamma").await?;
    let name = request["metadata"]["name"].as_str().context("no name")?;
    fleet.kubectl.run(&format!("certificate approve {name}")).await?;
    fleet.node_ready("gamma", "True", PATIENCE).await
}

async fn a_device_gets_new_keys_without_a_pause(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "new-keys").await?;
    let sleeper = |name: &str| {
        pod(name, &json!({ "containers": [shell("c", "exec sleep 100000")], "nodeName": "alpha" }))
    };
    scene.apply(&sleeper("stays")).await?;
    let before = scene.ready("stays").await?["status"]["containerStatuses"].clone();
    let device = fleet.device("alpha")?;
    let (old, uid) =
        (device.seeds()?, fleet.kubectl.json("get node alpha").await?["metadata"]["uid"].clone());
    fleet.command("device rotate alpha --wait").await?.success()?;
    let new = until("new keys on the device", PATIENCE, async || {
        let now = device.seeds()?;
        Ok(if now.identity == old.identity { Look::not_yet("the old ones") } else { Look::Done(now) })
    })
    .await?;
    ensure!(new.curve != old.curve, "the curve key is the old one");
    let known = record(fleet, "alpha").await?;
    let old_public: fleet_wire::keys::IdentityKey =
        KeyPair::from_seed(&old.identity)?.public_key().parse()?;
    ensure!(known.retired.contains(&old_public), "the old key is not retired: {known:?}");
    ensure!(shut_out(fleet, &old.identity).await?, "the old key was let in");
    let node = fleet.kubectl.json("get node alpha").await?;
    ensure!(node["metadata"]["uid"] == uid, "another Node");
    ensure!(
        annotation(&node, IDENTITY_KEY) == known.enrollment.identity_key.as_str(),
        "{}",
        node["metadata"]
    );
    scene.apply(&sleeper("new")).await?;
    scene.ready("new").await?;
    ensure!(
        scene.json("get pod stays").await?["status"]["containerStatuses"] == before,
        "the pod was touched"
    );
    fleet.node_ready("alpha", "True", PATIENCE).await?;
    scene.close().await
}

async fn uses_version(fleet: &Fleet, device: &str, version: u32) -> Result<()> {
    until(format!("{device} to use version {version}"), PATIENCE, async || {
        let node = fleet.kubectl.json(&format!("get node {device}")).await?;
        let seen = annotation(&node, KEY_VERSION).to_owned();
        Ok(if seen == version.to_string() { Look::Done(()) } else { Look::not_yet(seen) })
    })
    .await
}

async fn the_fleets_key_is_rotated_while_a_device_is_away(fleet: &Fleet) -> Result<()> {
    for device in ["alpha", "beta"] {
        uses_version(fleet, device, 1).await?;
    }
    fleet.device("beta")?.unplug().await?;
    let keys = fleet.keys()?;
    let version = keys.rotate()?;
    // What a new version of the Secret is to the pods in a cluster.
    let seeds = keys.curve_seeds()?;
    fleet.vk()?.reconfigure(|settings| {
        settings.insert("fleet-key-files".into(), seeds.into());
    })?;
    for service in [fleet.enroller()?, fleet.vk()?] {
        service.process.stop(Duration::from_secs(20)).await?;
        service.start().await?;
    }
    uses_version(fleet, "alpha", version.0).await?;
    fleet.device("beta")?.plug().await?;
    uses_version(fleet, "beta", version.0).await?;
    for device in ["alpha", "beta"] {
        fleet.node_ready(device, "True", PATIENCE).await?;
    }
    Ok(())
}

async fn a_revocation_is_taken_back(fleet: &Fleet) -> Result<()> {
    let intent = Issued::for_device("back")?.intent(fleet).await?;
    let member = Member::enroll(&fleet.nats, &intent).await?;
    fleet.kubectl.run("delete node back --wait=false").await?;
    until("the record to say revoked", PATIENCE, async || {
        let out = shut_out(fleet, &member.identity.seed()?).await?;
        let node = fleet.kubectl.json("get nodes").await?;
        let there = node["items"].to_string().contains("harmony-fleet://back");
        Ok(if out && !there { Look::Done(()) } else { Look::not_yet(format!("out: {out}, Node: {there}")) })
    })
    .await?;
    fleet.command("device undelete back --wait").await?.success()?;
    until("the same keys to be let in again", PATIENCE, async || {
        member.open_session(&fleet.nats, None).await.map(|_| Look::Done(()))
    })
    .await?;
    let node = fleet.kubectl.json("get node back").await?;
    ensure!(annotation(&node, IDENTITY_KEY) == member.identity_key()?.as_str(), "{}", node["metadata"]);
    fleet.kubectl.run("delete node back --wait=false").await.map(drop)
}

async fn a_decommissioned_name_is_enrolled_again_with_new_keys(fleet: &Fleet) -> Result<()> {
    let device = fleet.device("beta")?;
    let old = device.seeds()?;
    fleet.kubectl.run("delete node beta --wait=false").await?;
    until("the key to be refused", PATIENCE, async || {
        Ok(if shut_out(fleet, &old.identity).await? { Look::Done(()) } else { Look::not_yet("let in") })
    })
    .await?;
    device.agent.stop(Duration::from_secs(20)).await?;
    std::fs::remove_dir_all(device.data())?;
    std::fs::create_dir_all(device.data())?;
    let intent = Issued::for_device("beta")?.intent(fleet).await?;
    device.configure(&fleet.options.agent_settings, Some(&intent))?;
    device.agent.start().await?;
    fleet.node_ready("beta", "True", PATIENCE).await?;
    ensure!(device.seeds()?.identity != old.identity, "the same keys");
    ensure!(shut_out(fleet, &old.identity).await?, "the old key was let in");
    // Nor does the old key ask for membership again.
    let dead = KeyPair::from_seed(&old.identity)?;
    let mut client = RawClient::open(&fleet.nats).await?;
    let login = Login::applicant(&dead, client.nonce())?;
    ensure!(client.login(&login).await?.is_err(), "the old key may ask anew");
    // The way is open for a key that never was one's.
    let fresh = KeyPair::new_user();
    let mut client = RawClient::open(&fleet.nats).await?;
    let login = Login::applicant(&fresh, client.nonce())?;
    ensure!(client.login(&login).await?.is_ok(), "nobody may ask");
    Ok(())
}
