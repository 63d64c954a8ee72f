//! One fully populated and one minimal instance of every message.
//!
//! Own types are written out as struct literals: a new field does not compile until it stands here, too.

use std::{collections::BTreeMap, path::PathBuf};

use fleet_wire::{
    digest::Digest,
    keys::{KeyStatement, SignedKeyStatement},
    message::*,
    name::{KeyVersion, OwnerEpoch, PodKey, PodUid},
};
use k8s_openapi::ByteString;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json, value::RawValue};

/// A message with its two instances, as text.
pub struct Sample {
    pub name: &'static str,
    pub full: String,
    pub minimal: String,
    /// Reads bytes as this message, and writes them again.
    pub rewrite: fn(&[u8]) -> Result<String, serde_json::Error>,
}

fn write<T: Serialize>(message: &T) -> String {
    let mut text = serde_json::to_string_pretty(message).unwrap();
    text.push('\n');
    text
}

fn sample<T: Serialize + DeserializeOwned>(name: &'static str, full: T, minimal: T) -> Sample {
    Sample {
        name,
        full: write(&full),
        minimal: write(&minimal),
        rewrite: |bytes| serde_json::from_slice::<T>(bytes).map(|message| write(&message)),
    }
}

/// Where the golden files are.
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// All golden bodies as they stand on disk.
pub fn golden_bodies() -> Vec<Vec<u8>> {
    all()
        .iter()
        .flat_map(|sample| [sample.full.clone(), sample.minimal.clone()])
        .map(String::into_bytes)
        .collect()
}

/// Reads bytes as every message there is; a reader may refuse them, but not panic.
pub fn read_as_every_message(bytes: &[u8]) {
    for sample in all() {
        if let Ok(text) = (sample.rewrite)(bytes) {
            // What was read once is read again, and says the same.
            assert_eq!((sample.rewrite)(text.as_bytes()).ok(), Some(text), "{}", sample.name);
        }
    }
}

/// Every key that occurs in a message.
pub fn keys() -> Vec<String> {
    fn collect(value: &Value, keys: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                keys.push(key.clone());
                collect(value, keys);
            }),
            Value::Array(items) => items.iter().for_each(|item| collect(item, keys)),
            _ => {}
        }
    }
    let mut keys = Vec::new();
    for body in golden_bodies() {
        collect(&serde_json::from_slice(&body).unwrap(), &mut keys);
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Every message of the protocol.
pub fn all() -> Vec<Sample> {
    vec![
        sample("hello", hello(), minimal_hello()),
        sample("hello_reply", Reply::Ok(hello_reply()), Reply::Ok(minimal_hello_reply())),
        sample(
            "rehello",
            Rehello { reason: "the cluster side restarted".into() },
            Rehello { reason: String::new() },
        ),
        sample(
            "revoked",
            Revoked { reason: "kubectl delete node pi-7".into() },
            Revoked { reason: String::new() },
        ),
        sample("rotate", Rotate { request: "2026-11-21".into() }, Rotate { request: String::new() }),
        sample(
            "sync",
            SyncRequest { have: BTreeMap::from([(uid(), Digest::of(b"{}"))]), desired: desired() },
            SyncRequest { have: BTreeMap::new(), desired: DesiredVersion::default() },
        ),
        sample("delta", delta(), minimal_delta()),
        sample("bundle", bundle(), Bundle::default()),
        sample(
            "fetch",
            FetchRequest { uid: uid(), digest: Digest::of(b"{}"), offset: 98_304 },
            FetchRequest { uid: uid(), digest: Digest::of(b""), offset: 0 },
        ),
        sample(
            "fetch_reply",
            Reply::Ok(FetchReply { data: ByteString(vec![0, 1, 0xfe, 0xff]), size: 300_000 }),
            Reply::Ok(FetchReply { data: ByteString(vec![]), size: 0 }),
        ),
        sample("heartbeat", heartbeat(desired()), heartbeat(DesiredVersion::default())),
        sample("status", status(), StatusReport::default()),
        sample("status_ack", status_ack(), StatusAck::default()),
        sample("events", events(), EventsReport::default()),
        sample("events_ack", EventsAck { refused: 2 }, EventsAck::default()),
        sample("logs", logs(), minimal_logs()),
        sample("logs_reply", Reply::Ok(LogsReply {}), Reply::Ok(LogsReply {})),
        sample(
            "refusal",
            Reply::<()>::Refused(Refusal::new(RefusalCode::UnknownSession, "say hello again")),
            Reply::<()>::Refused(Refusal::new(RefusalCode::Other("Haunted".into()), "")),
        ),
        sample("key_statement", key_statement(2), key_statement(1)),
        sample(
            "signed_key_statement",
            signed_statement(),
            SignedKeyStatement { statement: String::new(), signature: String::new() },
        ),
    ]
}

fn signed_statement() -> SignedKeyStatement {
    SignedKeyStatement { statement: "{\"sequence\":1}".into(), signature: "c2lnbmVk".into() }
}

fn uid() -> PodUid {
    "0f8b3c9e-5a55-4a0e-9a57-0a3d2d9a1c11".parse().unwrap()
}

fn pod_key() -> PodKey {
    PodKey { namespace: "shop".parse().unwrap(), name: "web-x2x9z".parse().unwrap(), uid: uid() }
}

fn desired() -> DesiredVersion {
    DesiredVersion { epoch: OwnerEpoch(3), sequence: 41 }
}

fn kubernetes<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn hello() -> HelloRequest {
    HelloRequest {
        protocol: PROTOCOL,
        agent_version: "0.1.0".into(),
        boot_id: "b1d0f3a2-7a53-4a57-8f0c-3a1c5b0a9d11".into(),
        capabilities: vec!["logs".into()],
        incarnation: Some("3f6c2f0e".into()),
        desired: desired(),
        set_digest: Digest::of_set([(&uid(), &Digest::of(b"{}"))]),
        key_statement: Some(4),
        rotated: Some("2026-11-21".into()),
        node: kubernetes(json!({
            "allocatable": {"cpu": "4", "memory": "3800Mi", "pods": "110"},
            "capacity": {"cpu": "4", "memory": "4Gi", "pods": "110", "ephemeral-storage": "28Gi"},
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "podman is ready",
                "lastHeartbeatTime": "2026-11-21T09:00:00Z", "lastTransitionTime": "2026-11-21T08:00:00Z",
            }],
            "images": [{"names": ["docker.io/library/nginx:1.29"], "sizeBytes": 71_000_000}],
            "nodeInfo": {
                "architecture": "arm64", "bootID": "b1d0f3a2", "containerRuntimeVersion": "podman://4.3.1",
                "kernelVersion": "6.12.0", "kubeProxyVersion": "", "kubeletVersion": "v1.36.0-harmony.0.1.0",
                "machineID": "m1", "operatingSystem": "linux", "osImage": "Debian GNU/Linux 13",
                "systemUUID": "s1",
            },
        })),
    }
}

