//! Who may depend on whom, held to by `cargo tree` and not by goodwill.
//!
//! Only normal dependencies count: what a test uses is not in what runs. Each member is resolved by itself, with all
//! features of its own, as it is built for a machine: what another member turns on in a crate that both have is not in
//! it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

const RUNTIME: &[&str] = &["fleet-wire", "fleet-daemon", "vk-nats", "device-kubelet", "callout"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace around the crate").to_owned()
}

/// Everything that ends up in a build of `member`, with a path that leads there.
fn closure(member: &str) -> BTreeMap<String, String> {
    // What is not built here was not downloaded, either.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let tree = Command::new(env!("CARGO"))
        .current_dir(workspace())
        .args(["tree", "--locked", "--package", member, "--all-features", "--edges", "normal"])
        .args(["--target", &platform, "--prefix", "depth", "--format", " {p}"])
        .output()
        .expect("cargo tree");
    let errors = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "cargo tree; is Cargo.lock up to date? {errors}");
    let (mut found, mut above) = (BTreeMap::new(), Vec::new());
    for line in String::from_utf8(tree.stdout).expect("names in UTF-8").lines() {
        let mut words = line.split(' ');
        let depth: usize = words.next().and_then(|depth| depth.parse().ok()).expect("a depth");
        above.truncate(depth);
        above.push(words.next().expect("a name").to_owned());
        found.entry(above[depth].clone()).or_insert_with(|| above.join(" → "));
    }
    assert!(found.len() > 1, "{member} has dependencies: {found:?}");
    found.remove(member);
    found
}

fn assert_free_of(member: &str, forbidden: &[&str]) {
    let closure = closure(member);
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

/// It reads settings from flags, variables and a file, and keeps none.
#[test]
fn the_device_has_no_database_and_no_store_of_settings() {
    assert_free_of(
        "device-kubelet",
        &["rusqlite", "vaultrs", "reqwest", "inquire", "jsonschema", "serde-saphyr"],
    );
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
        assert_free_of(member, &["e2e", "fleet", "harmony-config-cli", "proptest", "tempfile"]);
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
