//! What a device keeps of its pods is sealed: nobody reads it without the key, and it goes with the key.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod pods_device;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use device_kubelet::{
    pods::{Pods, PodsError, PodsSettings},
    store::StoreError,
};
use k8s_openapi::ByteString;
use pods_device::{Device, FOREVER, files, settle, simple};
use serde_json::json;

const SECRET: &str = "correct horse battery staple";

/// A pod with a Secret in its environment.
fn with_secret(name: &str, uid: &str) -> serde_json::Value {
    let mut bundle = simple(name, uid, "Always", FOREVER);
    let reference = json!({"secretKeyRef": {"name": "web", "key": "key"}});
    bundle["pod"]["spec"]["containers"][0]["env"] = json!([{"name": "KEY", "valueFrom": reference}]);
    let value = serde_json::to_value(ByteString(SECRET.into())).unwrap();
    bundle["secrets"] = json!({"web": {"data": {"key": value}}});
    bundle
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(all_files(&path)) } else { all.push(path) }
    }
    all
}

/// Neither the Secret nor its base64 nor the pod's name stands in any file; but for the name in the pod's own `/etc/hosts`.
fn assert_nothing_shows(device: &Device) {
    let encoded = serde_json::to_value(ByteString(SECRET.into())).unwrap();
    let files = all_files(device.dir.path());
    assert!(files.len() >= 5, "{files:?}");
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let name = (!path.ends_with("hosts")).then_some("known-name");
        for text in [SECRET, encoded.as_str().unwrap()].into_iter().chain(name) {
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{} shows {text}", path.display());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_of_pods_are_not_readable_in_the_data_folder() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(with_secret("known-name", "u1")).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    assert_nothing_shows(&device);
    device.restart_agent().await;
    device.until_phase("u1", "Running").await;
    assert_nothing_shows(&device);
}

#[tokio::test(start_paused = true)]
async fn keys_of_the_store_change_under_running_pods() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(with_secret("known-name", "u1")).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let (containers, held) = (device.containers().await, device.pods.held());
    let keys = ["sealing.key", "data-key.json"].map(|name| device.dir.path().join("keys").join(name));
    let before = keys.clone().map(|path| fs::read(path).unwrap());
    device.pods.renew_keys().await.unwrap();
    for (path, before) in keys.iter().zip(before) {
        assert_ne!(fs::read(path).unwrap(), before);
    }
    assert_nothing_shows(&device);
    device.restart_agent().await;
    assert_eq!(device.pods.held(), held);
    device.until_phase("u1", "Running").await;
    assert_eq!(device.containers().await, containers);
    assert!(!device.dir.path().join("store/broken").exists());
}

#[tokio::test(start_paused = true)]
async fn what_a_revoked_device_held_is_erased_with_its_key() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(with_secret("known-name", "u1")).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let bundle = files(&device, "bundles").remove(0);
    let (sealed, version) = (fs::read(&bundle).unwrap(), device.pods.held().version);
    let index = device.dir.path().join("store/index");
    let sealed_index = fs::read(&index).unwrap();
    device.pods.erase().await.unwrap();
    assert!(files(&device, "bundles").is_empty());
    let writes = device.pods.writes();
    device.pods.erase().await.unwrap();
    settle().await;
    assert_eq!(device.pods.held().version, version);
    assert!(device.containers().await.is_empty());
    // What flash may have kept of the files opens no more, even with all that is on the disk now.
    let keys = fs::read(device.dir.path().join("keys/data-key.json")).unwrap();
    device.pods.erase().await.unwrap();
    assert_eq!(fs::read(device.dir.path().join("keys/data-key.json")).unwrap(), keys, "once is enough");
    assert!(device.pods.writes().files <= writes.files + 2, "the pod's last record, no more");
    fs::write(&bundle, sealed).unwrap();
    fs::write(&index, sealed_index).unwrap();
    device.restart_agent().await;
    assert!(device.pods.held().bundles.is_empty());
    assert_eq!(files(&device, "broken").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_its_sealing_key_does_not_start_and_stops_nothing() {
    let mut device = Device::with_image("busybox:1").await;
    device.apply(with_secret("known-name", "u1")).await;
    device.until_phase("u1", "Running").await;
    settle().await;
    let containers = device.containers().await;
    let (key, kept) = (device.dir.path().join("keys/sealing.key"), device.dir.path().join("kept"));
    fs::rename(&key, &kept).unwrap();
    let settings = PodsSettings::new(device.dir.path(), "pi-7".parse().unwrap());
    let started = Pods::start(Arc::new(device.runtime.clone()), settings, Default::default()).await;
    let Err(PodsError::Store(StoreError::Sealing(error))) = started else {
        panic!("it started without its key")
    };
    assert!(error.to_string().contains("restart counts"), "{error}");
    assert_eq!(device.containers().await, containers);
    fs::rename(&kept, &key).unwrap();
    device.restart_agent().await;
    device.until_phase("u1", "Running").await;
    assert_eq!(device.containers().await, containers);
}
