//! Who may do what at the API server: the marks on Nodes, and the rights of each component, listed and tried.

use anyhow::{Context as _, Result, ensure};
use e2e::accounts::{NAMESPACE, ServiceAccount};
use e2e::fleet::{Fleet, FleetOptions};
use e2e::kubectl::Kubectl;
use e2e::scenarios;
use e2e::workload::{Scene, pod, shell};
use fleet_wire::enrollment::{RECORDS_NAMESPACE, TOKENS_NAMESPACE};
use serde_json::json;

scenarios!(
    FleetOptions::with_devices(["alpha", "beta"]);
    only_the_enroller_marks_nodes,
    controllers_do_not_delete_devices,
    vk_nats_does_what_a_kubelet_does_and_no_more,
    the_callout_reads_records_and_nothing_else,
    the_enroller_makes_devices_and_reads_nothing_of_theirs,
);

/// `kubectl` as a service account of the fleet.
async fn acting_as(fleet: &Fleet, account: &'static str) -> Result<Kubectl> {
    let account = ServiceAccount::open(fleet.folder(), &fleet.network, account)?;
    Ok(fleet.kubectl.with_kubeconfig(account.kubeconfig(&fleet.kubectl).await?))
}

/// What is refused, with the words that the refusal has to contain.
async fn refused(kubectl: &Kubectl, line: &str, because: &str) -> Result<()> {
    let answer = kubectl.ask(line).await?;
    ensure!(!answer.ok() && answer.stderr.contains(because), "expected a refusal with `{because}`: {answer}");
    Ok(())
}

async fn works(kubectl: &Kubectl, line: &str) -> Result<()> {
    kubectl.run(line).await.map(drop)
}

/// The whole list of rights that an account has beyond what everybody has.
async fn rights(kubectl: &Kubectl, namespace: &str) -> Result<String> {
    kubectl.run(&format!("auth can-i --list --namespace {namespace}")).await
}

#[expect(clippy::print_stdout, reason = "the list is for whoever reads the test's output")]
fn show(account: &str, namespace: &str, list: &str) {
    println!("\n{account} in {namespace}\n{}", list.trim_end());
}

async fn only_the_enroller_marks_nodes(fleet: &Fleet) -> Result<()> {
    // An administrator of Nodes, as a cloud's node controller or a platform team's account is one.
    let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "nodes", "namespace": NAMESPACE } },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "nodes" },
          "rules": [{ "apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["*"] }] },
        { "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "nodes" },
          "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "nodes" },
          "subjects": [{ "kind": "ServiceAccount", "name": "nodes", "namespace": NAMESPACE }] },
    ]});
    fleet.kubectl.apply(&objects.to_string()).await?;
    let nodes = acting_as(fleet, "nodes").await?;
    let denied = "ValidatingAdmissionPolicy";
    works(&nodes, "label node alpha site=hall").await?;
    works(&nodes, "annotate node alpha example.com/note=fine").await?;
    refused(&nodes, "annotate node alpha --overwrite fleet.harmony.io/identity-key=UX", denied).await?;
    refused(&nodes, "annotate node alpha fleet.harmony.io/curve-key-", denied).await?;
    refused(&nodes, "label node alpha --overwrite fleet.harmony.io/device=false", denied).await?;
    refused(&nodes, "label node alpha fleet.harmony.io/device-", denied).await?;
    refused(&nodes, "annotate node alpha --overwrite fleet.harmony.io/incarnation=9.x", denied).await?;
    let status = r#"--patch={"metadata":{"annotations":{"fleet.harmony.io/identity-key":"UX"}}}"#;
    let args = ["patch", "node", "alpha", "--subresource=status", "--type=merge", status];
    ensure!(nodes.run_args(&args).await.is_err(), "nodes/status lets it through");
    let before = fleet.kubectl.json("get node alpha").await?["metadata"]["annotations"].clone();
    ensure!(
        before["fleet.harmony.io/identity-key"].as_str().is_some_and(|key| key.starts_with('U')),
        "{before}"
    );
    let made = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"fake","labels":{"fleet.harmony.io/device":"true"}}}"#;
    ensure!(nodes.apply(made).await.is_err(), "a Node with the label of devices was made");
    fleet.kubectl.run("delete clusterrolebinding nodes").await?;
    fleet.kubectl.run("label node alpha site-").await.map(drop)
}

