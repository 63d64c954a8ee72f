//! Settings of the callout: the least that it needs, and how faults are told.

use clap::Parser as _;
use fleet_daemon::settings::CommandLine;
use nkeys::KeyPair;

use super::*;

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, seed: String| std::fs::write(folder.path().join(name), seed).unwrap();
        write("callout.nk", KeyPair::new_user().seed().unwrap());
        write("issuer.nk", KeyPair::new_account().seed().unwrap() + "\n");
        write("xkey.nk", XKey::new().seed().unwrap() + "\n");
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The least that a file has to have, with these settings changed; `None` leaves one away.
    fn settings(&self, changes: &[(&str, Option<toml::Value>)]) -> Result<Settings, SettingsError> {
        let mut table = toml::toml! { nats-url = "tls://nats:4222" };
        for (key, name) in [
            ("nats-seed-file", "callout.nk"),
            ("issuer-seed-file", "issuer.nk"),
            ("xkey-seed-file", "xkey.nk"),
        ] {
            table.insert(key.to_owned(), self.path(name).into());
        }
        for (key, value) in changes {
            match value {
                Some(value) => table.insert((*key).to_owned(), value.clone()),
                None => table.remove(*key),
            };
        }
        let file = self.path("callout.toml");
        std::fs::write(&file, table.to_string()).unwrap();
        self.start(&["--config", &file], &[])
    }

    fn start(&self, flags: &[&str], variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        let line = Line::parse_from(std::iter::once(&"callout").chain(flags));
        let (given, origins) = line.settings.load_with(variables)?;
        given.check(&origins)
    }

    fn refused(&self, changes: &[(&str, Option<toml::Value>)]) -> String {
        self.settings(changes).unwrap_err().to_string()
    }
}

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: CommandLine<Callout>,
}

#[test]
fn the_least_settings_are_an_address_and_three_keys() {
    let settings = Case::new().settings(&[]).unwrap();
    assert_eq!(settings.records_namespace, "harmony-fleet-devices");
    assert_eq!(settings.jwt_lifetime, Duration::from_secs(720));
    assert!(!settings.device_requests);
    assert_eq!(settings.token_audience, "nats");
    assert_eq!(settings.components["system:serviceaccount:harmony-fleet:vk-nats"], Component::ClusterSide);
    assert_eq!(settings.components["system:serviceaccount:harmony-fleet:enroller"], Component::Enroller);
    assert_eq!((settings.oidc_device, settings.oidc_person), (None, None));
}

#[test]
fn all_that_is_missing_is_told_at_once_with_every_way_to_set_it() {
    let error = Case::new().start(&[], &[("CALLOUT_NATS_ULR", "tls://nats:4222")]).unwrap_err().to_string();
    for expected in [
        "4 settings cannot be used",
        "setting `nats-url` is missing (NATS server, e.g. tls://nats.example:4222; several are separated by commas)",
        "set it by the flag --nats-url, the variable CALLOUT_NATS_URL or nats-url in a file that --config names",
        "`nats-seed-file` is missing",
        "`issuer-seed-file` is missing",
        "`xkey-seed-file` is missing",
    ] {
        assert!(error.contains(expected), "{expected:?} is not in {error}");
    }
}

#[test]
fn lists_of_the_environment_are_separated_by_commas() {
    let case = Case::new();
    let next = KeyPair::new_account().seed().unwrap();
    std::fs::write(case.path("issuer.next.nk"), next).unwrap();
    let spare = format!("{},{}", case.path("issuer.next.nk"), case.path("issuer.previous.nk"));
    let files = ["callout.nk", "issuer.nk", "xkey.nk"].map(|name| case.path(name));
    let variables = [
        ("CALLOUT_NATS_SEED_FILE", files[0].as_str()),
        ("CALLOUT_ISSUER_SEED_FILE", &files[1]),
        ("CALLOUT_XKEY_SEED_FILE", &files[2]),
        ("CALLOUT_ISSUER_SPARE_SEED_FILES", &spare),
        ("CALLOUT_COMPONENTS", "system:serviceaccount:a:b=enroller,system:serviceaccount:a:c=cluster-side"),
    ];
    let settings = case.start(&["--nats-url", "tls://nats:4222"], &variables).unwrap();
    assert_eq!((settings.spare_issuers.len(), settings.components.len()), (1, 2));
}

