//! Reading through the chain: which source wins, and what stops it.

use std::{fs, sync::atomic::Ordering, time::Duration};

use harmony_config::{
    Config, ConfigError, ConfigManager, Document, Environment, FieldPath, File, Given, Model, Secret,
    SourceError, health::Status,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Switch, Vlan, chain,
    kept::{Item, Kept},
    model,
};

fn item(version: &str, values: Value) -> Item {
    Item { version: version.to_owned(), revision: 3, values: values.as_object().unwrap().clone() }
}

#[tokio::test]
async fn the_first_source_that_has_a_field_wins_it() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[("HARMONY_CONFIG_Vlan__SWITCH__HOST", "env")]);
    fs::write(folder.path().join("Vlan.toml"), "name = \"file\"\n[switch]\nhost = \"file\"\n").unwrap();
    kept.store(
        &model(),
        &item(
            &model().version.0,
            json!({ "id": 1, "name": "kept", "switch": { "host": "kept", "password": "p" } }),
        ),
    );
    let switch = Some(Switch { host: "env".to_owned(), password: Secret::new("p".to_owned()) });
    let expected = Vlan { id: 1, name: "file".to_owned(), mtu: 1500, tags: Vec::new(), switch };
    assert_eq!(manager.get::<Vlan>().await.unwrap(), expected);
    assert_eq!(manager.health().status, Status::Ok);
}

