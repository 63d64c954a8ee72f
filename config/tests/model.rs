//! What a Rust type says as a model: its version, its secrets, and what is wrong with values for it.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use harmony_config::{
    Config, Document, FieldPath, Model, ModelError, SchemaVersion, Secret,
    schema::{Extent, FaultKind, faults},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

fn document(value: Value) -> Document {
    value.as_object().unwrap().clone()
}

fn places(model: &Model) -> Vec<String> {
    model.secrets.iter().map(ToString::to_string).collect()
}

mod today {
    use super::*;

    /// A switch.
    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
    pub struct Switch {
        /// Where it listens.
        pub host: String,
        pub port: u16,
        #[serde(default)]
        pub mode: Mode,
        pub tls: Option<Tls>,
    }

    #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    pub enum Mode {
        #[default]
        Fast,
        VerySlow,
    }

    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
    pub struct Tls {
        pub ca_file: String,
        #[serde(default)]
        pub depth: Option<u32>,
    }
}

/// The same values, written by another person: other order, other names of types, other words.
mod rewritten {
    use super::*;

    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
    #[config(key = "Switch")]
    #[serde(deny_unknown_fields)]
    pub struct SwitchSettings {
        /// Encryption. None: plain.
        pub tls: Option<Encryption>,
        #[serde(default = "slow")]
        pub mode: Speed,
        #[serde(rename = "port")]
        pub tcp_port: u16,
        pub host: String,
    }

    fn slow() -> Speed {
        Speed::VerySlow
    }

    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    pub enum Speed {
        /// Takes hours.
        VerySlow,
        /// Takes minutes.
        Fast,
    }

    /// Words.
    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
    pub struct Encryption {
        #[serde(default)]
        pub depth: Option<u32>,
        /// More words.
        pub ca_file: String,
    }
}

#[test]
fn the_version_of_a_model_never_changes_by_itself() {
    // Golden. If this fails, every value that anybody stored counts as written under another schema.
    assert_eq!(Model::of::<today::Switch>().unwrap().version.0, "52aefa9d6fc1c372");
    assert_eq!(Model::of::<Everything>().unwrap().version.0, "cf492b71f899c393");
}

#[test]
fn order_and_words_and_defaults_do_not_count() {
    assert_eq!(
        Model::of::<today::Switch>().unwrap().version,
        Model::of::<rewritten::SwitchSettings>().unwrap().version
    );
}

