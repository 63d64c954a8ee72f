#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr, path::Path};

use clap::Parser;
use harmony_config::{Config, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::telemetry::LogFormat;

/// Settings of a process of these tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Config)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Agent {
    /// Name of this device: an RFC 1123 label.
    name: String,
    /// Most pods.
    #[serde(default = "pods")]
    #[schemars(range(min = 1, max = 1000))]
    max_pods: u32,
    /// Seconds between heartbeats,
    /// 1 to 300.
    #[serde(default = "interval")]
    #[schemars(range(min = 1, max = 300))]
    heartbeat_interval: Seconds,
    /// NATS server.
    nats_url: Option<NatsUrl>,
    /// Where health is served.
    #[schemars(extend("x-value-name" = "ADDR:PORT", "x-expected" = "an address and a port, e.g. 0.0.0.0:8080"))]
    health_listen: Option<SocketAddr>,
    /// Files with keys.
    #[serde(default)]
    key_files: Vec<std::path::PathBuf>,
    /// Whether it asks.
    #[serde(default)]
    request: bool,
    /// Form of the log lines.
    #[serde(default)]
    log_format: LogFormat,
    /// What NATS asks for.
    password: Option<Secret<String>>,
    /// Labels of the Node.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

fn pods() -> u32 {
    110
}

fn interval() -> Seconds {
    Seconds(10)
}

impl Daemon for Agent {
    const PREFIX: &'static str = "AGENT_";
}

#[derive(Debug, Parser)]
#[command(name = "agent")]
struct Cli {
    #[command(flatten)]
    settings: CommandLine<Agent>,
}

#[derive(Debug)]
struct NameOnly;

impl Part for NameOnly {
    fn has(key: &str) -> bool {
        key == "name"
    }
}

#[derive(Debug, Parser)]
#[command(name = "status")]
struct Status {
    #[command(flatten)]
    settings: CommandLine<Agent, NameOnly>,
}

fn read(
    flags: &[&str],
    variables: &[(&str, &str)],
    file: Option<&str>,
) -> Result<(Agent, Origins), SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let mut line = vec!["agent".to_owned()];
    line.extend(flags.iter().map(|flag| (*flag).to_owned()));
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
        line.extend(["--config".to_owned(), path.display().to_string()]);
    }
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Cli::try_parse_from(line).unwrap().settings.load_with(variables)
}

fn refusal(flags: &[&str], variables: &[(&str, &str)], file: Option<&str>) -> SettingsError {
    read(flags, variables, file).unwrap_err()
}

/// The origins without the folder of the test.
fn at<'o>(origins: &'o Origins, key: &str) -> &'o str {
    let at = origins.at(key);
    if at.starts_with("file ") { "file" } else { at }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "name = \"file\"\nmax-pods = 1\nheartbeat-interval = 1\nnats-url = \"nats://a:1\"\n[labels]\nsite = \"roof\"\n";
    let variables = [
        ("AGENT_NAME", "variable"),
        ("AGENT_MAX_PODS", "2"),
        ("AGENT_HEARTBEAT_INTERVAL", "2"),
        ("AGENT_KEY_FILES", "/a, /b"),
        // It names the file, and these are Kubernetes' own.
        ("AGENT_CONFIG", "/nowhere"),
        ("AGENT_SERVICE_HOST", "10.0.0.1"),
        ("AGENT_PORT", "tcp://10.0.0.1:80"),
    ];
    let (agent, origins) = read(&["--heartbeat-interval", "3"], &variables, Some(file)).unwrap();
    assert_eq!(agent.name, "variable");
    assert_eq!((agent.max_pods, agent.heartbeat_interval), (2, Seconds(3)));
    assert_eq!(agent.nats_url.map(String::from).as_deref(), Some("nats://a:1"));
    assert_eq!(agent.key_files, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(agent.labels["site"], "roof");
    assert_eq!(
        ["heartbeat-interval", "max-pods", "nats-url", "log-format"].map(|key| at(&origins, key)),
        ["flag --heartbeat-interval", "variable AGENT_MAX_PODS", "file", "default"]
    );
}