fn minimal_hello() -> HelloRequest {
    HelloRequest {
        protocol: ProtocolVersion { major: 1, minor: 0 },
        agent_version: "0.1.0".into(),
        boot_id: String::new(),
        capabilities: vec![],
        incarnation: None,
        desired: DesiredVersion::default(),
        set_digest: Digest::of_set([]),
        key_statement: None,
        rotated: None,
        node: kubernetes(json!({})),
    }
}

fn hello_reply() -> HelloReply {
    HelloReply {
        protocol: PROTOCOL,
        cluster_version: "0.1.0".into(),
        owner_epoch: OwnerEpoch(3),
        incarnation: "9b21c7aa".into(),
        heartbeat_interval_seconds: 10,
        node_settings: NodeSettings { report_pod_ip: true },
        set_digest: Digest::of_set([]),
        keys: Some(signed_statement()),
    }
}

fn minimal_hello_reply() -> HelloReply {
    HelloReply {
        protocol: PROTOCOL,
        cluster_version: String::new(),
        owner_epoch: OwnerEpoch(0),
        incarnation: String::new(),
        heartbeat_interval_seconds: 10,
        node_settings: NodeSettings::default(),
        set_digest: Digest::of_set([]),
        keys: None,
    }
}

fn delta() -> Delta {
    // As text, not as a value: what is digested is the text.
    let body = r#"{"pod":{"metadata":{"name":"web-x2x9z","uid":"0f8b3c9e-5a55-4a0e-9a57-0a3d2d9a1c11"}}}"#;
    Delta {
        version: desired(),
        upsert: vec![
            BundleEntry {
                uid: uid(),
                digest: Digest::of(body.as_bytes()),
                size: body.len() as u64,
                body: Some(RawValue::from_string(body.into()).unwrap()),
            },
            BundleEntry {
                uid: "large".parse().unwrap(),
                digest: Digest::of(b"large"),
                size: 300_000,
                body: None,
            },
        ],
        remove: vec!["gone".parse().unwrap()],
        set_digest: Digest::of_set([(&uid(), &Digest::of(body.as_bytes()))]),
        node_settings: NodeSettings { report_pod_ip: true },
    }
}

fn minimal_delta() -> Delta {
    Delta {
        version: DesiredVersion::default(),
        upsert: vec![],
        remove: vec![],
        set_digest: Digest::of_set([]),
        node_settings: NodeSettings::default(),
    }
}

