//! The certificate of the kubelet API comes from the cluster: `vk-nats` asks, the enroller approves for addresses
//! of its replicas, kube-controller-manager signs, and the API server checks it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::accounts::ServiceAccount;
use e2e::fleet::{Fleet, FleetOptions};
use e2e::kubectl::Kubectl;
use e2e::scenarios;
use e2e::wait::{Look, stays, until};
use e2e::workload::{PATIENCE, Scene, pod, shell};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

/// The shortest that there is: a certificate has to be for minutes, not for the year that the signer would give.
const LIFETIME: i64 = 600;

scenarios!(
    FleetOptions::with_devices(["alpha"]).vk_setting("serving-cert-lifetime", LIFETIME);
    logs_go_over_a_certificate_that_the_cluster_signed,
    a_restarted_vk_nats_gets_a_certificate_of_its_own,
    an_address_that_is_no_replicas_is_not_approved,
);

/// Requests of `vk-nats` that were signed, by name.
async fn signed(fleet: &Fleet) -> Result<Vec<Value>> {
    let list = fleet.kubectl.json("get certificatesigningrequests").await?;
    let items = list["items"].as_array().context("no list")?;
    let of_vk =
        |request: &&Value| request["spec"]["username"] == "system:serviceaccount:harmony-fleet:vk-nats";
    Ok(items
        .iter()
        .filter(of_vk)
        .filter(|request| request["status"]["certificate"].is_string())
        .cloned()
        .collect())
}

/// When the certificate ends that is served now, in seconds since 1970.
async fn expires(fleet: &Fleet) -> Result<i64> {
    let metrics = fleet.vk()?.metrics().await?;
    let name = "kubelet_api_serving_certificate_expiration_timestamp_seconds ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)).context("no such metric")?;
    Ok(line.trim().parse()?)
}

async fn speaks(scene: &Scene<'_>, words: &str) -> Result<()> {
    until("the log", PATIENCE, async || {
        let text = scene.kubectl("logs speaker").await?;
        Ok(if text.contains(words) { Look::Done(()) } else { Look::not_yet(text) })
    })
    .await
}

async fn logs_go_over_a_certificate_that_the_cluster_signed(fleet: &Fleet) -> Result<()> {
    let settings = std::fs::read_to_string(fleet.folder().join("vk-nats-0.toml"))?;
    ensure!(!settings.contains("serving-cert-file"), "vk-nats serves with files");
    let requests = signed(fleet).await?;
    let [request] = &requests[..] else { anyhow::bail!("{} requests were signed", requests.len()) };
    ensure!(request["spec"]["signerName"] == "kubernetes.io/kubelet-serving", "{request}");
    ensure!(request["status"]["conditions"][0]["reason"] == "RunningReplica", "{request}");
    let left = expires(fleet).await? - jiff::Timestamp::now().as_second();
    ensure!((1..=LIFETIME).contains(&left), "the certificate lives for {left} s more");

    // The API server runs with --kubelet-certificate-authority: it asks nobody whom that has not signed.
    let scene = Scene::open(fleet, "certified").await?;
    let container = shell("c", "echo signed and sealed; exec sleep 100000");
    scene.apply(&pod("speaker", &json!({ "containers": [container], "nodeName": "alpha" }))).await?;
    scene.ready("speaker").await?;
    speaks(&scene, "signed and sealed").await?;
    scene.close().await
}

async fn a_restarted_vk_nats_gets_a_certificate_of_its_own(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "restarted").await?;
    let container = shell("c", "echo here as before; exec sleep 100000");
    scene.apply(&pod("speaker", &json!({ "containers": [container], "nodeName": "alpha" }))).await?;
    scene.ready("speaker").await?;
    let before = signed(fleet).await?.len();
    let ended = expires(fleet).await?;
    // The key was in its memory only, so the certificate is gone with it.
    fleet.vk()?.crash_and_restart().await?;
    ensure!(signed(fleet).await?.len() == before + 1, "it is ready without a new certificate");
    ensure!(expires(fleet).await? >= ended, "it serves with an older certificate");
    speaks(&scene, "here as before").await?;

    // Without the enroller nobody approves: it says so, and goes on as soon as somebody does.
    fleet.enroller()?.process.stop(Duration::from_secs(20)).await?;
    let vk = fleet.vk()?;
    vk.process.kill().await?;
    vk.process.start().await?;
    until("vk-nats to say what it waits for", PATIENCE, async || {
        let waits = vk.ready_report().await?;
        Ok(match waits.contains("waits for the enroller's approval") {
            true => Look::Done(()),
            false => Look::not_yet(waits),
        })
    })
    .await?;
    fleet.node_ready("alpha", "True", PATIENCE).await?;
    fleet.enroller()?.start().await?;
    vk.start().await?;
    speaks(&scene, "here as before").await?;
    scene.close().await
}

/// A request as `vk-nats` makes it, by whoever `kubectl` is.
async fn ask(kubectl: &Kubectl, address: &str) -> Result<String> {
    let mut params = rcgen::CertificateParams::new([address.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:vk-nats-9");
    let request = params.serialize_request(&rcgen::KeyPair::generate()?)?.pem()?;
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "generateName": "vk-nats-serving-" },
        "spec": {
            "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
            "request": ByteString(request.into_bytes()),
        },
    });
    let made = kubectl.fed("create --filename - --output name", &object.to_string()).await?;
    Ok(made.trim().to_owned())
}

async fn an_address_that_is_no_replicas_is_not_approved(fleet: &Fleet) -> Result<()> {
    let account = ServiceAccount::open(fleet.folder(), &fleet.network, e2e::vk::SERVICE_ACCOUNT)?;
    let vk = fleet.kubectl.with_kubeconfig(account.kubeconfig(&fleet.kubectl).await?);
    let own = fleet.vk()?.address.to_string();
    let elsewhere = ask(&vk, "192.0.2.99").await?;
    let approves = vk.ask(&format!("certificate approve {elsewhere}")).await?;
    ensure!(
        !approves.ok() && approves.stderr.contains("orbidden"),
        "vk-nats approves for itself: {approves}"
    );
    let of_another_author = ask(&fleet.kubectl, &own).await?;
    let conditions = async |request: &str| {
        fleet.kubectl.run(&format!("get {request} --output jsonpath={{.status.conditions[*].type}}")).await
    };
    let log = &fleet.enroller()?.process;
    until("the enroller to look at the request", PATIENCE, async || {
        let name = elsewhere.rsplit('/').next().unwrap_or_default().to_owned();
        let told = log.log_text().lines().any(|line| line.contains(&name) && line.contains("192.0.2.99"));
        Ok(if told { Look::Done(()) } else { Look::not_yet("nothing in its log") })
    })
    .await?;
    // A third one, for the own address, is approved meanwhile: whoever was passed over will not be any more.
    let good = ask(&vk, &own).await?;
    until("the own address to be approved", PATIENCE, async || {
        let seen = conditions(&good).await?;
        Ok(if seen == "Approved" { Look::Done(()) } else { Look::not_yet(seen) })
    })
    .await?;
    stays("the other two pending", Duration::from_secs(12), async || {
        let seen = (conditions(&elsewhere).await?, conditions(&of_another_author).await?);
        let pending = seen.0.is_empty() && seen.1.is_empty();
        Ok(if pending { Look::Done(()) } else { Look::not_yet(format!("{seen:?}")) })
    })
    .await?;
    fleet.kubectl.run(&format!("delete {elsewhere} {of_another_author} {good}")).await.map(drop)
}
