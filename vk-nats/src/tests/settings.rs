//! Settings of `vk-nats`: defaults, and how faults are told.

use clap::Parser as _;
use fleet_daemon::settings::CommandLine;

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

    /// The least that a file has to have, with these settings changed; `None` leaves one away.
    fn settings(&self, changes: &[(&str, Option<toml::Value>)]) -> Result<Settings, SettingsError> {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let mut table = toml::toml! {
            identity = "vk-0"
            nats-url = "nats://10.0.0.1:4222"
            node-address = "10.0.0.5"
        };
        table.insert("nats-seed-file".into(), path("user.nk").into());
        table.insert("fleet-key-files".into(), vec![path("1.nk")].into());
        for (key, value) in changes {
            match value {
                Some(value) => table.insert((*key).to_owned(), value.clone()),
                None => table.remove(*key),
            };
        }
        let file = self.write("vk.toml", &table.to_string());
        self.start(&["--config", &file.display().to_string()], &[])
    }

    fn start(&self, flags: &[&str], variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let line = Line::parse_from(std::iter::once(&"vk-nats").chain(flags));
        let (given, origins) = line.settings.load_with(variables)?;
        given.check(&origins)
    }

    fn refusal(&self, changes: &[(&str, Option<toml::Value>)]) -> String {
        self.settings(changes).unwrap_err().to_string()
    }
}

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: CommandLine<VkNats>,
}

#[test]
fn a_minimal_setup_has_the_defaults() {
    let settings = Files::new().settings(&[]).unwrap();
    assert_eq!(settings.namespace, "harmony-fleet");
    assert_eq!(settings.node_port_range.size(), 10_000);
    assert_eq!(settings.node_lease_duration, Duration::from_secs(40));
    assert_eq!(settings.fleet.keys.newest().0, fleet_wire::name::KeyVersion(1));
    assert!(settings.listen_address.is_unspecified());
}

#[test]
fn a_wrong_setting_is_named_with_its_value_and_what_was_expected() {
    let files = Files::new();
    let refused = |key: &str, value: toml::Value| files.refusal(&[(key, Some(value))]);
    let address = refused("node-address", "pi".into());
    assert!(
        address.contains("`node-address` = \"pi\" (file /") && address.contains("IP address"),
        "{address}"
    );
    let loopback = refused("node-address", "127.0.0.1".into());
    assert!(loopback.contains("no loopback") && loopback.contains("vk.toml"), "{loopback}");
    let range = refused("node-port-range", "9-1".into());
    assert!(range.contains("node-port-range") && range.contains("10300-20299"), "{range}");
    let missing = files.refusal(&[("nats-url", None)]);
    assert!(missing.contains("nats-url") && missing.contains("VK_NATS_NATS_URL"), "{missing}");
    let lease = refused("node-lease-duration", 5.into());
    assert!(lease.contains("node-lease-duration") && lease.contains("at least 20"), "{lease}");
    let identity = refused("identity", " ".into());
    assert!(identity.contains("not empty"), "{identity}");
}

#[test]
fn a_certificate_comes_from_two_files_or_from_the_cluster() {
    let files = Files::new();
    let of = |certificate: Option<&str>, key: Option<&str>, lifetime: Option<i64>| {
        files.settings(&[
            ("serving-cert-file", certificate.map(Into::into)),
            ("serving-key-file", key.map(Into::into)),
            ("serving-cert-lifetime", lifetime.map(Into::into)),
        ])
    };
    let week = ServingCertificate::Cluster { lifetime: Duration::from_secs(604_800) };
    assert_eq!(of(None, None, None).unwrap().serving_certificate, week);
    let both = of(Some("tls.crt"), Some("tls.key"), None).unwrap().serving_certificate;
    assert!(matches!(both, ServingCertificate::Files { .. }));
    let half = of(Some("tls.crt"), None, None).unwrap_err().to_string();
    assert!(half.contains("serving-key-file"), "{half}");
    let short = of(None, None, Some(60)).unwrap_err().to_string();
    assert!(short.contains("serving-cert-lifetime") && short.contains("600"), "{short}");
}

