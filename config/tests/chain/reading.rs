use std::{fs, sync::atomic::Ordering, time::Duration};

use harmony_config::{
    Config, ConfigError, ConfigManager, Document, Environment, FieldPath, Given, Model, Secret, SourceError,
    health::Status,
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

#[tokio::test]
async fn unknown_fields_are_not_used_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, _) = chain(
        folder.path(),
        &[("HARMONY_CONFIG_Vlan", r#"{"id":1,"name":"n"}"#), ("HARMONY_CONFIG_Vlan__NMAE", "x")],
    );
    fs::write(folder.path().join("Vlan.yaml"), "switch: { host: h, password: p, port: 22 }").unwrap();
    manager.get::<Vlan>().await.unwrap();
    let health = manager.health();
    assert_eq!(health.status, Status::Degraded);
    let unknown: Vec<_> =
        health.models[0].unknown_fields.iter().map(|(field, at)| format!("{field} in {at}")).collect();
    let file = folder.path().join("Vlan.yaml");
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