#[test]
fn spare_keys_are_read_where_they_are_and_outside_of_a_rotation_they_are_not() {
    let case = Case::new();
    let spare = |names: [&str; 2]| Some(toml::Value::from(names.map(|name| case.path(name)).to_vec()));
    let changes = [
        ("issuer-spare-seed-files", spare(["issuer.next.nk", "issuer.previous.nk"])),
        ("xkey-spare-seed-files", spare(["xkey.next.nk", "xkey.previous.nk"])),
    ];
    let settings = case.settings(&changes).unwrap();
    assert_eq!((settings.spare_issuers.len(), settings.curves.len()), (0, 1));
    std::fs::write(case.path("issuer.next.nk"), KeyPair::new_account().seed().unwrap()).unwrap();
    std::fs::write(case.path("xkey.previous.nk"), XKey::new().seed().unwrap()).unwrap();
    let settings = case.settings(&changes).unwrap();
    assert_eq!((settings.spare_issuers.len(), settings.curves.len()), (1, 2));
    std::fs::write(case.path("issuer.next.nk"), "SA").unwrap();
    let text = case.refused(&changes);
    assert!(text.contains("issuer-spare-seed-files"), "{text}");
}

#[test]
fn keys_of_another_kind_are_refused_without_showing_them() {
    let case = Case::new();
    let seed = std::fs::read_to_string(case.path("callout.nk")).unwrap();
    let other = || Some(toml::Value::from(case.path("callout.nk")));
    let text = case.refused(&[("issuer-seed-file", other()), ("xkey-seed-file", other())]);
    assert!(text.contains("`issuer-seed-file`") && text.contains("`xkey-seed-file`"), "{text}");
    assert!(!text.contains(&seed), "{text}");
}

#[test]
fn components_are_service_accounts_with_a_part_to_play() {
    let case = Case::new();
    let with = |entry: &str| [("components", Some(toml::Value::from(vec![entry])))];
    let settings = case.settings(&with("system:serviceaccount:prod:bridge=cluster-side")).unwrap();
    assert_eq!(settings.components.len(), 1);
    assert_eq!(settings.components["system:serviceaccount:prod:bridge"], Component::ClusterSide);
    for wrong in [
        "prod:bridge=cluster-side",
        "system:serviceaccount:prod:bridge",
        "system:serviceaccount:prod:bridge=device",
        "system:serviceaccount::bridge=enroller",
        "system:serviceaccount:prod:=enroller",
        "system:node:pi-7=cluster-side",
    ] {
        let text = case.refused(&with(wrong));
        assert!(text.contains("components") && text.contains(wrong), "{text}");
    }
}

#[test]
fn lifetimes_are_bounded() {
    let case = Case::new();
    for (seconds, good) in [(4, false), (5, true), (3600, true), (3601, false)] {
        let settings = case.settings(&[("jwt-lifetime", Some(seconds.into()))]);
        assert_eq!(settings.is_ok(), good, "{seconds}");
    }
}

#[test]
fn an_identity_provider_needs_an_audience_and_persons_one_of_their_own() {
    let case = Case::new();
    let text = |text: &str| Some(toml::Value::from(text));
    let device = |issuer, audience| {
        case.refused(&[("oidc-device-issuer", issuer), ("oidc-device-audience", audience)])
    };
    assert!(device(text("https://idp"), None).contains("oidc-device-audience"));
    assert!(device(text("https://idp"), text(" ")).contains("oidc-device-audience"));
    assert!(device(None, text("nats")).contains("oidc-device-issuer"));
    let both = |audience| {
        case.settings(&[
            ("oidc-device-issuer", text("https://idp")),
            ("oidc-device-audience", text("nats")),
            ("oidc-person-issuer", text("https://idp")),
            ("oidc-person-audience", text(audience)),
        ])
    };
    assert!(both("fleet-cli").is_ok());
    assert!(both("nats").unwrap_err().to_string().contains("oidc-person-audience"));
}
