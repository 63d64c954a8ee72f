#![allow(clippy::unwrap_used)]

use clap::Parser;
use fleet_daemon::settings::{CommandLine, Origins, SettingsError};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    settings: CommandLine<DeviceKubelet>,
}

fn read(
    flags: &[&str],
    variables: &[(&str, &str)],
    file: &str,
) -> Result<(Settings, Origins), SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.toml");
    std::fs::write(&path, file).unwrap();
    let path = path.display().to_string();
    let line = ["device-kubelet", "--config", path.as_str()].into_iter().chain(flags.iter().copied());
    let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let (given, origins) = Line::parse_from(line).settings.load_with(variables)?;
    Ok((given.into(), origins))
}

#[test]
fn what_is_not_set_has_its_default() {
    let settings = read(&["--name", "pi-7"], &[], "").unwrap().0;
    assert_eq!(settings.data_dir, Path::new(DEFAULT_DATA_DIR));
    assert_eq!(settings.heartbeat_interval, Duration::from_secs(10));
    assert_eq!((settings.max_pods, settings.runtime), (110, RuntimeKind::Podman));
    assert_eq!(settings.log_limits, LogLimits::DEFAULT);
    let limits = "container-log-max-size = \"2Mi\"\ncontainer-log-max-files = 2\n";
    let settings = read(&[], &[], limits).unwrap().0;
    assert_eq!(settings.log_limits, LogLimits { max_bytes: 2 << 20, max_files: 2 });
}

#[test]
fn a_wrong_value_is_named_with_its_key_and_what_was_expected() {
    let wrong = [
        ("name", "RFC 1123", "Pi_7"),
        ("data-dir", "absolute", "data"),
        ("nats-url", "nats://host", "10.0.0.1:4222"),
        ("fleet-root-key", "begins with O", "UX"),
        ("podman-socket", "unix://", "/run/p.sock"),
        ("heartbeat-interval", "1 to 300", "0"),
        ("max-pods", "1 to 1000", "0"),
        ("container-log-max-size", "64Ki to 1Gi", "10"),
        ("container-log-max-files", "2 to 100", "1"),
        ("health-listen", "with a port", "localhost"),
        ("shutdown-grace", "1 to 600", "601"),
        ("keep-on-revoke", "true or false", "perhaps"),
        ("log-level", "or trace", "loud"),
    ];
    for (key, expected, value) in wrong {
        let variable = format!("DEVICE_KUBELET_{}", key.replace('-', "_").to_uppercase());
        let error = read(&[], &[(&variable, value)], "").unwrap_err().to_string();
        for part in [&format!("`{key}` = "), value, expected, &format!("(variable {variable})")] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
    // All of them in one start.
    let file: String = wrong.iter().map(|(key, _, value)| format!("{key} = {value:?}\n")).collect();
    let error = read(&[], &[], &file).unwrap_err();
    assert_eq!(error.faults.len(), wrong.len(), "{error}");
}

#[test]
fn an_enrolled_device_needs_no_setting_at_all() {
    let settings = read(&[], &[], "").unwrap().0;
    assert_eq!((settings.name, settings.nats_url), (None, None));
    assert!(!settings.request_enrollment && !settings.keep_on_revoke);
    let settings =
        read(&["--request-enrollment", "--keep-on-revoke=false"], &[], "keep-on-revoke = true").unwrap().0;
    assert!(settings.request_enrollment && !settings.keep_on_revoke);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "name = \"pi-1\"\nmax-pods = 5\nheartbeat-interval = 5\n";
    let variables = [("DEVICE_KUBELET_NAME", "pi-3"), ("DEVICE_KUBELET_MAX_PODS", "6")];
    let (settings, origins) = read(&["--name", "pi-2"], &variables, file).unwrap();
    assert_eq!(settings.name.unwrap().as_str(), "pi-2");
    assert_eq!((settings.max_pods, settings.heartbeat_interval.as_secs()), (6, 5));
    assert_eq!(origins.at("name"), "flag --name");
    assert_eq!(origins.at("max-pods"), "variable DEVICE_KUBELET_MAX_PODS");
    assert!(origins.at("heartbeat-interval").starts_with("file /"));
    let error = read(&[], &[], "nats_url = \"nats://x:1\"\n").unwrap_err().to_string();
    assert!(error.contains("`nats_url`") && error.contains("did you mean nats-url?"), "{error}");
}

#[test]
fn a_value_is_written_as_it_is_read() {
    let given = DeviceKubelet {
        name: Some("pi-7".parse().unwrap()),
        nats_url: Some("nats://10.0.0.1:4222,nats://10.0.0.2:4222".parse().unwrap()),
        fleet_root_key: Some(nkeys::KeyPair::new_operator().public_key().parse().unwrap()),
        container_log_max_size: "100Ki".parse().unwrap(),
        ..DeviceKubelet::default()
    };
    let written = serde_json::to_value(&given).unwrap();
    let read: DeviceKubelet = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), written);
    assert_eq!(written["container-log-max-size"], "100Ki");
}