async fn controllers_do_not_delete_devices(fleet: &Fleet) -> Result<()> {
    let controller = "delete node alpha --as system:serviceaccount:kube-system:node-controller --wait=false";
    let cloud = "delete node alpha --as system:serviceaccount:kube-system:cloud-node-lifecycle-controller --as-group system:masters --wait=false";
    for line in [controller, cloud] {
        let answer = fleet.kubectl.ask(line).await?;
        ensure!(!answer.ok(), "{answer}");
    }
    fleet.node_ready("alpha", "True", e2e::workload::PATIENCE).await
}

async fn vk_nats_does_what_a_kubelet_does_and_no_more(fleet: &Fleet) -> Result<()> {
    let scene = Scene::open(fleet, "rights").await?;
    for name in ["used", "unused"] {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "stringData": { "word": "hidden" } });
        scene.apply(&secret).await?;
    }
    let mut container = shell("c", "exec sleep 100000");
    container["envFrom"] = json!([{ "secretRef": { "name": "used" } }]);
    scene.apply(&pod("uses", &json!({ "containers": [container], "nodeName": "alpha" }))).await?;
    scene.ready("uses").await?;

    let vk = acting_as(fleet, e2e::vk::SERVICE_ACCOUNT).await?;
    for namespace in ["rights", NAMESPACE] {
        show("vk-nats", namespace, &rights(&vk, namespace).await?);
    }
    let forbidden = "orbidden";
    works(&vk, "get pods --all-namespaces").await?;
    refused(&vk, "get secrets --all-namespaces", forbidden).await?;
    refused(&vk, "get secret used --namespace rights", forbidden).await?;
    for namespace in [RECORDS_NAMESPACE, TOKENS_NAMESPACE, NAMESPACE] {
        refused(&vk, &format!("get secrets --namespace {namespace}"), forbidden).await?;
    }
    refused(&vk, "create namespace mine", forbidden).await?;
    refused(&vk, "delete node alpha --wait=false", forbidden).await?;
    refused(&vk, "delete pod uses --namespace rights --wait=false", forbidden).await?;
    // It asks for its own serving certificate, and approves none.
    let request = fleet.kubectl.run("get certificatesigningrequests --output name").await?;
    let request = request.lines().find(|name| name.contains("vk-nats-serving")).context("no request")?;
    works(&vk, &format!("get {request}")).await?;
    refused(&vk, "get certificatesigningrequests", forbidden).await?;
    refused(&vk, &format!("delete {request}"), forbidden).await?;
    let foreign = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": "vk-nats-as-somebody" },
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
            "request": fleet.kubectl.json(&format!("get {request}")).await?["spec"]["request"],
        },
    });
    let refusal =
        vk.fed("create --filename -", &foreign.to_string()).await.err().map(|error| error.to_string());
    ensure!(
        refusal.as_deref().is_some_and(|text| text.contains("serving certificates only")),
        "vk-nats asks for a client certificate: {refusal:?}"
    );
    for (verb, resource) in [
        ("update", "certificatesigningrequests/approval"),
        ("approve", "signers.certificates.k8s.io/kubernetes.io/kubelet-serving"),
        ("sign", "signers.certificates.k8s.io/kubernetes.io/kubelet-serving"),
    ] {
        let answer = vk.ask(&format!("auth can-i {verb} {resource}")).await?;
        ensure!(answer.stdout.trim() == "no", "{answer}");
    }
    refused(&vk, "get pods --all-namespaces --as kubernetes-admin", forbidden).await?;
    refused(&vk, "get pods --all-namespaces --as someone --as-group system:masters", forbidden).await?;

    // As the device's node: what its pods refer to, and nothing else.
    let read = |secret: &str, node: &str| {
        format!("get --raw /api/v1/namespaces/rights/secrets/{secret} --as system:node:{node}")
    };
    works(&vk, &read("used", "alpha")).await?;
    refused(&vk, &read("unused", "alpha"), forbidden).await?;
    refused(&vk, &read("used", "beta"), forbidden).await?;
    refused(&vk, "get --raw /api/v1/nodes --as system:node:alpha", forbidden).await?;
    refused(&vk, "delete node alpha --as system:node:alpha --wait=false", forbidden).await?;
    refused(&vk, "delete pod uses --namespace rights --as system:node:beta --wait=false", forbidden).await?;
    scene.close().await
}

