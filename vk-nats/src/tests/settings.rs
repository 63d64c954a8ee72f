use super::*;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("user.nk", &nkeys::KeyPair::new_user().seed().unwrap());
        files.write("1.nk", &nkeys::XKey::new().seed().unwrap());
        files
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn flags(&self) -> Flags {
        let path = |name: &str| Some(self.0.path().join(name));
        Flags {
            identity: Some("vk-0".to_owned()),
            nats_url: Some("nats://10.0.0.1:4222".to_owned()),
            nats_seed_file: path("user.nk"),
            fleet_key_files: Some(vec![self.0.path().join("1.nk")]),
            node_address: Some("10.0.0.5".to_owned()),
            ..Flags::default()
        }
    }
}

fn refusal(flags: Flags) -> String {
    flags.check().unwrap_err().to_string()
}

#[test]
fn a_minimal_setup_has_the_defaults() {
    let files = Files::new();
    let settings = files.flags().check().unwrap();
    assert_eq!(settings.namespace, "harmony-fleet");
    assert_eq!(settings.node_port_range.size(), 10_000);
    assert_eq!(settings.node_lease_duration, Duration::from_secs(40));
    assert_eq!(settings.fleet.keys.newest().0, fleet_wire::name::KeyVersion(1));
}

#[test]
fn a_wrong_setting_is_named_with_its_value_and_what_was_expected() {
    let files = Files::new();
    let address = refusal(Flags { node_address: Some("pi".into()), ..files.flags() });
    assert!(address.contains("node-address") && address.contains("pi") && address.contains("IP address"));
    let loopback = refusal(Flags { node_address: Some("127.0.0.1".into()), ..files.flags() });
    assert!(loopback.contains("no loopback"), "{loopback}");
    let range = refusal(Flags { node_port_range: Some("9-1".into()), ..files.flags() });
    assert!(range.contains("node-port-range"), "{range}");
    let missing = refusal(Flags { nats_url: None, ..files.flags() });
    assert!(missing.contains("nats-url"), "{missing}");
    let lease = refusal(Flags { node_lease_duration: Some(Seconds(5)), ..files.flags() });
    assert!(lease.contains("node-lease-duration"), "{lease}");
}

#[test]
fn a_certificate_comes_from_two_files_or_from_the_cluster() {
    let files = Files::new();
    let of = |certificate: Option<&str>, key: Option<&str>, lifetime| Flags {
        serving_cert_file: certificate.map(PathBuf::from),
        serving_key_file: key.map(PathBuf::from),
        serving_cert_lifetime: lifetime,
        ..files.flags()
    };
    let week = ServingCertificate::Cluster { lifetime: Duration::from_secs(604_800) };
    assert_eq!(of(None, None, None).check().unwrap().serving_certificate, week);
    let both = of(Some("tls.crt"), Some("tls.key"), None).check().unwrap().serving_certificate;
    assert!(matches!(both, ServingCertificate::Files { .. }));
    let half = refusal(of(Some("tls.crt"), None, None));
    assert!(half.contains("serving-key-file"), "{half}");
    let short = refusal(of(None, None, Some(Seconds(60))));
    assert!(short.contains("serving-cert-lifetime") && short.contains("600"), "{short}");
}

#[test]
fn a_token_file_replaces_the_seed_file_and_one_of_them_is_needed() {
    let files = Files::new();
    let token = files.0.path().join("token");
    let keyless = |token| Flags { nats_seed_file: None, nats_token_file: token, ..files.flags() };
    let refused = refusal(keyless(None));
    assert!(refused.contains("nats-token-file") && refused.contains("nats-credential-file"), "{refused}");
    let public = |flags: Flags| match flags.check().unwrap().nats.login() {
        fleet_daemon::credential::Login::Credential { key, token: Some(_) } => {
            key.key_pair().unwrap().public_key()
        }
        other => panic!("{other:?}"),
    };
    // The token is read at each connection: at the start it may be missing.
    let first = public(keyless(Some(token.clone())));
    assert_ne!(public(keyless(Some(token.clone()))), first, "a fresh key at each start");
    let both = Flags { nats_token_file: Some(token), ..files.flags() };
    assert_eq!(public(both.clone()), public(both));
    let account = files.write("account.nk", &nkeys::KeyPair::new_account().seed().unwrap());
    let refused = refusal(Flags { nats_seed_file: Some(account), ..files.flags() });
    assert!(refused.contains("nats-seed-file") && refused.contains("SU"), "{refused}");
}

#[test]
fn key_files_are_named_by_version_and_their_content_never_shows() {
    let files = Files::new();
    let named = files.write("curve.nk", "SX");
    let refused = refusal(Flags { fleet_key_files: Some(vec![named]), ..files.flags() });
    assert!(refused.contains("<version>.nk"), "{refused}");
    let garbage = files.write("2.nk", "SXGARBAGEGARBAGE");
    let refused = refusal(Flags { fleet_key_files: Some(vec![garbage]), ..files.flags() });
    assert!(refused.contains("fleet-key-files") && !refused.contains("GARBAGEGARBAGE"), "{refused}");
}

#[test]
fn the_file_knows_every_flag_and_nothing_else() {
    let files = Files::new();
    let file = files.write("vk.toml", "namespace = \"fleet\"\nnode-lease-duration = 30\n");
    let flags = Flags { namespace: Some("mine".to_owned()), ..Flags::default() };
    let merged = fleet_daemon::settings::merge(Some(&file), flags).unwrap();
    assert_eq!(merged.namespace.as_deref(), Some("mine"));
    assert_eq!(merged.node_lease_duration, Some(Seconds(30)));
    let file = files.write("typo.toml", "namespase = \"fleet\"\n");
    let refused = fleet_daemon::settings::merge(Some(&file), Flags::default()).unwrap_err();
    assert!(refused.to_string().contains("namespase"));
}
