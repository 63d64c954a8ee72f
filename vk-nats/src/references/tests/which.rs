//! What a pod refers to.

use serde_json::json;

use super::*;

#[test]
fn everything_that_a_pod_can_refer_to_is_found() {
    let pod: Pod = serde_json::from_value(json!({
        "spec": {
            "imagePullSecrets": [{ "name": "registry" }],
            "volumes": [
                { "name": "a", "configMap": { "name": "settings" } },
                { "name": "b", "secret": { "secretName": "certificates", "optional": true } },
                { "name": "c", "projected": { "sources": [
                    { "configMap": { "name": "kube-root-ca.crt" } },
                    { "secret": { "name": "projected" } },
                    { "serviceAccountToken": { "path": "token" } },
                ] } },
                { "name": "d", "emptyDir": {} },
            ],
            "initContainers": [{ "name": "i", "envFrom": [{ "secretRef": { "name": "certificates" } }] }],
            "containers": [{
                "name": "m",
                "env": [
                    { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "optional", "key": "k", "optional": true } } },
                    { "name": "B", "valueFrom": { "secretKeyRef": { "name": "password", "key": "k" } } },
                    { "name": "C", "value": "plain" },
                ],
                "envFrom": [{ "configMapRef": { "name": "more" } }],
            }],
            "ephemeralContainers": [{ "name": "e", "envFrom": [{ "configMapRef": { "name": "debug" } }] }],
        },
    }))
    .unwrap();
    let found: Vec<(Kind, String, Need)> =
        of(&pod).into_iter().map(|((kind, name), need)| (kind, name, need)).collect();
    let expected = [
        (Kind::ConfigMap, "debug", Need::Mandatory),
        (Kind::ConfigMap, "kube-root-ca.crt", Need::Mandatory),
        (Kind::ConfigMap, "more", Need::Mandatory),
        (Kind::ConfigMap, "optional", Need::Optional),
        (Kind::ConfigMap, "settings", Need::Mandatory),
        // Optional in one place, mandatory in another.
        (Kind::Secret, "certificates", Need::Mandatory),
        (Kind::Secret, "password", Need::Mandatory),
        (Kind::Secret, "projected", Need::Mandatory),
        (Kind::Secret, "registry", Need::Optional),
    ]
    .map(|(kind, name, need)| (kind, name.to_owned(), need));
    assert_eq!(found, expected);
}
