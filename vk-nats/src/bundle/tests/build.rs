//! Bundles: what they carry, and what changes their digest.

use fleet_wire::message::{BundleConfigMap, BundleSecret};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::*;

fn pod() -> Value {
    json!({
        "metadata": {
            "namespace": "web", "name": "front", "uid": "8a0b", "generation": 1,
            "resourceVersion": "100", "labels": { "app": "front" },
            "managedFields": [{ "manager": "kubectl", "operation": "Apply" }],
        },
        "spec": {
            "nodeName": "pi-7",
            "containers": [{ "name": "web", "envFrom": [{ "configMapRef": { "name": "settings" } }] }],
            "volumes": [{ "name": "s", "secret": { "secretName": "certificates" } }],
        },
        "status": { "phase": "Pending" },
    })
}

fn parsed(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn all_present(key: &RefKey) -> RefState {
    RefState::Present(Arc::new(match key.kind {
        Kind::ConfigMap => Resolved::ConfigMap(BundleConfigMap {
            data: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            ..BundleConfigMap::default()
        }),
        Kind::Secret => Resolved::Secret(BundleSecret {
            type_: "Opaque".to_owned(),
            data: BTreeMap::from([("tls.key".to_owned(), ByteString(b"secret".to_vec()))]),
        }),
    }))
}

fn digest(value: Value) -> Digest {
    build(&parsed(value), all_present, &BTreeMap::new()).unwrap().digest
}

fn with(path: &str, value: Value) -> Value {
    let mut changed = pod();
    *changed.pointer_mut(path).unwrap() = value;
    changed
}

#[test]
fn the_bundle_carries_what_the_pod_refers_to_and_its_digest() {
    let env = BTreeMap::from([("KUBERNETES_SERVICE_HOST".to_owned(), "10.96.0.1".to_owned())]);
    let built = build(&parsed(pod()), all_present, &env).unwrap();
    assert_eq!(built.digest, Digest::of(built.json.get().as_bytes()));
    let bundle: Bundle = serde_json::from_str(built.json.get()).unwrap();
    assert_eq!(bundle.config_maps["settings"].data["A"], "1");
    assert_eq!(bundle.secrets["certificates"].type_, "Opaque");
    assert_eq!(bundle.service_env, env);
    assert!(bundle.missing.is_empty());
    assert_eq!(bundle.pod.status, None);
    assert_eq!(bundle.pod.metadata.managed_fields, None);
    assert_eq!(bundle.pod.metadata.generation, Some(1));
}

#[test]
fn writes_that_do_not_concern_the_device_do_not_change_the_digest() {
    let same = digest(pod());
    assert_eq!(digest(with("/metadata/resourceVersion", json!("101"))), same);
    assert_eq!(digest(with("/metadata/managedFields", json!([]))), same);
    assert_eq!(digest(with("/status/phase", json!("Running"))), same);
}

#[test]
fn what_concerns_it_does() {
    let before = digest(pod());
    assert_ne!(digest(with("/metadata/labels/app", json!("back"))), before);
    assert_ne!(digest(with("/metadata/generation", json!(2))), before);
    let mut deleted = pod();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
    deleted["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    assert_ne!(digest(deleted), before);
}

#[test]
fn a_finished_pod_says_so_and_nothing_else_of_its_status_goes_down() {
    let mut finished = pod();
    finished["status"] = json!({ "phase": "Succeeded", "podIP": "10.0.0.1" });
    let built = build(&parsed(finished), all_present, &BTreeMap::new()).unwrap();
    let bundle: Bundle = serde_json::from_str(built.json.get()).unwrap();
    let status = bundle.pod.status.unwrap();
    assert_eq!((status.phase.as_deref(), status.pod_ip), (Some("Succeeded"), None));
}

#[test]
fn missing_references_are_named_with_what_the_api_server_said() {
    let missing = |_: &RefKey| RefState::Missing("not found".to_owned());
    let built = build(&parsed(pod()), missing, &BTreeMap::new()).unwrap();
    let bundle: Bundle = serde_json::from_str(built.json.get()).unwrap();
    let names: Vec<&str> = bundle.missing.iter().map(|missing| missing.name.as_str()).collect();
    assert_eq!(names, ["settings", "certificates"]);

    let mut optional = pod();
    optional["spec"]["volumes"][0]["secret"]["optional"] = json!(true);
    let built = build(&parsed(optional), missing, &BTreeMap::new()).unwrap();
    let bundle: Bundle = serde_json::from_str(built.json.get()).unwrap();
    assert_eq!(bundle.missing.len(), 1);
}

#[test]
fn nothing_goes_down_before_every_reference_was_read() {
    let pending = |_: &RefKey| RefState::Pending;
    assert_eq!(build(&parsed(pod()), pending, &BTreeMap::new()).unwrap_err(), BuildError::Unresolved);
}

#[test]
fn content_that_is_too_large_is_replaced_by_the_reason() {
    let large = |key: &RefKey| match key.kind {
        Kind::ConfigMap => RefState::Present(Arc::new(Resolved::ConfigMap(BundleConfigMap {
            data: BTreeMap::from([("A".to_owned(), "x".repeat(MAX_PAYLOAD))]),
            ..BundleConfigMap::default()
        }))),
        Kind::Secret => all_present(key),
    };
    let built = build(&parsed(pod()), large, &BTreeMap::new()).unwrap();
    let bundle: Bundle = serde_json::from_str(built.json.get()).unwrap();
    assert!(bundle.config_maps.is_empty() && bundle.secrets.is_empty());
    assert!(bundle.missing[0].message.contains("limit"));
}

#[test]
fn a_status_is_no_other_pod_but_everything_that_a_device_has_to_know_is() {
    let told = |value: Value| digest_of(&parsed(value));
    let before = told(pod());
    for (path, value) in [
        ("/status/phase", json!("Running")),
        ("/metadata/resourceVersion", json!("101")),
        ("/metadata/managedFields", json!([])),
    ] {
        assert_eq!(told(with(path, value)), before, "{path}");
    }
    let mut deleted = pod();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
    assert_ne!(told(deleted), before, "a deletion");
    for (path, value) in [
        ("/status/phase", json!("Failed")),
        ("/metadata/generation", json!(2)),
        ("/metadata/labels/app", json!("back")),
        ("/spec/containers/0/name", json!("other")),
    ] {
        assert_ne!(told(with(path, value)), before, "{path}");
    }
}
