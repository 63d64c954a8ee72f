//! kwok beside us: nodes and pods that exist in the API only, kept by one process.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use e2e::answer::Answer;
use e2e::binaries::{self, Tools};
use e2e::fleet::Fleet;
use e2e::process::{Process, Spec};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::process::Command;

/// The nodes that kwok keeps, by annotation.
const MANAGED: (&str, &str) = ("kwok.x-k8s.io/node", "fake");
/// Its own stages for pods and nodes that are ready as fast as it can, and renew Leases.
const STAGES: [&str; 3] = ["pod/fast", "node/fast", "node/heartbeat-with-lease"];

/// The process, with its published stages and its default settings, Leases on.
pub async fn process(fleet: &Fleet) -> Result<Process> {
    let stages = fleet.folder().join("kwok-stages.yaml");
    fs::write(&stages, published_stages().await?)?;
    let (key, value) = MANAGED;
    let args = [
        format!("--kubeconfig={}", fleet.kubectl.kubeconfig().display()),
        format!("--config={}", stages.display()),
        format!("--manage-nodes-with-annotation-selector={key}={value}"),
        "--manage-all-nodes=false".to_owned(),
        "--node-lease-duration-seconds=40".to_owned(),
    ];
    let spec = Spec {
        name: "kwok".to_owned(),
        program: Tools::locate().await?.path("kwok")?,
        args: args.into(),
        env: BTreeMap::new(),
        netns: Some(fleet.network.cluster()),
    };
    Ok(Process::new(fleet.folder(), spec))
}

/// A node for it.
pub fn node(number: usize, label: (&str, &str)) -> Result<Node> {
    let name = format!("kwok-{number}");
    let node = json!({
        "metadata": {
            "name": name,
            "annotations": { (MANAGED.0): MANAGED.1 },
            "labels": { (label.0): label.1, "kubernetes.io/hostname": name },
        },
    });
    serde_json::from_value(node).context("the node is none")
}

/// From its module, in the version that is pinned: they are part of what is compared with.
async fn published_stages() -> Result<String> {
    let pinned = binaries::repository()?.join("e2e/tools/kwok");
    let mut command = Command::new("go");
    command.current_dir(pinned).args(["mod", "download", "-json", "sigs.k8s.io/kwok"]);
    let answer: serde_json::Value = serde_json::from_str(&Answer::of(&mut command).await?.success()?)?;
    let module = answer["Dir"].as_str().context("`go mod download` names no folder")?;
    let mut documents = Vec::new();
    for stage in STAGES {
        let folder = PathBuf::from(module).join("kustomize/stage").join(stage);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .with_context(|| format!("kwok has no stages in {}", folder.display()))?
            .flatten()
            .map(|file| file.path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
            .filter(|path| !path.ends_with("kustomization.yaml"))
            .collect();
        files.sort();
        for file in files {
            documents.push(fs::read_to_string(file)?);
        }
    }
    Ok(documents.join("\n---\n"))
}
