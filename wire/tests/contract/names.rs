//! The grammar of every name: the same for `FromStr`, `TryFrom` and JSON.

use std::{fmt::Display, str::FromStr};

use fleet_wire::name::{ContainerName, DeviceName, NameError, Namespace, PodName, PodUid, RequestId, Shard};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

/// Parses in all three ways, which must agree.
fn parse<N>(value: &str) -> Option<N>
where
    N: FromStr<Err = NameError> + TryFrom<String> + DeserializeOwned + Serialize + Display + PartialEq,
{
    let parsed: Option<N> = value.parse().ok();
    let owned = N::try_from(value.to_owned()).ok();
    let read: Option<N> = serde_json::from_value(value.into()).ok();
    assert!(parsed == owned && parsed == read, "{value:?} is a name for one way of parsing only");
    if let Some(name) = &parsed {
        assert_eq!(name.to_string(), value);
        assert_eq!(serde_json::to_value(name).unwrap(), value);
    }
    parsed
}

/// What no name may hold: each of these would be more than one NATS token, a wildcard, a path or a line.
const HOSTILE: &[&str] = &[
    "",
    " ",
    "a b",
    " a",
    "a ",
    "a\n",
    "a\r\nPUB x",
    "\0",
    "a\0",
    "*",
    ">",
    "a*",
    "a.>",
    ".",
    "..",
    ".a",
    "a.",
    "a..b",
    "a/b",
    "../a",
    "ä",
    "pi-７",
    "Ⅶ",
    "a\u{200b}",
    "a\u{301}",
    "-",
    "-a",
    "a-",
    "a.-b",
    "$SYS",
    "_INBOX.x.>",
    "%2e",
];

fn refuses_hostile<N>()
where
    N: FromStr<Err = NameError> + TryFrom<String> + DeserializeOwned + Serialize + Display + PartialEq,
{
    for value in HOSTILE {
        // Ids may begin and end with '-', and have capitals: nothing else of the list is theirs.
        let id = value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !value.is_empty();
        let label = std::any::type_name::<N>();
        let is_id = label.ends_with("PodUid") || label.ends_with("RequestId");
        assert!(parse::<N>(value).is_none() || (is_id && id), "{label} takes {value:?}");
    }
}

#[test]
fn no_name_takes_what_could_be_another_subject() {
    refuses_hostile::<DeviceName>();
    refuses_hostile::<Namespace>();
    refuses_hostile::<PodName>();
    refuses_hostile::<ContainerName>();
    refuses_hostile::<PodUid>();
    refuses_hostile::<RequestId>();
}

#[test]
fn labels_have_1_to_63_characters() {
    for length in [1, 2, 62, 63] {
        assert!(parse::<DeviceName>(&"a".repeat(length)).is_some(), "{length}");
    }
    for length in [0, 64, 65, 253, 100_000] {
        assert!(parse::<DeviceName>(&"a".repeat(length)).is_none(), "{length}");
        assert!(parse::<Namespace>(&"a".repeat(length)).is_none(), "{length}");
        assert!(parse::<ContainerName>(&"a".repeat(length)).is_none(), "{length}");
    }
}

#[test]
fn labels_are_lower_case_without_dots() {
    for value in ["pi-7", "7", "a1-b2--c3", "0-0"] {
        assert!(parse::<DeviceName>(value).is_some(), "{value}");
    }
    for value in ["Pi-7", "pi_7", "pi.7", "pi7!"] {
        assert!(parse::<DeviceName>(value).is_none(), "{value}");
    }
}

#[test]
fn pod_names_are_labels_joined_by_dots() {
    let long = vec!["a".repeat(63); 3].join(".");
    for value in ["web", "web.7", "web-7d4b9c-x2x9z", long.as_str()] {
        assert!(parse::<PodName>(value).is_some(), "{value}");
    }
    let labels = vec!["a".repeat(49); 5].join(".");
    assert_eq!(labels.len(), 249);
    assert!(parse::<PodName>(&format!("{labels}.abc")).is_some(), "253 characters");
    assert!(parse::<PodName>(&format!("{labels}.abcd")).is_none(), "254 characters");
    assert!(parse::<PodName>(&format!("a.{}", "b".repeat(64))).is_none(), "a label of 64");
}

#[test]
fn ids_have_1_to_64_characters() {
    assert!(parse::<PodUid>("0f8b3c9e-5a55-4a0e-9a57-0a3d2d9a1c11").is_some());
    assert!(parse::<RequestId>(&"A".repeat(64)).is_some());
    assert!(parse::<RequestId>(&"A".repeat(65)).is_none());
    assert!(parse::<PodUid>("a.b").is_none());
}

#[test]
fn random_request_ids_are_valid_and_differ() {
    let (one, two) = (RequestId::random(), RequestId::random());
    assert_ne!(one, two);
    assert!(parse::<RequestId>(one.as_str()).is_some());
}

#[test]
fn a_refusal_shows_the_value_but_not_all_of_a_hostile_one() {
    let error = "Pi 7".parse::<DeviceName>().unwrap_err().to_string();
    assert!(
        error.contains("device name") && error.contains("\"Pi 7\"") && error.contains("RFC 1123"),
        "{error}"
    );
    let error = "\n".repeat(1_000_000).parse::<DeviceName>().unwrap_err().to_string();
    assert!(error.len() < 500 && !error.contains('\n'), "{}", error.len());
}

#[test]
fn shards_have_one_spelling_each() {
    for shard in Shard::all() {
        assert_eq!(shard.to_string().parse::<Shard>(), Ok(shard));
    }
    assert_eq!(Shard::all().count(), Shard::COUNT);
    for value in ["", "256", "-1", "+7", "007", "7 ", "*", ">", "seven", "1e2", "٧"] {
        assert!(value.parse::<Shard>().is_err(), "{value:?}");
    }
}

/// Part of the contract: another hash would send devices to owners that do not listen.
#[test]
fn the_shard_of_a_device_never_changes() {
    for (device, shard) in [("pi-7", "96"), ("a", "202"), ("edge-0001", "150")] {
        assert_eq!(Shard::of(&device.parse().unwrap()).to_string(), shard);
    }
}

proptest! {
    #[test]
    fn every_label_is_a_name(value in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?") {
        prop_assert!(parse::<DeviceName>(&value).is_some());
        prop_assert!(parse::<PodName>(&value).is_some());
    }

    #[test]
    fn whatever_is_a_name_is_one_token(value in "\\PC{0,70}") {
        let token = |name: &str| {
            !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        for name in [
            parse::<DeviceName>(&value).map(|n| n.to_string()),
            parse::<Namespace>(&value).map(|n| n.to_string()),
            parse::<ContainerName>(&value).map(|n| n.to_string()),
            parse::<PodUid>(&value).map(|n| n.to_string()),
            parse::<RequestId>(&value).map(|n| n.to_string()),
        ].into_iter().flatten() {
            prop_assert!(token(&name), "{name:?}");
        }
    }

    #[test]
    fn one_foreign_character_spoils_a_name(
        before in "[a-z0-9]{1,20}", foreign in "[^a-zA-Z0-9_-]", after in "[a-z0-9]{1,20}",
    ) {
        let value = format!("{before}{foreign}{after}");
        prop_assert!(parse::<DeviceName>(&value).is_none());
        prop_assert!(parse::<RequestId>(&value).is_none());
        prop_assert_eq!(parse::<PodName>(&value).is_some(), foreign == ".");
    }
}
