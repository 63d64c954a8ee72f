#![allow(clippy::unwrap_used)]

use clap::Parser as _;
use fleet_daemon::settings::CommandLine;
use nkeys::{KeyPair, XKey};

use super::*;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    settings: CommandLine<Enroller>,
}

fn start(flags: &[&str], variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let line = Line::parse_from(std::iter::once(&"enroller").chain(flags));
    let (given, origins) = line.settings.load_with(variables)?;
    given.check(&origins)
}

/// The least that a file has to have, with these settings changed; `None` leaves one away.
fn settings(changes: &[(&str, Option<toml::Value>)]) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut table = toml::toml! {
        nats-url = "tls://nats:4222"
        nats-token-file = "/var/run/token"
        fleet-keys-file = "/etc/keys.json"
    };
    table.insert("system-seed-file".into(), file("kicker.nk", &KeyPair::new_user().seed().unwrap()).into());
    table.insert("enroller-key-files".into(), vec![file("1.nk", &XKey::new().seed().unwrap())].into());
    for (key, value) in changes {
        match value {
            Some(value) => table.insert((*key).to_owned(), value.clone()),
            None => table.remove(*key),
        };
    }
    start(&["--config", &file("enroller.toml", &table.to_string())], &[])
}

#[test]
fn defaults_are_those_of_the_manifests() {
    let settings = settings(&[]).unwrap();
    assert_eq!(settings.namespace, "harmony-fleet");
    assert_eq!(settings.records_namespace, "harmony-fleet-devices");
    assert_eq!(settings.tokens_namespace, "harmony-fleet-tokens");
    assert_eq!(settings.retention, Duration::from_secs(30 * 24 * 3600));
    assert!(settings.taint);
}

#[test]
fn wrong_settings_are_named() {
    let text = |text: &str| Some(toml::Value::from(text));
    let list = |text: &str| Some(toml::Value::from(vec![text]));
    for (key, value, named) in [
        ("nats-url", None, "`nats-url`"),
        ("nats-url", text("nats"), "`nats-url`"),
        ("nats-token-file", None, "`nats-token-file`"),
        ("system-seed-file", text("/nowhere"), "`system-seed-file`"),
        ("system-seed-file", None, "`system-seed-file`"),
        ("enroller-key-files", list("/nowhere/key"), "`enroller-key-files`"),
        ("enroller-key-files", list("/nowhere/1.nk"), "`enroller-key-files`"),
        ("retention", Some(0.into()), "`retention`"),
        ("records-namespace", text("harmony-fleet"), "`records-namespace`"),
        ("tokens-namespace", text("harmony-fleet"), "`tokens-namespace`"),
        ("tokens-namespace", text("harmony-fleet-devices"), "`tokens-namespace`"),
        ("pod-cidr", text("10.0.0.0/33"), "`pod-cidr`"),
        ("pod-cidr", text("10.0.0.0"), "`pod-cidr`"),
        ("serving-addresses", list("vk"), "`serving-addresses.0`"),
        ("health-listen", text("8080"), "`health-listen`"),
        ("taint", text("true"), "`taint`"),
    ] {
        let error = settings(&[(key, value)]).unwrap_err();
        assert!(error.to_string().contains(named) && error.faults.len() == 1, "{key}: {error}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_wrong_ones_are_told_with_their_place() {
    let variables = [("ENROLLER_RETENTION", "0"), ("ENROLLER_SERVING_ADDRESSES", "10.0.0.5,vk")];
    let error = start(&["--pod-cidr", "10.0.0.0"], &variables).unwrap_err().to_string();
    for expected in [
        "6 settings cannot be used",
        "`retention` = 0 (variable ENROLLER_RETENTION): expected a whole number from 1 to 87600",
        "`serving-addresses.1` = \"vk\" (invalid IP address syntax) (variable ENROLLER_SERVING_ADDRESSES)",
        "`pod-cidr` = \"10.0.0.0\" (flag --pod-cidr): expected an address and a prefix length",
        "`enroller-key-files` is missing",
    ] {
        assert!(error.contains(expected), "{expected:?} is not in {error}");
    }
    let right = ["--retention", "5", "--taint", "false"];
    let error = start(&right, &variables[..1]).unwrap_err().to_string();
    // What a flag hides is not used, but wrong it is.
    assert!(error.contains("ENROLLER_RETENTION"), "{error}");
}
