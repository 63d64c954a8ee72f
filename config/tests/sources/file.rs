//! Files as a source.

use std::fs;

use harmony_config::{File, Source, SourceError};
#[cfg(feature = "yaml")]
use serde_json::{Value, json};

use super::model;

#[cfg(feature = "yaml")]
#[tokio::test]
async fn three_formats_say_the_same() {
    let texts = [
        ("toml", "id = 7\ntags = [\"a\"]\n[switch]\nhost = \"h\"\n"),
        ("yaml", "# remark\nid: 7\ntags: [a]\nswitch:\n  host: h\n"),
        ("yml", "id: 7\ntags:\n- a\nswitch: { host: h }\n"),
        ("json", r#"{ "//id": "remark", "id": 7, "tags": ["a"], "switch": { "host": "h" } }"#),
    ];
    for (ending, text) in texts {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("Vlan.{ending}"));
        fs::write(&path, text).unwrap();
        let layer = File::folder(folder.path()).read(&model()).await.unwrap().unwrap();
        assert_eq!(Value::Object(layer.values), json!({ "id": 7, "tags": ["a"], "switch": { "host": "h" } }));
        assert_eq!(layer.place, format!("file {}", path.display()));
        let named = File::named(&path).read(&model()).await.unwrap().unwrap();
        assert_eq!(named.place, layer.place);
    }
}

#[tokio::test]
async fn two_files_for_one_model_are_an_error_and_none_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let source = File::folder(folder.path());
    assert_eq!(source.read(&model()).await.unwrap(), None);
    assert_eq!(File::folder(folder.path().join("nowhere")).read(&model()).await.unwrap(), None);
    fs::write(folder.path().join("Vlan.toml"), "id = 1").unwrap();
    fs::write(folder.path().join("Vlan.yaml"), "id: 2").unwrap();
    let error = source.read(&model()).await.unwrap_err().to_string();
    assert!(error.contains("Vlan.toml") && error.contains("Vlan.yaml"), "{error}");
}

#[tokio::test]
async fn a_file_that_somebody_named_has_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let error = File::named(folder.path().join("x.toml")).read(&model()).await.unwrap_err();
    assert!(matches!(error, SourceError::Malformed { .. }), "{error}");
    let other = File::named_for(folder.path().join("x.toml"), "Other".parse().unwrap());
    assert_eq!(other.read(&model()).await.unwrap(), None, "it is not for this model");
}

#[cfg(feature = "yaml")]
#[tokio::test]
async fn a_mistake_is_told_by_its_position_and_never_by_its_line() {
    let texts = [
        ("toml", "id = 1\nname = canary\n", "line 2"),
        ("yaml", "id: 1\nname: [canary\n", "line"),
        ("json", "{ \"name\": \"canary\", }", "line 1"),
        ("json", "[\"canary\"]", "a list"),
    ];
    for (ending, text, expected) in texts {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("Vlan.{ending}")), text).unwrap();
        let error = File::folder(folder.path()).read(&model()).await.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("canary"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Vlan.toml"), b"name = \"\xff\"").unwrap();
    let error = File::folder(folder.path()).read(&model()).await.unwrap_err().to_string();
    assert!(error.contains("byte 8 is not UTF-8"), "{error}");
    fs::write(folder.path().join("Vlan.toml"), "#".repeat(2 << 20)).unwrap();
    let error = File::folder(folder.path()).read(&model()).await.unwrap_err();
    assert!(matches!(error, SourceError::TooLarge { .. }), "{error}");
}

#[cfg(not(feature = "yaml"))]
#[tokio::test]
async fn a_program_that_reads_no_yaml_says_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Vlan.yaml"), "id: 1").unwrap();
    let error = File::folder(folder.path()).read(&model()).await.unwrap_err().to_string();
    assert!(error.contains("Vlan.yaml") && error.contains("no YAML"), "{error}");
}

#[tokio::test]
async fn dates_of_toml_are_text() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Vlan.toml"), "name = 2026-11-21").unwrap();
    let layer = File::folder(folder.path()).read(&model()).await.unwrap().unwrap();
    assert_eq!(layer.values["name"], "2026-11-21");
}
