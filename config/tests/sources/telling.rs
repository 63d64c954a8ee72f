//! What people are told: explain, template, export, everything that is required.

use std::fs;

use harmony_config::{
    Config, ConfigError, File, Secret, Source,
    chain::{Export, Secrets, TemplateFormat, template},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Switch, Vlan, chain, kept::Item, model};

/// Another model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Other {
    /// Where it is.
    url: String,
}

#[tokio::test]
async fn explain_names_the_source_of_each_field_and_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, kept) = chain(folder.path(), &[("HARMONY_CONFIG_Vlan__ID", "7")]);
    fs::write(folder.path().join("Vlan.toml"), "nmae = \"x\"\n[switch]\npassword = \"canary-1\"\n").unwrap();
    let values = json!({ "id": 1, "switch": { "host": "h", "password": "canary-2" } });
    let item = Item { version: model().version.0, revision: 4, values: values.as_object().unwrap().clone() };
    kept.store(&model(), &item);
    let explanation = manager.explain::<Vlan>().await.unwrap();
    let text = format!("{explanation}{explanation:?}");
    for expected in [
        "id = 7  (variable HARMONY_CONFIG_Vlan__ID)",
        "hides that of kept (item Vlan)",
        "mtu = 1500  (default)",
        "switch.host = \"h\"  (item Vlan)",
        "switch.password = \"[secret]\"",
        "MISSING Vlan.name: What people call it.",
        "NOT USED nmae",
        "kept has values in item Vlan, revision 4",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    assert!(!text.contains("canary"), "{text}");
}

/// Removes the one character that keeps settings of a template off.
fn switched_on(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with('#') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_template_has_no_effect_as_it_stands_and_the_right_types_when_it_is_switched_on() {
    for (format, ending) in
        [(TemplateFormat::Toml, "toml"), (TemplateFormat::Yaml, "yaml"), (TemplateFormat::Json, "json")]
    {
        if ending == "yaml" && !cfg!(feature = "yaml") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("Vlan.{ending}"));
        let source = File::folder(folder.path());
        let text = template(&model(), format);
        for expected in ["Its number.", "whole number from 0 to 65535", "required", "default 1500", "secret"]
        {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        fs::write(&path, &text).unwrap();
        assert!(source.read(&model()).await.unwrap().unwrap().values.is_empty(), "{text}");
        if ending != "json" {
            fs::write(&path, switched_on(&text)).unwrap();
            let (manager, _) = chain(folder.path(), &[]);
            let vlan = manager.get::<Vlan>().await.unwrap();
            assert_eq!((vlan.mtu, vlan.switch.map(|switch| switch.host)), (1500, Some(String::new())));
        }
    }
}

#[tokio::test]
async fn everything_that_a_program_needs_is_checked_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, _) = chain(folder.path(), &[]);
    let error = manager.require_all().of::<Vlan>().of::<Other>().check().await.unwrap_err();
    let ConfigError::Missing { fields, .. } = &error else { panic!("{error}") };
    let names: Vec<_> = fields.iter().map(|field| format!("{}.{}", field.key, field.place)).collect();
    assert_eq!(names, ["Vlan.id", "Vlan.name", "Other.url"]);

    fs::write(folder.path().join("Vlan.toml"), "id = \"x\"").unwrap();
    let text = manager.require_all().of::<Vlan>().of::<Other>().check().await.unwrap_err().to_string();
    assert!(text.contains("id: expected a whole number") && text.contains("Other.url"), "{text}");

    let variables = [("HARMONY_CONFIG_Vlan", r#"{"id":1,"name":"n"}"#), ("HARMONY_CONFIG_Other__URL", "u")];
    let other = tempfile::tempdir().unwrap();
    chain(other.path(), &variables).0.require_all().of::<Vlan>().of::<Other>().check().await.unwrap();
}

fn vlan() -> Vlan {
    let switch = Some(Switch { host: "h".to_owned(), password: Secret::new("canary-3".to_owned()) });
    Vlan { id: 5, name: "n".to_owned(), mtu: 1400, tags: vec!["t".to_owned()], switch }
}

#[tokio::test]
async fn an_export_is_imported_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (here, _) = chain(&folder.path().join("here"), &[]);
    let (there, kept) = chain(&folder.path().join("there"), &[]);
    here.set(&vlan()).await.unwrap();
    there.register::<Vlan>().unwrap();

    let text = serde_json::to_string(&here.export(Secrets::Revealed).await.unwrap()).unwrap();
    let export: Export = serde_json::from_str(&text).unwrap();
    there.import(&export).await.unwrap();
    assert_eq!(there.get::<Vlan>().await.unwrap(), vlan());

    // Without secrets: those that are there stay.
    here.set(&Vlan { id: 6, ..vlan() }).await.unwrap();
    let export = here.export(Secrets::Omitted).await.unwrap();
    assert!(!serde_json::to_string(&export).unwrap().contains("canary"));
    assert!(!format!("{export:?}").contains("canary"));
    there.import(&export).await.unwrap();
    assert_eq!(there.get::<Vlan>().await.unwrap(), Vlan { id: 6, ..vlan() });

    // Unknown fields and models, wrong types: all named, nothing written.
    let revision = kept.item(&model()).unwrap().revision;
    let mut bad = serde_json::to_value(&export).unwrap();
    bad["items"]["Vlan"]["values"]["nmae"] = json!("x");
    bad["items"]["Nobody"] = json!({ "schema_version": "0", "values": {} });
    let error = there.import(&serde_json::from_value(bad).unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("nmae is no field") && error.contains("Nobody"), "{error}");
    assert_eq!(kept.item(&model()).unwrap().revision, revision);
    let mut other = serde_json::to_value(&export).unwrap();
    other["format"] = json!("harmony-config/99");
    let error = there.import(&serde_json::from_value(other).unwrap()).await.unwrap_err();
    assert!(matches!(error, ConfigError::Import { .. }), "{error}");
}