fn bundle() -> Bundle {
    Bundle {
        pod: kubernetes(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-x2x9z", "namespace": "shop", "uid": uid(), "labels": {"app": "web"},
                "creationTimestamp": "2026-11-21T09:00:00Z", "resourceVersion": "4711",
            },
            "spec": {
                "nodeName": "pi-7",
                "containers": [{
                    "name": "web", "image": "docker.io/library/nginx:1.29",
                    "env": [{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "web", "key": "colour"}}}],
                    "resources": {"limits": {"memory": "64Mi"}},
                }],
            },
        })),
        config_maps: BTreeMap::from([(
            "web".into(),
            BundleConfigMap {
                data: BTreeMap::from([("colour".into(), "green".into())]),
                binary_data: BTreeMap::from([("logo.png".into(), ByteString(vec![0x89, b'P', b'N', b'G']))]),
            },
        )]),
        secrets: BTreeMap::from([(
            "web".into(),
            BundleSecret {
                type_: "Opaque".into(),
                data: BTreeMap::from([("word".into(), ByteString(b"not a secret".to_vec()))]),
            },
        )]),
        missing: vec![MissingReference {
            kind: ReferenceKind::ConfigMap,
            name: "colours".into(),
            message: "configmap \"colours\" not found".into(),
        }],
        service_env: BTreeMap::from([("WEB_SERVICE_HOST".into(), "10.43.0.17".into())]),
    }
}

fn heartbeat(desired: DesiredVersion) -> Heartbeat {
    Heartbeat { set_digest: Digest::of_set([]), desired }
}

fn status() -> StatusReport {
    StatusReport {
        node: Some(kubernetes(json!({"capacity": {"cpu": "4"}}))),
        pods: vec![PodReport {
            key: pod_key(),
            revision: 7,
            status: kubernetes(json!({
                "phase": "Running", "observedGeneration": 1, "startTime": "2026-11-21T09:00:00Z",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T09:00:01Z"}],
                "containerStatuses": [{
                    "name": "web", "ready": true, "started": true, "restartCount": 1,
                    "image": "docker.io/library/nginx:1.29", "imageID": "sha256:ab", "containerID": "podman://cd",
                    "state": {"running": {"startedAt": "2026-11-21T09:00:01Z"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }],
            })),
            stopped: true,
        }],
    }
}

fn status_ack() -> StatusAck {
    let outcome = |revision, outcome| PodOutcome { uid: uid(), revision, outcome };
    StatusAck {
        node: Some(Outcome::Taken),
        pods: vec![
            outcome(1, Outcome::Taken),
            outcome(2, Outcome::Gone),
            outcome(
                3,
                Outcome::Later(Refusal::new(RefusalCode::Unavailable, "the API server does not answer")),
            ),
            outcome(
                4,
                Outcome::Refused(Refusal::new(RefusalCode::BadRequest, "status.phase: Invalid value")),
            ),
        ],
    }
}

fn events() -> EventsReport {
    EventsReport {
        events: vec![
            EventRecord {
                id: "pi-7.1".into(),
                pod: Some(pod_key()),
                container: Some("web".parse().unwrap()),
                type_: EventType::Warning,
                reason: "BackOff".into(),
                message: "Back-off restarting failed container web".into(),
                count: 4,
                first: 1_795_251_600_000,
                last: 1_795_251_700_000,
            },
            EventRecord {
                id: "pi-7.2".into(),
                pod: None,
                container: None,
                type_: EventType::Normal,
                reason: "Starting".into(),
                message: String::new(),
                count: 1,
                first: 0,
                last: -1,
            },
        ],
        dropped: 3,
        now: 1_795_251_800_000,
    }
}

fn logs() -> LogsRequest {
    LogsRequest {
        stream: "Zx9-4_".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        pod: "web-x2x9z".parse().unwrap(),
        uid: Some(uid()),
        container: "web".parse().unwrap(),
        follow: true,
        previous: true,
        timestamps: true,
        tail_lines: Some(100),
        limit_bytes: Some(1_000_000),
        since_seconds: Some(60),
        since_time: Some("2026-11-21T09:00:00Z".into()),
        credit: 262_144,
    }
}

fn minimal_logs() -> LogsRequest {
    LogsRequest {
        stream: "Zx9-4_".parse().unwrap(),
        namespace: "shop".parse().unwrap(),
        pod: "web-x2x9z".parse().unwrap(),
        uid: None,
        container: "web".parse().unwrap(),
        follow: false,
        previous: false,
        timestamps: false,
        tail_lines: None,
        limit_bytes: None,
        since_seconds: None,
        since_time: None,
        credit: 0,
    }
}

fn key_statement(versions: u32) -> KeyStatement {
    let key = |version| nkeys::XKey::new_from_raw([version as u8; 32]).public_key();
    KeyStatement {
        sequence: versions.into(),
        curve_keys: (1..=versions).map(|version| (KeyVersion(version), key(version))).collect(),
        enroller_key: None,
    }
}