#[test]
fn flags_alone_are_enough_and_lists_of_them_add_up() {
    let flags =
        ["--name", "pi-7", "--key-files", "a,b", "--key-files=c", "--request", "--log-format", "json"];
    let agent = read(&flags, &[], None).unwrap().0;
    assert_eq!(agent.key_files, ["a", "b", "c"].map(Path::new));
    assert!(agent.request && agent.log_format == LogFormat::Json);
    assert!(
        !read(&["--name", "pi-7", "--request=false"], &[("AGENT_REQUEST", "true")], None).unwrap().0.request
    );
    let json = [("AGENT_KEY_FILES", "[\"a,b\"]"), ("AGENT_NAME", "12"), ("AGENT_LABELS", "{\"a\":\"b\"}")];
    let agent = read(&[], &json, None).unwrap().0;
    assert_eq!((agent.key_files, agent.name.as_str()), (vec!["a,b".into()], "12"));
}

#[test]
fn all_faults_of_one_start_are_told_with_setting_value_expectation_and_place() {
    let file = "max-pods = \"many\"\nnats-ulr = \"x\"\npassword = 778899\n";
    let error = refusal(
        &["--nats-url", "10.0.0.1:4222", "--heartbeat-interval", "301"],
        &[("AGENT_HEALTH_LISTEN", "here"), ("AGENT_REQUEST", "yes")],
        Some(file),
    );
    assert_eq!(error.faults.len(), 8, "{error}");
    let text = error.to_string();
    for expected in [
        "8 settings cannot be used:",
        "setting `nats-url` = \"10.0.0.1:4222\" (flag --nats-url): expected nats://host:port or tls://host:port",
        "setting `heartbeat-interval` = 301 (flag --heartbeat-interval): expected a whole number from 1 to 300",
        "setting `health-listen` = \"here\" (variable AGENT_HEALTH_LISTEN): expected an address and a port",
        "setting `request` = \"yes\" (variable AGENT_REQUEST): expected true or false",
        "setting `max-pods` = \"many\" (file /",
        "): expected a whole number from 1 to 1000",
        "there is no setting `nats-ulr` (file /",
        "did you mean nats-url?",
        "setting `name` is missing (Name of this device: an RFC 1123 label): expected text; \
         set it by the flag --name, the variable AGENT_NAME or name in the file /",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert!(text.contains("`password` = a whole number") && !text.contains("778899"), "{text}");
}

#[test]
fn an_unknown_key_of_the_file_names_the_nearest_known_one_or_all() {
    for (key, expected) in
        [("heartbeat_interval", "heartbeat-interval"), ("maxpods", "max-pods"), ("nats-ulr", "nats-url")]
    {
        let error = refusal(&["--name", "a"], &[], Some(&format!("{key} = 1")));
        let [Fault::Unknown { key: found, meant, .. }] = error.faults.as_slice() else { panic!("{error}") };
        assert_eq!((found.as_str(), meant.as_str()), (key, format!("did you mean {expected}?").as_str()));
    }
    let text = refusal(&["--name", "a"], &[], Some("zzzzzzzzzz = \"red\"")).to_string();
    assert!(text.contains("`zzzzzzzzzz`") && text.contains("max-pods") && text.contains("labels"), "{text}");
}

#[test]
fn an_unknown_variable_is_no_error_and_is_warned_of() {
    let (_, origins) = read(&["--name", "a"], &[("AGENT_MAXPODS", "1")], None).unwrap();
    assert!(format!("{origins:?}").contains("AGENT_MAXPODS"), "{origins:?}");
    assert!(format!("{origins:?}").contains("did you mean max-pods?"), "{origins:?}");
}

#[test]
fn a_secret_is_never_shown() {
    let (agent, origins) = read(&["--name", "a", "--password", "canary"], &[], None).unwrap();
    assert_eq!(agent.password.as_ref().unwrap().expose(), "canary");
    assert!(!format!("{agent:?} {origins:?}").contains("canary"));
    let line = Cli::try_parse_from(["agent", "--password", "canary"]).unwrap();
    assert!(!format!("{line:?}").contains("canary"));
}

#[test]
fn a_file_that_cannot_be_read_ends_the_start_and_says_where() {
    let error = refusal(&["--name", "a"], &[], Some("name = \"pi-7\"\nmax-pods = = 3"));
    assert!(error.to_string().contains("line 2"), "{error}");
    let missing = Cli::try_parse_from(["agent", "--config", "/nowhere/agent.toml"]).unwrap();
    let error = missing.settings.load_with([]).unwrap_err().to_string();
    assert!(error.contains("/nowhere/agent.toml") && !error.contains("`name`"), "{error}");
}

#[test]
fn the_help_text_is_that_of_the_model() {
    let mut command = <Cli as clap::CommandFactory>::command().term_width(0);
    let help = command.render_long_help().to_string();
    for expected in [
        "--name <NAME>",
        "Name of this device: an RFC 1123 label [env: AGENT_NAME]",
        "--max-pods <NUMBER>",
        "Most pods [env: AGENT_MAX_PODS] [default: 110]",
        "--heartbeat-interval <SECONDS>",
        "Seconds between heartbeats, 1 to 300 [env: AGENT_HEARTBEAT_INTERVAL] [default: 10]",
        "--nats-url <URL>",
        "--health-listen <ADDR:PORT>",
        "--key-files <FILES>",
        "--request [<BOOL>]",
        "- json: One JSON object each",
        "[env: AGENT_LOG_FORMAT] [default: text]",
        "--config <FILE>",
        "[env: AGENT_CONFIG]",
    ] {
        assert!(help.contains(expected), "{expected:?} is not in {help}");
    }
    assert!(!help.contains("--labels"), "tables have no flags: {help}");
    command.debug_assert();

    let part = <Status as clap::CommandFactory>::command().render_long_help().to_string();
    assert!(part.contains("--name") && part.contains("--config") && !part.contains("--max-pods"), "{part}");
}

#[test]
fn a_flag_with_a_choice_is_checked_by_the_command_line() {
    let error = Cli::try_parse_from(["agent", "--log-format", "xml"]).unwrap_err().to_string();
    assert!(error.contains("--log-format") && error.contains("text, json"), "{error}");
    assert!(Cli::try_parse_from(["agent", "--max-pods", "1", "--max-pods", "2"]).is_err(), "said twice");
}

#[test]
fn checks_tell_all_they_find_with_the_place() {
    let (_, origins) = read(&["--name", "a", "--key-files", "x"], &[], None).unwrap();
    let mut checks = Checks::new(&origins);
    checks.invalid("key-files", "x", "files that exist");
    assert_eq!(checks.required::<u8>("nats-url", None, "a server"), None);
    let text = checks.done().unwrap_err().to_string();
    assert!(
        text.contains("setting `key-files` = \"x\" (flag --key-files): expected files that exist"),
        "{text}"
    );
    let missing = "setting `nats-url` is missing: expected a server; set it by the flag --nats-url, \
                   the variable AGENT_NATS_URL or nats-url in a file that --config names";
    assert!(text.contains(missing), "{text}");
    assert!(Checks::new(&origins).done().is_ok());
}

proptest::proptest! {
    #[test]
    fn any_file_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = read(&[], &[], Some(&text));
    }

    #[test]
    fn any_variable_is_read_or_refused(name in "[A-Z_]{0,20}", value in "\\PC{0,40}") {
        let _ = read(&["--name", "a"], &[(&format!("AGENT_{name}"), &value)], None);
    }
}