#[tokio::test]
async fn flags_of_the_program_can_win_over_all() {
    let id = FieldPath::root().join("id");
    let manager = ConfigManager::builder()
        .source(Given::new("flags").with("Vlan".parse().unwrap(), id, 9, "flag --id"))
        .source(Environment::new().with_variables([("HARMONY_CONFIG_Vlan", r#"{"id":1,"name":"n"}"#)]))
        .build();
    assert_eq!(manager.get::<Vlan>().await.unwrap().id, 9);
}

#[tokio::test]
async fn a_source_that_has_everything_is_the_last_one_asked() {
    let folder = tempfile::tempdir().unwrap();
    let all = r#"{"id":1,"name":"n","mtu":1400,"tags":[],"switch":null}"#;
    let (manager, kept) = chain(folder.path(), &[("HARMONY_CONFIG_Vlan", all)]);
    manager.get::<Vlan>().await.unwrap();
    assert_eq!(kept.reads.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn everything_that_is_missing_is_named_at_once_with_every_way_to_set_it() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[("HARMONY_CONFIG_Vlan__SWITCH__HOST", "h")]);
    kept.away.store(true, Ordering::SeqCst);
    let error = manager.get::<Vlan>().await.unwrap_err();
    let text = error.to_string();
    let ConfigError::Missing { fields, away } = error else { panic!("{error}") };
    let places: Vec<_> = fields.iter().map(|field| field.place.to_string()).collect();
    assert_eq!(places, ["id", "name", "switch.password"]);
    assert!(fields[2].secret && !fields[1].secret);
    assert_eq!(away.len(), 1, "the values may be where nobody could ask");
    for expected in [
        "3 required settings are missing",
        "Vlan.id: Its number. (expected a whole number from 0 to 65535)",
        "set it by the variable HARMONY_CONFIG_Vlan__ID",
        "set it by id in the file",
        "set it by keeping Vlan",
        "Vlan.switch.password: What it asks for. (expected text, secret)",
        "the folder is not mounted",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert_eq!(manager.health().status, Status::Failing);
}

#[tokio::test]
async fn what_cannot_be_understood_is_never_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[]);
    kept.store(&model(), &item(&model().version.0, json!({ "id": 1, "name": "kept" })));
    fs::write(folder.path().join("Vlan.toml"), "id = ").unwrap();
    let error = manager.get::<Vlan>().await.unwrap_err();
    assert!(matches!(error, ConfigError::Source { error: SourceError::Malformed { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_value_of_another_type_is_named_with_its_place_and_version_and_the_way_on() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[]);
    let old = "0123456789abcdef";
    kept.store(
        &model(),
        &item(old, json!({ "id": "canary", "name": 5, "switch": { "host": "h", "password": 778899 } })),
    );
    let error = manager.get::<Vlan>().await.unwrap_err();
    let text = format!("{error}");
    for expected in [
        "Vlan has values that do not fit",
        "id: expected a whole number from 0 to 65535, found text; in item Vlan",
        "switch.password: expected text, found a whole number; in item Vlan",
        "stored under schema 0123456789abcdef",
        &model().version.0,
        "#[config(migrate_from(\"0123456789abcdef\", function))]",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert!(
        !format!("{text} {error:?}").contains("canary") && !format!("{text} {error:?}").contains("778899")
    );
}

#[tokio::test]
async fn what_only_the_type_or_the_bounds_can_judge_is_named_by_its_place_too() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("HARMONY_CONFIG_Vlan", r#"{"id":1,"name":"n","mtu":5}"#)];
    let error = chain(folder.path(), &variables).0.get::<Vlan>().await.unwrap_err().to_string();
    assert!(error.contains("mtu: ") && error.contains("variable HARMONY_CONFIG_Vlan"), "{error}");
    assert!(error.contains("576"), "{error}");

    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
    struct Peers {
        first: std::net::IpAddr,
        #[config(secret)]
        second: std::net::IpAddr,
    }
    let variables = [("HARMONY_CONFIG_Peers__FIRST", "10.0.0.300"), ("HARMONY_CONFIG_Peers__SECOND", "::1")];
    let error = chain(folder.path(), &variables).0.get::<Peers>().await.unwrap_err().to_string();
    assert!(
        error.contains("first: expected text (ip)") && error.contains("HARMONY_CONFIG_Peers__FIRST"),
        "{error}"
    );
    let variables = [("HARMONY_CONFIG_Peers__FIRST", "::1"), ("HARMONY_CONFIG_Peers__SECOND", "canary")];
    let error = chain(folder.path(), &variables).0.get::<Peers>().await.unwrap_err().to_string();
    assert!(error.contains("second: expected text (ip)") && !error.contains("canary"), "{error}");
}

/// A program of one model: flags, variables, a file that is for it alone.
fn program(folder: &std::path::Path, variables: &[(&str, &str)]) -> harmony_config::chain::Builder {
    let key = || "Vlan".parse().unwrap();
    let flags = Given::new("flags")
        .settable_by(|place| format!("the flag --{place}"))
        .with(key(), FieldPath::root().join("mtu"), "many", "flag --mtu")
        .with(key(), FieldPath::root().join("tags"), json!(["a"]), "flag --tags");
    ConfigManager::builder()
        .source(flags)
        .source(Environment::flat("VLAND_").with_variables(variables.iter().copied()))
        .source(File::named(folder.join("vland.toml")).strict())
}

#[tokio::test]
async fn all_that_several_sources_have_wrong_is_told_at_once_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vland.toml");
    fs::write(&file, "nmae = \"canary\"\n[switch]\nhost = \"h\"\npassword = 778899\n").unwrap();
    let variables = [("VLAND_ID", "canary"), ("VLAND_COLOUR", "red")];
    let error = program(folder.path(), &variables).build().get::<Vlan>().await.unwrap_err().to_string();
    let file = file.display();
    for expected in [
        "mtu: expected a whole number from 576 to 4294967295, found text; in flag --mtu".to_owned(),
        "id: expected a whole number from 0 to 65535, found text; in variable VLAND_ID".to_owned(),
        format!("nmae is no field of this model (did you mean name?); in file {file}"),
        format!("switch.password: expected text, found a whole number; in file {file}"),
        "a required setting is missing:\n  Vlan.name: What people call it.".to_owned(),
        "set it by the flag --name\n    set it by the variable VLAND_NAME\n    set it by name in the file"
            .to_owned(),
    ] {
        assert!(error.contains(&expected), "{expected:?} is not in {error}");
    }
    // What is given wrongly is not missing, nor is the table around it wrong; and what nobody knows in the environment
    // is no error.
    assert!(!error.contains("Vlan.id") && !error.contains("colour"), "{error}");
    assert!(!error.contains(" switch: expected") && !error.contains("Vlan.switch"), "{error}");
    assert!(!error.contains("canary") && !error.contains("778899"), "{error}");

    // Nor is a name that nobody knows: it may be a secret's, misspelled.
    let error = program(folder.path(), &variables).show_values().build().get::<Vlan>().await.unwrap_err();
    assert_eq!(format!("{error:?}").matches("canary").count(), 1, "that of VLAND_ID: {error:?}");
    let shown =
        program(folder.path(), &variables).show_values().build().get::<Vlan>().await.unwrap_err().to_string();
    for expected in ["found \"many\"; in flag --mtu", "found \"canary\"; in variable VLAND_ID"] {
        assert!(shown.contains(expected), "{expected:?} is not in {shown}");
    }
    assert!(!shown.contains("778899"), "a secret is never shown: {shown}");

    // A file that cannot be read may have what seems to be missing.
    fs::write(folder.path().join("vland.toml"), "name = ").unwrap();
    let error = program(folder.path(), &variables).build().get::<Vlan>().await.unwrap_err().to_string();
    assert!(error.contains("is no TOML") && error.contains("flag --mtu"), "{error}");
    assert!(!error.contains("is missing"), "{error}");
}

#[tokio::test]
async fn all_that_only_the_type_can_judge_is_told_at_once() {
    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
    struct Ends {
        #[schemars(extend("x-expected" = "an address and a port, e.g. 10.0.0.5:80"))]
        listen: std::net::SocketAddr,
        peers: Vec<std::net::IpAddr>,
        ports: Vec<u16>,
        name: String,
    }
    let variables = [("E_LISTEN", "here"), ("E_PEERS", "::1,there"), ("E_PORTS", "[1, \"two\"]")];
    let manager = ConfigManager::builder()
        .source(Environment::flat("E_").with_variables(variables))
        .source(Given::new("flags").with(
            "Ends".parse().unwrap(),
            FieldPath::root().join("name"),
            5,
            "flag --name",
        ))
        .show_values()
        .build();
    let error = manager.get::<Ends>().await.unwrap_err().to_string();
    for expected in [
        "listen: expected an address and a port, e.g. 10.0.0.5:80, found \"here\"; in variable E_LISTEN",
        "peers.1: expected text (ip), found \"there\" (invalid IP address syntax); in variable E_PEERS",
        "name: expected text, found 5; in flag --name",
    ] {
        assert!(error.contains(expected), "{expected:?} is not in {error}");
    }
    assert_eq!(error.matches("ports.1: expected a whole number").count(), 1, "told once: {error}");
}

#[tokio::test]
async fn settings_come_with_where_they_come_from_in_one_look() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(folder.path().join("kept"));
    let file = folder.path().join("usual.toml");
    let manager = ConfigManager::builder()
        .source(Environment::flat("VLAND_").with_variables([("VLAND_ID", "5"), ("VLAND_NAME", "n")]))
        .source(File::usual_at(&file).strict())
        .source(kept.clone())
        .build();
    let (vlan, explanation) = manager.get_explained::<Vlan>().await.unwrap();
    assert_eq!((vlan.id, kept.reads.load(Ordering::SeqCst)), (5, 1));
    let at = |name: &str| {
        let place = FieldPath::root().join(name);
        explanation.fields.iter().find(|field| field.place == place).map(|field| field.at.as_str())
    };
    assert_eq!((at("id"), at("mtu")), (Some("variable VLAND_ID"), Some("default")));
    // The file need not be there; once it is, it counts.
    fs::write(&file, "mtu = 9000\n").unwrap();
    assert_eq!(manager.get_explained::<Vlan>().await.unwrap().0.mtu, 9000);
    fs::write(&file, "mtu = 5\n").unwrap();
    assert!(manager.get_explained::<Vlan>().await.is_err());
    assert_eq!(manager.health().status, Status::Failing);
}

#[tokio::test]
async fn unknown_fields_are_not_used_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, _) = chain(
        folder.path(),
        &[("HARMONY_CONFIG_Vlan", r#"{"id":1,"name":"n"}"#), ("HARMONY_CONFIG_Vlan__NMAE", "x")],
    );
    let text = "switch = { host = \"h\", password = \"p\", port = 22 }";
    fs::write(folder.path().join("Vlan.toml"), text).unwrap();
    manager.get::<Vlan>().await.unwrap();
    let health = manager.health();
    assert_eq!(health.status, Status::Degraded);
    let unknown: Vec<_> =
        health.models[0].unknown_fields.iter().map(|(field, at)| format!("{field} in {at}")).collect();
    let file = folder.path().join("Vlan.toml");
    assert_eq!(
        unknown,
        [
            "nmae in variable HARMONY_CONFIG_Vlan__NMAE".to_owned(),
            format!("switch.port in file {}", file.display())
        ]
    );
}

mod older {
    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
    #[config(key = "Host")]
    pub struct Host {
        pub address: String,
    }

    /// It once was `host:port` in one text. The golden version of [`Host`] above.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Config)]
    #[config(key = "Host", migrate_from("9d39699244d11924", split))]
    pub struct NewHost {
        pub host: String,
        pub port: u16,
    }

    fn split(mut values: Document) -> Result<Document, String> {
        let Some(Value::String(address)) = values.remove("address") else { return Ok(values) };
        let (host, port) = address.rsplit_once(':').ok_or("the address has no port")?;
        values.insert("host".to_owned(), host.into());
        values.insert("port".to_owned(), port.parse::<u16>().map_err(|_| "the port is no number")?.into());
        Ok(values)
    }
}

#[tokio::test]
async fn what_was_stored_under_an_older_schema_is_migrated_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept::new(folder.path());
    let manager = || ConfigManager::builder().source(kept.clone()).build();
    manager().set(&older::Host { address: "a.example:22".to_owned() }).await.unwrap();
    let model = Model::of::<older::NewHost>().unwrap();
    let manager = manager();
    let expected = older::NewHost { host: "a.example".to_owned(), port: 22 };
    assert_eq!(manager.get::<older::NewHost>().await.unwrap(), expected);
    let old = Model::of::<older::Host>().unwrap().version;
    assert_eq!(kept.item(&model).unwrap().version, old.0, "reading writes nothing");
    assert!(manager.health().models[0].stored_versions.contains(&old), "and is visible");
    assert_eq!(manager.migrate::<older::NewHost>().await.unwrap().unwrap().revision, 2);
    assert_eq!(kept.item(&model).unwrap().version, model.version.0);
    assert_eq!(manager.migrate::<older::NewHost>().await.unwrap(), None);
    assert_eq!(manager.get::<older::NewHost>().await.unwrap(), expected);
    assert!(manager.health().models[0].stored_versions.is_empty());

    kept.store(&model, &item(&old.0, json!({ "address": "canary" })));
    let error = manager.get::<older::NewHost>().await.unwrap_err().to_string();
    assert!(error.contains("the address has no port") && error.contains(&old.0), "{error}");
    kept.store(&model, &item("ffffffffffffffff", json!({ "address": "a:1", "port": "x" })));
    let error = manager.get::<older::NewHost>().await.unwrap_err().to_string();
    assert!(error.contains("migrate_from(\"ffffffffffffffff\", function)"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_does_not_answer_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[("HARMONY_CONFIG_Vlan", r#"{"id":1,"name":"n"}"#)]);
    kept.hangs.store(true, Ordering::SeqCst);
    let before = tokio::time::Instant::now();
    manager.get::<Vlan>().await.unwrap();
    assert_eq!(before.elapsed().as_secs(), harmony_config::chain::PATIENCE.as_secs());
    manager.get::<Vlan>().await.unwrap();
    assert!(before.elapsed() < harmony_config::chain::PATIENCE + Duration::from_secs(1), "not again");
    let health = manager.health();
    assert_eq!(health.status, Status::Degraded);
    let kept = health.sources.iter().find(|source| source.name == "kept").unwrap();
    assert_eq!(kept.answers, Some(false));
    assert!(kept.last_error.as_ref().unwrap().text.contains("did not answer within 5s"));
}

#[tokio::test]
async fn two_types_with_one_key_are_a_mistake_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, _) = chain(folder.path(), &[]);
    manager.register::<older::Host>().unwrap();
    let error = manager.get::<older::NewHost>().await.unwrap_err().to_string();
    assert!(error.contains("older::Host") && error.contains("older::NewHost"), "{error}");
}
