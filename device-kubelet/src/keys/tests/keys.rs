#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;

#[test]
fn keys_are_made_once_and_private() {
    let dir = tempfile::tempdir().unwrap();
    let made = DeviceKeys::load_or_create(dir.path()).unwrap().public();
    assert!(made.fingerprint.starts_with("SHA256:"));
    assert_eq!(DeviceKeys::load_or_create(dir.path()).unwrap().public(), made);
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("keys"), 0o700);
    assert_eq!(mode("keys/identity.nk"), 0o600);
    assert_eq!(mode("keys/curve.nk"), 0o600);
    assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn a_readable_seed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    DeviceKeys::load_or_create(dir.path()).unwrap();
    let path = dir.path().join("keys/curve.nk");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = DeviceKeys::load_or_create(dir.path()).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.path().join("keys"), fs::Permissions::from_mode(0o755)).unwrap();
    let error = DeviceKeys::load_or_create(dir.path()).unwrap_err();
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

#[test]
fn a_damaged_seed_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    DeviceKeys::load_or_create(dir.path()).unwrap();
    for name in ["identity.nk", "curve.nk"] {
        let path = dir.path().join("keys").join(name);
        let good = fs::read(&path).unwrap();
        // An account's seed is a valid nkey, but of another kind.
        for bad in ["", "garbage", &KeyPair::new_account().seed().unwrap()] {
            fs::write(&path, bad).unwrap();
            let error = DeviceKeys::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, KeysError::Garbage { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn debug_output_has_no_seed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = DeviceKeys::load_or_create(dir.path()).unwrap();
    let shown = format!("{keys:?}");
    assert!(!shown.contains("SU") || !shown.contains(keys.identity_seed()), "{shown}");
}

#[test]
fn next_keys_are_kept_until_they_take_the_place_of_the_old_ones() {
    let dir = tempfile::tempdir().unwrap();
    let old = DeviceKeys::load_or_create(dir.path()).unwrap().public();
    assert!(DeviceKeys::next(dir.path()).unwrap().is_none());
    let next = DeviceKeys::make_next(dir.path()).unwrap().public();
    assert_ne!(next, old);
    assert_eq!(DeviceKeys::make_next(dir.path()).unwrap().public(), next, "asked again, the same");
    assert_eq!(DeviceKeys::load_or_create(dir.path()).unwrap().public(), old, "the old ones are untouched");
    assert_eq!(DeviceKeys::promote_next(dir.path()).unwrap().public(), next);
    assert_eq!(DeviceKeys::load_or_create(dir.path()).unwrap().public(), next);
    assert!(DeviceKeys::next(dir.path()).unwrap().is_none());
    assert_eq!(DeviceKeys::promote_next(dir.path()).unwrap().public(), next, "done once");
    assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 2);
}

#[test]
fn next_keys_that_the_fleet_does_not_take_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let old = DeviceKeys::load_or_create(dir.path()).unwrap().public();
    DeviceKeys::drop_next(dir.path()).unwrap();
    DeviceKeys::make_next(dir.path()).unwrap();
    DeviceKeys::drop_next(dir.path()).unwrap();
    assert!(DeviceKeys::next(dir.path()).unwrap().is_none());
    assert_eq!(DeviceKeys::load_or_create(dir.path()).unwrap().public(), old);
}

/// A power cut after each step: what is proved to the fleet is never lost, and never half of it used.
#[test]
fn a_replacement_that_was_interrupted_is_finished() {
    for steps in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        DeviceKeys::load_or_create(dir.path()).unwrap();
        let next = DeviceKeys::make_next(dir.path()).unwrap().public();
        let keys = dir.path().join("keys");
        fs::rename(keys.join("next"), keys.join("proved")).unwrap();
        for name in ["identity.nk", "curve.nk"].iter().take(steps) {
            fs::rename(keys.join("proved").join(name), keys.join(name)).unwrap();
        }
        if steps == 3 {
            fs::remove_dir(keys.join("proved")).unwrap();
        }
        assert_eq!(DeviceKeys::load_or_create(dir.path()).unwrap().public(), next, "after {steps} steps");
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 2);
    }
}