#[test]
fn what_values_must_look_like_counts() {
    macro_rules! version {
        ($($field:tt)*) => {{
            #[derive(Clone, Serialize, Deserialize, JsonSchema, Config)]
            struct Small { $($field)* }
            Model::of::<Small>().unwrap().version
        }};
    }
    let versions = [
        version!(id: u16),
        version!(id: u32),
        version!(id: u64),
        version!(id: Option<u16>),
        version!(#[serde(default)] id: u16),
        version!(#[schemars(range(max = 4094))] id: u16),
        version!(id: String),
        version!(id: Vec<u16>),
        version!(ident: u16),
        version!(id: u16, name: String),
        version!(id: HashMap<String, u16>),
    ];
    let distinct: std::collections::HashSet<SchemaVersion> = versions.iter().cloned().collect();
    // `Option<u16>` and a default differ: null is accepted by one of them only.
    assert_eq!(distinct.len(), versions.len());
    assert_eq!(version!(id: u16), version!(id: Secret<u16>), "where it is kept is not what it looks like");
}

/// A bit of everything that schemars writes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Everything {
    text: String,
    number: f64,
    list: Vec<u8>,
    pair: (u8, String),
    map: HashMap<String, Inner>,
    tagged: Tagged,
    address: std::net::IpAddr,
    #[serde(flatten)]
    flat: Flat,
    tree: Tree,
    anything: Value,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Inner {
    token: Secret<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Tagged {
    Password { user: String, password: Secret<String> },
    Key { file: String },
    None,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Flat {
    flat_secret: Option<Secret<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Tree {
    name: String,
    seed: Secret<String>,
    below: Vec<Tree>,
    left: Option<Box<Tree>>,
}

#[test]
fn secrets_are_found_wherever_they_stand() {
    let model = Model::of::<Everything>().unwrap();
    assert_eq!(
        places(&model),
        ["flat_secret", "map", "tagged.password", "tree.below", "tree.left", "tree.seed"]
    );
}

#[derive(Clone, Serialize, Deserialize, JsonSchema, Config)]
#[serde(rename_all = "camelCase")]
struct Marked {
    #[config(secret)]
    api_token: String,
    #[config(secret)]
    #[serde(rename = "pin")]
    number: u32,
    #[config(nested)]
    upstream: Option<Upstream>,
    #[config(secret)]
    whole: Value,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Upstream {
    url: String,
    #[config(secret)]
    key: String,
}

#[test]
fn marked_fields_have_the_names_that_serde_reads() {
    let model = Model::of::<Marked>().unwrap();
    assert_eq!(places(&model), ["apiToken", "pin", "upstream.key", "whole"]);
    let schema = model.schema.as_value();
    assert_eq!(schema["properties"]["apiToken"]["x-secret"], true, "an editor of the schema sees it, too");
    assert_eq!(schema["properties"]["whole"]["writeOnly"], true);
}

#[test]
fn a_secret_that_is_nowhere_is_no_secret() {
    #[derive(Clone, Serialize, Deserialize, JsonSchema)]
    struct Wrong {
        a: u8,
    }
    impl Config for Wrong {
        const KEY: &'static str = "Wrong";
        const SECRETS: &'static [&'static str] = &["b"];
    }
    assert!(matches!(Model::of::<Wrong>(), Err(ModelError::NoSuchSecret { .. })));
}

#[test]
fn every_fault_is_named_at_once_with_its_place_and_without_its_value() {
    let model = Model::of::<today::Switch>().unwrap();
    let values = document(json!({
        "port": "hunter2", "prot": 5, "mode": "swift", "tls": { "depth": -3, "cafile": true },
    }));
    let found = faults(model.schema.as_value(), &values, Extent::Whole);
    let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
    let mut sorted = texts.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "host is missing (expected text)",
            "mode: expected one of \"fast\", \"very-slow\", found another text",
            "port: expected a whole number from 0 to 65535, found text",
            "prot is no field of this model (did you mean port?)",
            "tls.ca_file is missing (expected text)",
            "tls.cafile is no field of this model (did you mean ca_file?)",
            "tls.depth: expected a whole number from 0 to 4294967295, found a number outside of that",
        ]
    );
    assert!(!texts.concat().contains("hunter2"));
}

#[test]
fn a_part_may_lack_what_another_source_has() {
    let model = Model::of::<today::Switch>().unwrap();
    assert_eq!(
        faults(model.schema.as_value(), &document(json!({ "tls": { "depth": 3 } })), Extent::Part),
        []
    );
    let found = faults(model.schema.as_value(), &Document::new(), Extent::Whole);
    let names: Vec<_> = found.iter().map(|fault| fault.place.to_string()).collect();
    assert_eq!(names, ["host", "port"], "what is optional is not missing, nor is what it holds");
}

#[test]
fn every_shape_of_serde_is_accepted_as_serde_reads_it() {
    let model = Model::of::<Everything>().unwrap();
    let values = document(json!({
        "text": "a", "number": 1, "list": [1, 2], "pair": [1, "b"], "map": { "any name": { "token": "t" } },
        "tagged": { "kind": "password", "user": "u", "password": "p" }, "address": "::1", "flat_secret": null,
        "tree": { "name": "n", "seed": "s", "below": [{ "name": "m", "seed": "s", "below": [] }] },
        "anything": { "goes": [1, { "here": null }] },
    }));
    assert_eq!(faults(model.schema.as_value(), &values, Extent::Whole), []);
    serde_json::from_value::<Everything>(Value::Object(values.clone())).unwrap();

    let mut bad = values;
    bad["tree"]["below"][0]["nmae"] = json!("x");
    bad["list"][1] = json!(300);
    bad["map"]["any name"]["tokn"] = json!(1);
    let found: Vec<_> = faults(model.schema.as_value(), &bad, Extent::Whole)
        .into_iter()
        .map(|fault| (fault.place.to_string(), fault.kind))
        .collect();
    assert_eq!(
        found,
        [
            ("list.1".to_owned(), FaultKind::Unfit),
            ("map.\"any name\".tokn".to_owned(), FaultKind::Unknown),
            ("tree.below.0.nmae".to_owned(), FaultKind::Unknown),
        ]
    );
}

#[test]
fn a_secret_is_shown_by_nothing_but_the_code_that_asks_for_it() {
    let inner = Inner { token: Secret::new("canary-4711".to_owned()) };
    assert!(!format!("{inner:?}").contains("canary"));
    assert_eq!(inner.token.expose(), "canary-4711");
    assert_eq!(serde_json::to_value(&inner).unwrap(), json!({ "token": "canary-4711" }));
    assert!(Model::of::<Everything>().unwrap().touches_secret(&FieldPath::root()));
}
