#![allow(clippy::unwrap_used)]

use nkeys::{KeyPair, XKey};

use super::*;

fn flags(folder: &Path) -> Flags {
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    Flags {
        nats_url: Some("tls://nats:4222".to_owned()),
        nats_token_file: Some(folder.join("token")),
        system_seed_file: Some(file("kicker.nk", &KeyPair::new_user().seed().unwrap())),
        enroller_key_files: Some(vec![file("1.nk", &XKey::new().seed().unwrap())]),
        fleet_keys_file: Some(folder.join("keys.json")),
        ..Flags::default()
    }
}

#[test]
fn defaults_are_those_of_the_manifests() {
    let folder = tempfile::tempdir().unwrap();
    let settings = flags(folder.path()).check().unwrap();
    assert_eq!(settings.namespace, "harmony-fleet");
    assert_eq!(settings.records_namespace, "harmony-fleet-devices");
    assert_eq!(settings.tokens_namespace, "harmony-fleet-tokens");
    assert_eq!(settings.retention, Duration::from_secs(30 * 24 * 3600));
    assert!(settings.taint);
}

#[test]
fn wrong_settings_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |change: fn(&mut Flags)| {
        let mut flags = flags(folder.path());
        change(&mut flags);
        flags.check().unwrap_err().to_string()
    };
    let cases = [
        (wrong(|flags| flags.nats_url = None), "nats-url"),
        (wrong(|flags| flags.nats_token_file = None), "nats-token-file"),
        (wrong(|flags| flags.system_seed_file = Some("/nowhere".into())), "system-seed-file"),
        (wrong(|flags| flags.enroller_key_files = Some(vec!["/nowhere/key".into()])), "enroller-key-files"),
        (wrong(|flags| flags.retention = Some(0)), "retention"),
        (wrong(|flags| flags.records_namespace = Some("harmony-fleet".to_owned())), "records-namespace"),
        (wrong(|flags| flags.tokens_namespace = Some("harmony-fleet".to_owned())), "tokens-namespace"),
        (
            wrong(|flags| flags.tokens_namespace = Some("harmony-fleet-devices".to_owned())),
            "tokens-namespace",
        ),
        (wrong(|flags| flags.pod_cidr = Some("10.0.0.0/33".to_owned())), "pod-cidr"),
        (wrong(|flags| flags.pod_cidr = Some("10.0.0.0".to_owned())), "pod-cidr"),
        (wrong(|flags| flags.serving_addresses = Some(vec!["vk".to_owned()])), "serving-addresses"),
        (wrong(|flags| flags.health_listen = Some("8080".to_owned())), "health-listen"),
    ];
    for (error, key) in cases {
        assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
    }
}
