//! Who may depend on whom, held to by `cargo metadata` and not by goodwill.
//!
//! Only normal dependencies count, with the features that the workspace's members turn on: what a test
//! uses is not in what runs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

const RUNTIME: &[&str] = &["fleet-wire", "fleet-daemon", "vk-nats", "device-kubelet", "callout"];

fn metadata() -> Metadata {
    // What is not built here was not downloaded, either.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .other_options(vec!["--locked".to_owned(), "--filter-platform".to_owned(), platform])
        .exec()
        .expect("cargo metadata; is Cargo.lock up to date?")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace around the crate").to_owned()
}

/// Everything that ends up in a build of `member`, with a path that leads there.
fn closure(metadata: &Metadata, member: &str) -> BTreeMap<String, String> {
    let root = metadata.workspace_packages().into_iter().find(|package| package.name == member);
    let root = root.unwrap_or_else(|| panic!("{member} is not in the workspace"));
    let nodes: BTreeMap<&PackageId, _> =
        metadata.resolve.iter().flat_map(|resolve| &resolve.nodes).map(|node| (&node.id, node)).collect();
    let mut found = BTreeMap::new();
    let mut queue = VecDeque::from([(&root.id, member.to_owned())]);
    while let Some((id, path)) = queue.pop_front() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            let name = metadata[&dependency.pkg].name.to_string();
            if normal && !found.contains_key(&name) {
                let path = format!("{path} → {name}");
                found.insert(name, path.clone());
                queue.push_back((&dependency.pkg, path));
            }
        }
    }
    found
}

fn assert_free_of(member: &str, forbidden: &[&str]) {
    let closure = closure(&metadata(), member);
    let paths: Vec<_> = forbidden.iter().filter_map(|name| closure.get(*name)).collect();
    assert!(paths.is_empty(), "{member} must not depend on these: {paths:#?}");
}

#[test]
fn the_wire_knows_no_runtime_and_no_network() {
    assert_free_of(
        "fleet-wire",
        &["tokio", "async-nats", "futures", "futures-util", "mio", "kube", "hyper", "rustls"],
    );
}

#[test]
fn the_wire_is_the_lowest_of_our_crates() {
    assert_free_of("fleet-wire", &["fleet-daemon", "fleet-kube", "vk-nats", "device-kubelet", "callout"]);
}

#[test]
fn the_daemon_knows_neither_side() {
    assert_free_of(
        "fleet-daemon",
        &["fleet-kube", "vk-nats", "device-kubelet", "kube", "kube-client", "podman-api"],
    );
}

#[test]
fn the_client_of_the_api_server_knows_neither_side() {
    assert_free_of("fleet-kube", &["vk-nats", "device-kubelet", "callout", "podman-api"]);
}

#[test]
fn the_device_has_no_client_of_kubernetes() {
    assert_free_of("device-kubelet", &["fleet-kube", "kube", "kube-client", "kube-runtime", "vk-nats"]);
}

/// Whoever verifies tokens needs it; the agent only fetches them, and is to stay small.
#[test]
fn the_device_does_not_verify_tokens() {
    assert_free_of("device-kubelet", &["openidconnect", "oauth2", "rsa"]);
}

#[test]
fn the_cluster_side_has_no_client_of_podman() {
    assert_free_of("vk-nats", &["podman-api", "device-kubelet"]);
}

#[test]
fn the_callout_knows_neither_side() {
    assert_free_of("callout", &["vk-nats", "device-kubelet", "podman-api"]);
}

/// Whoever reads settings is not to carry a command line for them, and the command has no service in it.
#[test]
fn the_settings_and_their_command_are_apart() {
    assert_free_of(
        "harmony-config",
        &["harmony-config-cli", "clap", "comfy-table", "fleet-wire", "fleet-daemon"],
    );
    assert_free_of(
        "harmony-config-cli",
        &["fleet-wire", "fleet-daemon", "vk-nats", "device-kubelet", "callout"],
    );
}

/// `fleet login` and people who use a secret store have one flow; each brings its own HTTP client.
#[test]
fn the_login_of_people_stands_alone() {
    assert_free_of(
        "harmony-login",
        &["harmony-config", "vaultrs", "reqwest", "hyper", "rustls", "fleet-wire", "fleet-daemon"],
    );
}

#[test]
fn what_runs_does_not_depend_on_what_deploys_or_tests() {
    for member in RUNTIME {
        assert_free_of(
            member,
            &["e2e", "fleet", "harmony-config-cli", "proptest", "tempfile", "cargo_metadata"],
        );
    }
}

/// Two providers of one process panic in rustls; two TLS implementations are one too many.
#[test]
fn there_is_one_tls_and_one_provider() {
    for member in RUNTIME {
        assert_free_of(member, &["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"]);
    }
}

#[test]
fn podman_is_named_in_one_folder_only() {
    let source = workspace().join("device-kubelet");
    let folder = source.join("src/runtime/podman");
    let mut named = BTreeSet::new();
    let mut folders = vec![source.join("src"), source.join("tests")];
    while let Some(at) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&at) else { continue };
        for entry in entries {
            let path = entry.expect("an entry of a folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && std::fs::read_to_string(&path).expect("a source file").contains("podman_api")
            {
                named.insert(path);
            }
        }
    }
    let module = folder.with_extension("rs");
    named.retain(|path| !path.starts_with(&folder) && *path != module);
    assert!(named.is_empty(), "only {} may name podman_api: {named:#?}", folder.display());
}