#[test]
fn a_token_file_replaces_the_seed_file_and_one_of_them_is_needed() {
    let files = Files::new();
    let token = || Some(toml::Value::from(files.0.path().join("token").display().to_string()));
    let keyless = |token| files.settings(&[("nats-seed-file", None), ("nats-token-file", token)]);
    let refused = keyless(None).unwrap_err().to_string();
    assert!(refused.contains("nats-token-file") && refused.contains("nats-credential-file"), "{refused}");
    let public = |settings: Settings| match settings.nats.login() {
        fleet_daemon::credential::Login::Credential { key, token: Some(_) } => {
            key.key_pair().unwrap().public_key()
        }
        other => panic!("{other:?}"),
    };
    // The token is read at each connection: at the start it may be missing.
    let first = public(keyless(token()).unwrap());
    assert_ne!(public(keyless(token()).unwrap()), first, "a fresh key at each start");
    let both = || public(files.settings(&[("nats-token-file", token())]).unwrap());
    assert_eq!(both(), both());
    let account = files.write("account.nk", &nkeys::KeyPair::new_account().seed().unwrap());
    let refused = files.refusal(&[("nats-seed-file", Some(account.display().to_string().into()))]);
    assert!(refused.contains("nats-seed-file") && refused.contains("SU"), "{refused}");
}

#[test]
fn key_files_are_named_by_version_and_their_content_never_shows() {
    let files = Files::new();
    let of =
        |file: PathBuf| files.refusal(&[("fleet-key-files", Some(vec![file.display().to_string()].into()))]);
    let refused = of(files.write("curve.nk", "SX"));
    assert!(refused.contains("<version>.nk"), "{refused}");
    let refused = of(files.write("2.nk", "SXGARBAGEGARBAGE"));
    assert!(refused.contains("fleet-key-files") && !refused.contains("GARBAGEGARBAGE"), "{refused}");
    let none = files.refusal(&[("fleet-key-files", Some(toml::Value::Array(Vec::new())))]);
    assert!(none.contains("fleet-key-files"), "{none}");
}

#[test]
fn the_file_knows_every_flag_and_nothing_else() {
    let files = Files::new();
    let typo = files.refusal(&[("namespase", Some("fleet".into()))]);
    assert!(typo.contains("namespase") && typo.contains("did you mean namespace?"), "{typo}");
}

#[test]
fn flags_and_variables_alone_are_enough_and_all_faults_are_told_with_their_place() {
    let files = Files::new();
    let path = |name: &str| files.0.path().join(name).display().to_string();
    let two = format!("{},{}", path("1.nk"), path("2.nk"));
    files.write("2.nk", &nkeys::XKey::new().seed().unwrap());
    let variables = [
        ("VK_NATS_NATS_URL", "nats://10.0.0.1:4222"),
        ("VK_NATS_FLEET_KEY_FILES", two.as_str()),
        ("VK_NATS_HEARTBEAT_INTERVAL", "20"),
        // Kubernetes makes these for a Service of that name.
        ("VK_NATS_SERVICE_HOST", "10.0.0.1"),
        ("VK_NATS_PORT_10300_TCP_ADDR", "10.0.0.1"),
    ];
    let seed = path("user.nk");
    let flags = [
        "--node-address",
        "10.0.0.5",
        "--nats-seed-file",
        &seed,
        "--heartbeat-interval",
        "30",
        "--identity",
        "a",
    ];
    let settings = files.start(&flags, &variables).unwrap();
    assert_eq!(settings.heartbeat_interval, Duration::from_secs(30));
    assert_eq!(settings.fleet.keys.newest().0, fleet_wire::name::KeyVersion(2));

    let wrong = [("VK_NATS_HEARTBEAT_INTERVAL", "301"), ("VK_NATS_NATS_URL", "10.0.0.1:4222")];
    let refused = files.start(&["--node-address", "pi"], &wrong).unwrap_err().to_string();
    for expected in [
        "4 settings cannot be used",
        "`node-address` = \"pi\" (flag --node-address)",
        "`heartbeat-interval` = 301 (variable VK_NATS_HEARTBEAT_INTERVAL): expected a whole number from 1 to 300",
        "`nats-url` = \"10.0.0.1:4222\" (variable VK_NATS_NATS_URL): expected nats://host:port",
        "setting `fleet-key-files` is missing (Files with the seeds of the fleet's curve keys",
    ] {
        assert!(refused.contains(expected), "{expected:?} is not in {refused}");
    }
}
