//! Volumes as a device's agent makes them: its unit narrows what it creates (`UMask=0077`), which holds for a whole
//! process, so all tests here run under it. Needs root, for volumes in memory.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use device_kubelet::{
    pods::desired::Desired,
    volumes::{self, PodDirs},
};
use rustix::{
    fs::Mode,
    mount::{UnmountFlags, unmount},
    process::umask,
};
use serde_json::{Value, json};

/// A pod with this volume.
fn pod(volume: Value, config_maps: Value) -> Desired {
    let bundle = json!({
        "pod": {
            "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
            "spec": {
                "securityContext": {"fsGroup": 2000},
                "volumes": [volume],
                "containers": [{"name": "main"}],
            },
        },
        "configMaps": config_maps,
    });
    Desired::parse(&"u1".parse().unwrap(), &bundle.to_string()).unwrap()
}

/// Makes its one volume.
fn prepare(desired: &Desired, dirs: &PodDirs) -> PathBuf {
    umask(Mode::from_raw_mode(0o077));
    volumes::prepare(desired, dirs).unwrap().into_values().next().unwrap().path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn who_may_read_a_file_gets_to_it() {
    let data = tempfile::tempdir().unwrap();
    let items = json!([{"key": "a", "path": "one/two/a"}]);
    let desired = pod(
        json!({"name": "conf", "configMap": {"name": "web", "items": items}}),
        json!({"web": {"data": {"a": "1"}}}),
    );
    let volume = prepare(&desired, &PodDirs::new(data.path(), &desired.key));
    for folder in ["", "..data", "one", "one/two"] {
        assert_eq!(mode(&volume.join(folder)), 0o755, "{folder:?}");
    }
    assert_eq!(mode(&volume.join("one/two/a")), 0o644);
}

#[test]
fn memory_that_a_reboot_emptied_is_the_groups_again() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a tmpfs, which needs root");
    let data = tempfile::tempdir().unwrap();
    let desired = pod(json!({"name": "mem", "emptyDir": {"medium": "Memory"}}), json!({}));
    let dirs = PodDirs::new(data.path(), &desired.key);
    let volume = prepare(&desired, &dirs);
    let given = |volume: &Path| (fs::metadata(volume).unwrap().gid(), mode(volume));
    assert_eq!(given(&volume), (2000, 0o2777));
    // What a program changed stays as it is while the memory does.
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o2770)).unwrap();
    prepare(&desired, &dirs);
    assert_eq!(given(&volume), (2000, 0o2770));
    unmount(&volume, UnmountFlags::empty()).unwrap();
    prepare(&desired, &dirs);
    assert_eq!(given(&volume), (2000, 0o2777));
    dirs.remove_volumes().unwrap();
}

#[test]
fn hosts_are_written_anew_over_whatever_a_container_made_of_them() {
    umask(Mode::from_raw_mode(0o077));
    let folder = tempfile::tempdir().unwrap();
    let desired = pod(json!({"name": "v", "emptyDir": {}}), json!({}));
    let dirs = PodDirs::new(folder.path(), &desired.key);
    let path = dirs.write_hosts("127.0.0.1\tlocalhost\n").unwrap();
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o644, "any user of the container may read it");
    // More than there is memory for; without blocks on the disk.
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(dirs.write_hosts("127.0.0.1\tlocalhost\n").unwrap(), path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1\tlocalhost\n");
    assert_eq!(mode(), 0o644);
}
