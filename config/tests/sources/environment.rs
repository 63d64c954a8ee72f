//! The environment as a source.

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

use harmony_config::{Document, Environment, FieldPath, Layer, Source, SourceError};
use serde_json::{Value, json};

use super::model;

async fn read(variables: &[(&str, &str)]) -> Result<Option<Layer>, SourceError> {
    Environment::new().with_variables(variables.iter().copied()).read(&model()).await
}

async fn values(variables: &[(&str, &str)]) -> Value {
    Value::Object(read(variables).await.unwrap().map_or_else(Document::new, |layer| layer.values))
}

#[tokio::test]
async fn a_model_has_one_variable_and_each_field_its_own() {
    let whole = [("HARMONY_CONFIG_Vlan", r#"{ "id": 7, "switch": { "host": "a" } }"#)];
    assert_eq!(values(&whole).await, json!({ "id": 7, "switch": { "host": "a" } }));
    let fields = [
        ("HARMONY_CONFIG_Vlan__ID", "7"),
        ("HARMONY_CONFIG_Vlan__name", "12"),
        ("HARMONY_CONFIG_Vlan__TAGS", r#"["a", "b"]"#),
        ("HARMONY_CONFIG_Vlan__SWITCH__HOST", "true"),
        ("HARMONY_CONFIG_VlanOther__ID", "8"),
    ];
    // Text stays text, even if it looks like a number.
    let expected = json!({ "id": 7, "name": "12", "tags": ["a", "b"], "switch": { "host": "true" } });
    assert_eq!(values(&fields).await, expected);
    let both = [whole[0], ("HARMONY_CONFIG_Vlan__SWITCH__PASSWORD", "p")];
    assert_eq!(values(&both).await, json!({ "id": 7, "switch": { "host": "a", "password": "p" } }));
    assert_eq!(read(&[]).await.unwrap(), None);
}

#[tokio::test]
async fn a_field_knows_its_variable() {
    let layer = read(&[("HARMONY_CONFIG_Vlan__SWITCH__HOST", "a")]).await.unwrap().unwrap();
    let place: FieldPath = ["switch", "host"].into_iter().collect();
    assert_eq!(layer.fields[&place], "variable HARMONY_CONFIG_Vlan__SWITCH__HOST");
    let how = Environment::new().how_to_set_field(&model(), &place);
    assert_eq!(how, "the variable HARMONY_CONFIG_Vlan__SWITCH__HOST");
}

#[tokio::test]
async fn what_cannot_be_understood_stops_and_shows_no_value() {
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("HARMONY_CONFIG_Vlan", "canary {")], "is no JSON"),
        (&[("HARMONY_CONFIG_Vlan", "\"canary\"")], "is text"),
        (
            &[("HARMONY_CONFIG_Vlan__ID", "1"), ("HARMONY_CONFIG_Vlan__id", "2")],
            "HARMONY_CONFIG_Vlan__ID gives id",
        ),
        (
            &[
                ("HARMONY_CONFIG_Vlan", r#"{"switch":{"password":"canary"}}"#),
                ("HARMONY_CONFIG_Vlan__SWITCH__PASSWORD", "x"),
            ],
            "HARMONY_CONFIG_Vlan gives switch.password, too",
        ),
        (
            &[("HARMONY_CONFIG_Vlan__SWITCH", "null"), ("HARMONY_CONFIG_Vlan__SWITCH__HOST", "x")],
            "gives switch.host, too",
        ),
    ];
    for (variables, expected) in cases {
        let error = read(variables).await.unwrap_err();
        assert!(matches!(error, SourceError::Malformed { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(expected) && !text.contains("canary"), "{text}");
    }
}

#[tokio::test]
async fn a_list_of_texts_may_be_separated_by_commas_and_no_other_list() {
    let tags = |text| async move { values(&[("HARMONY_CONFIG_Vlan__TAGS", text)]).await["tags"].clone() };
    for (text, expected) in [
        ("a,b", json!(["a", "b"])),
        ("a", json!(["a"])),
        (" a , 12,", json!(["a", "12"])),
        ("", json!([])),
        (r#"["a,b", "c"]"#, json!(["a,b", "c"])),
        // Meant as JSON, and none: the schema refuses text in the place of a list.
        ("[a", json!("[a")),
    ] {
        assert_eq!(tags(text).await, expected, "{text}");
    }
    let schema = json!({ "type": "object", "properties": {
        "ports": { "type": "array", "items": { "type": "integer" } },
        "either": { "type": ["array", "string"], "items": { "type": "string" } },
    } });
    let key = "Lists".parse().unwrap();
    let model = harmony_config::Model::new(key, schema.try_into().unwrap(), Vec::new()).unwrap();
    let source = Environment::flat("L_").with_variables([("L_PORTS", "1,2"), ("L_EITHER", "a,b")]);
    let layer = source.read(&model).await.unwrap().unwrap();
    assert_eq!(Value::Object(layer.values), json!({ "ports": "1,2", "either": "a,b" }));
}

#[tokio::test]
async fn text_that_is_not_utf8_is_refused_by_name() {
    let bytes = OsString::from_vec(vec![b'a', 0xff]);
    let source =
        Environment::new().with_variables([(OsString::from("HARMONY_CONFIG_Vlan__NAME"), bytes.clone())]);
    let error = source.read(&model()).await.unwrap_err().to_string();
    assert!(error.contains("HARMONY_CONFIG_Vlan__NAME") && error.contains("UTF-8"), "{error}");
    // Somebody else's variable is nobody's business.
    let other = Environment::new().with_variables([(OsString::from("LS_COLORS"), bytes)]);
    assert_eq!(other.read(&model()).await.unwrap(), None);
}

#[tokio::test]
async fn a_program_with_one_model_has_short_names() {
    let source = Environment::flat("VLAND_").with_variables([
        ("VLAND_ID", "5"),
        ("VLAND_SWITCH__HOST", "h"),
        // Kubernetes makes these for a Service named `vland`.
        ("VLAND_SERVICE_HOST", "10.0.0.1"),
        ("VLAND_PORT", "tcp://10.0.0.1:80"),
        ("VLAND_PORT_80_TCP_ADDR", "10.0.0.1"),
    ]);
    let layer = source.read(&model()).await.unwrap().unwrap();
    assert_eq!(Value::Object(layer.values), json!({ "id": 5, "switch": { "host": "h" } }));
    assert!(!format!("{source:?}").contains("10.0.0.1"), "variables may be secret");
}