async fn the_callout_reads_records_and_nothing_else(fleet: &Fleet) -> Result<()> {
    let callout = acting_as(fleet, e2e::callout::SERVICE_ACCOUNT).await?;
    for namespace in [RECORDS_NAMESPACE, TOKENS_NAMESPACE, NAMESPACE, "default"] {
        show("callout", namespace, &rights(&callout, namespace).await?);
    }
    let forbidden = "orbidden";
    works(&callout, &format!("get secrets --namespace {RECORDS_NAMESPACE}")).await?;
    refused(&callout, "get secrets --all-namespaces", forbidden).await?;
    refused(&callout, "get secrets --namespace default", forbidden).await?;
    refused(&callout, &format!("get secrets --namespace {NAMESPACE}"), forbidden).await?;
    refused(&callout, &format!("get secrets --namespace {TOKENS_NAMESPACE}"), forbidden).await?;
    refused(&callout, &format!("delete secret device-alpha --namespace {RECORDS_NAMESPACE}"), forbidden)
        .await?;
    refused(&callout, "get pods --all-namespaces", forbidden).await?;
    refused(&callout, "delete node alpha --wait=false", forbidden).await?;
    refused(&callout, "annotate node alpha example.com/x=y", forbidden).await?;
    refused(&callout, "get certificatesigningrequests", forbidden).await?;
    refused(&callout, "get nodes --as system:node:alpha", forbidden).await
}

async fn the_enroller_makes_devices_and_reads_nothing_of_theirs(fleet: &Fleet) -> Result<()> {
    let enroller = acting_as(fleet, e2e::enroller::SERVICE_ACCOUNT).await?;
    for namespace in [RECORDS_NAMESPACE, TOKENS_NAMESPACE, NAMESPACE, "default"] {
        show("enroller", namespace, &rights(&enroller, namespace).await?);
    }
    let forbidden = "orbidden";
    works(&enroller, &format!("get secrets --namespace {RECORDS_NAMESPACE}")).await?;
    works(&enroller, &format!("get secrets --namespace {TOKENS_NAMESPACE}")).await?;
    // The fleet's keys: the curve keys of vk-nats, and the static logins of NATS. It may read no Secret there,
    // whatever its name is.
    for secret in ["fleet-nats-auth", "fleet-curve-keys", "any-other"] {
        refused(&enroller, &format!("get secret {secret} --namespace {NAMESPACE}"), forbidden).await?;
    }
    for line in ["get secrets", "delete secret fleet-nats-auth", "create secret generic mine"] {
        refused(&enroller, &format!("{line} --namespace {NAMESPACE}"), forbidden).await?;
    }
    refused(&enroller, &format!("create secret generic mine --namespace {TOKENS_NAMESPACE}"), forbidden)
        .await?;
    works(&enroller, "get certificatesigningrequests").await?;
    works(&enroller, "get nodes").await?;
    refused(&enroller, "get secrets --all-namespaces", forbidden).await?;
    refused(&enroller, "get secrets --namespace default", forbidden).await?;
    refused(&enroller, "get configmaps --all-namespaces", forbidden).await?;
    refused(&enroller, "delete node alpha --wait=false", forbidden).await?;
    refused(&enroller, "get secrets --namespace default --as system:node:alpha", forbidden).await?;
    refused(&enroller, "create clusterrolebinding mine --clusterrole cluster-admin --user me", forbidden)
        .await?;
    // It approves serving certificates, and not the request of a device: people do that.
    let check = "auth can-i approve signers.certificates.k8s.io/fleet.harmony.io/device";
    let answer = enroller.ask(check).await?;
    ensure!(answer.stdout.trim() == "no", "{answer}");
    Ok(())
}
