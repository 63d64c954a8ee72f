//! What the roles of `rbac.yaml` must not have, whoever edits them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::Value;

fn roles() -> Vec<(String, String, String, Vec<PolicyRule>)> {
    let text = include_str!("../rbac.yaml");
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    objects
        .into_iter()
        .filter(|object| object["rules"].is_array())
        .map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let rules = serde_json::from_value(object["rules"].clone()).unwrap();
            let metadata = &object["metadata"];
            (text(&object["kind"]), text(&metadata["name"]), text(&metadata["namespace"]), rules)
        })
        .collect()
}

fn touches(rule: &PolicyRule, resource: &str) -> bool {
    rule.resources.iter().flatten().any(|name| name == resource || name == "*")
}

#[test]
fn no_role_of_the_whole_cluster_opens_secrets() {
    let roles = roles();
    let cluster: Vec<_> = roles.iter().filter(|(kind, ..)| kind == "ClusterRole").collect();
    assert_eq!(cluster.len(), 2);
    for (_, name, _, rules) in cluster {
        assert!(!rules.iter().any(|rule| touches(rule, "secrets")), "{name}");
    }
}

#[test]
fn nobody_but_keepers_touches_the_fleets_keys_and_operators_only_make_tokens() {
    for (_, name, namespace, rules) in roles() {
        let expected: &[&str] = match (namespace.as_str(), name.as_str()) {
            (_, "fleet-keeper") => continue,
            ("harmony-fleet", _) => &[],
            ("harmony-fleet-tokens", _) => &["create"],
            _ => continue,
        };
        let verbs: Vec<_> =
            rules.iter().filter(|rule| touches(rule, "secrets")).flat_map(|rule| &rule.verbs).collect();
        assert_eq!(verbs, expected, "{name} in {namespace}");
    }
}

#[test]
fn a_keeper_reads_no_secret_of_the_fleet_but_its_keys() {
    let keeper = roles()
        .into_iter()
        .find(|(_, name, namespace, _)| name == "fleet-keeper" && namespace == "harmony-fleet");
    for rule in keeper.unwrap().3.iter().filter(|rule| touches(rule, "secrets")) {
        assert!(rule.resource_names.is_some() || rule.verbs == ["create"], "{rule:?}");
    }
}

#[test]
fn nobody_has_all_rights_and_viewers_change_nothing() {
    for (_, name, _, rules) in roles() {
        for rule in rules {
            let reads = |verb: &String| ["get", "list", "watch"].contains(&verb.as_str());
            assert!(!rule.verbs.iter().any(|verb| verb == "*"), "{name}");
            assert!(name != "fleet-viewer" || rule.verbs.iter().all(reads), "{name}: {rule:?}");
        }
    }
}
