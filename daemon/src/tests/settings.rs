#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, io::Write as _};

use super::*;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Flags {
    name: Option<String>,
    max_pods: Option<u32>,
    heartbeat_interval: Option<Seconds>,
    nats_url: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

fn merged(text: &str, flags: Flags) -> Result<Flags, SettingsError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    merge(Some(file.path()), flags)
}

fn refusal(text: &str) -> SettingsError {
    merged(text, Flags::default()).unwrap_err()
}

#[test]
fn the_file_fills_what_flags_leave_open() {
    let flags = Flags { max_pods: Some(20), ..Flags::default() };
    let text = "name = \"pi-7\"\nmax-pods = 110\nheartbeat-interval = 10\n[labels]\nsite = \"roof\"\n";
    let settings = merged(text, flags).unwrap();
    assert_eq!(
        settings,
        Flags {
            name: Some("pi-7".into()),
            max_pods: Some(20),
            heartbeat_interval: Some(Seconds(10)),
            nats_url: None,
            labels: Some(BTreeMap::from([("site".into(), "roof".into())])),
        }
    );
}

#[test]
fn flags_alone_are_enough() {
    let flags = Flags { name: Some("pi-7".into()), ..Flags::default() };
    assert_eq!(merge(None, flags).unwrap().name.as_deref(), Some("pi-7"));
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (key, expected) in
        [("heartbeat_interval", "heartbeat-interval"), ("maxpods", "max-pods"), ("nats-ulr", "nats-url")]
    {
        let error = refusal(&format!("{key} = 1"));
        let SettingsError::Unknown { key: found, nearest, .. } = &error else { panic!("{error}") };
        assert_eq!((found.as_str(), nearest.as_deref()), (key, Some(expected)));
        let text = error.to_string();
        assert!(text.contains(key) && text.contains(&format!("did you mean `{expected}`?")), "{text}");
    }
}

#[test]
fn an_unknown_key_like_no_other_shows_all_known_ones() {
    let text = refusal("colour = \"red\"").to_string();
    assert!(text.contains("`colour`") && text.contains("max-pods") && text.contains("labels"), "{text}");
}

#[test]
fn a_wrong_value_shows_key_value_and_expectation() {
    let error = refusal("name = \"pi-7\"\nmax-pods = \"many\"");
    let SettingsError::Invalid { key, value, expected } = &error else { panic!("{error}") };
    assert_eq!((key.as_str(), value.as_str(), expected.as_str()), ("max-pods", "\"many\"", "u32"));
    let text = refusal("max-pods = -1").to_string();
    assert!(text.contains("`max-pods` = -1") && text.contains("u32"), "{text}");
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let error = refusal("name = \"pi-7\"\nmax-pods = = 3");
    assert!(matches!(error, SettingsError::Syntax { .. }));
    assert!(error.to_string().contains("line 2"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = merge(Some(Path::new("/nowhere/agent.toml")), Flags::default()).unwrap_err();
    assert!(error.to_string().contains("/nowhere/agent.toml"), "{error}");
}

#[test]
fn a_missing_setting_says_how_it_is_set() {
    let text = required::<String>("nats-url", None, "nats://host:port").unwrap_err().to_string();
    for part in ["`nats-url`", "nats://host:port", "--nats-url"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(required("name", Some(3), "a number").unwrap(), 3);
}

#[test]
fn parsing_keeps_key_value_and_expectation() {
    let error = parse::<std::net::SocketAddr>("health-listen", "here", "an address such as 127.0.0.1:9100");
    let text = error.unwrap_err().to_string();
    assert_eq!(text, "setting `health-listen` = \"here\": expected an address such as 127.0.0.1:9100");
    assert_eq!(parse::<u16>("port", "7", "a port").unwrap(), 7);
}

proptest::proptest! {
    #[test]
    fn distance_is_a_metric(a in "[a-c]{0,6}", b in "[a-c]{0,6}", c in "[a-c]{0,6}") {
        proptest::prop_assert_eq!(distance(&a, &b) == 0, a == b);
        proptest::prop_assert_eq!(distance(&a, &b), distance(&b, &a));
        proptest::prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
    }

    #[test]
    fn any_file_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = merged(&text, Flags::default());
    }
}
