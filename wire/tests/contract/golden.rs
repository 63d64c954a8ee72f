//! Compatibility: today's types read and write what is in `tests/golden/`.
//!
//! After an intended addition, `UPDATE_GOLDEN=1 cargo test -p fleet-wire golden` writes the files of
//! messages anew; their difference is then reviewed like any other. A difference that removes, renames or
//! retypes a field breaks the other side, and needs a new major version of the protocol instead.
//!
//! `sealed.json` is never overwritten, only made when it does not exist: its envelopes were sealed by the
//! version that introduced their format, and every later one must open them.

use std::{collections::BTreeSet, fs};

use fleet_wire::{
    envelope::{self, Direction, Nonce, Outside, Route, SessionId, Stamp},
    keys::Agreement,
    name::{DeviceName, KeyVersion, OwnerEpoch},
    subject::Subject,
};
use k8s_openapi::ByteString;
use nkeys::XKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    ends::public,
    samples::{self, Sample, directory},
};

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// File names and today's texts.
fn files(sample: &Sample) -> [(String, &str); 2] {
    [
        (format!("{}.full.json", sample.name), &sample.full),
        (format!("{}.minimal.json", sample.name), &sample.minimal),
    ]
}

#[test]
fn todays_types_write_what_they_always_wrote() {
    for sample in samples::all() {
        for (file, today) in files(&sample) {
            let path = directory().join(&file);
            if updating() {
                fs::create_dir_all(directory()).unwrap();
                fs::write(&path, today).unwrap();
            }
            let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(today, golden, "{file} differs: see the head of golden.rs");
        }
    }
}

#[test]
fn todays_types_read_what_was_ever_written() {
    for sample in samples::all() {
        for (file, _) in files(&sample) {
            let golden = fs::read_to_string(directory().join(&file)).unwrap();
            let rewritten =
                (sample.rewrite)(golden.as_bytes()).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(rewritten, golden, "{file}");
        }
    }
}

/// Objects whose keys are data, or a variant's name, and the digested text of a bundle: a field more in
/// them is not an unknown field.
const NOT_A_STRUCT: &[&str] = &[
    "allocatable",
    "binaryData",
    "body",
    "capacity",
    "configMaps",
    "curveKeys",
    "data",
    "have",
    "labels",
    "limits",
    "secrets",
    "serviceEnv",
];
const VARIANTS: &[&str] = &["ok", "refused", "later"];

/// Adds a field to every object, as a newer version would.
fn with_unknown_fields(value: &mut Value, key: &str) -> usize {
    let mut added = 0;
    match value {
        Value::Object(fields) => {
            let variant = fields.len() == 1
                && fields.iter().all(|(key, value)| VARIANTS.contains(&key.as_str()) && value.is_object());
            let is_struct = !NOT_A_STRUCT.contains(&key) && !variant;
            if key != "body" {
                added += fields.iter_mut().map(|(key, value)| with_unknown_fields(value, key)).sum::<usize>();
            }
            if is_struct {
                fields.insert("zzTomorrow".into(), json!({"deep": [1, {"er": null}], "x": "y"}));
                added += 1;
            }
        }
        Value::Array(items) => {
            added += items.iter_mut().map(|item| with_unknown_fields(item, key)).sum::<usize>()
        }
        _ => {}
    }
    added
}

#[test]
fn fields_of_tomorrow_are_ignored_at_every_level() {
    for sample in samples::all() {
        for (file, golden) in files(&sample) {
            let mut value: Value = serde_json::from_str(golden).unwrap();
            let added = with_unknown_fields(&mut value, "");
            // A refusal's and a reply's outermost object is a variant; below it there is a struct.
            assert!(added > 0, "{file}");
            // As one object level after the other, and RawValue keeps its text: compare as values.
            let read = (sample.rewrite)(value.to_string().as_bytes())
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            let read: Value = serde_json::from_str(&read).unwrap();
            assert_eq!(read, serde_json::from_str::<Value>(golden).unwrap(), "{file}");
        }
    }
}

#[test]
fn fields_added_within_version_1_have_defaults() {
    // What a 1.0 always wrote is required; all else may be missing.
    for (name, required) in [
        ("hello", &["agentVersion", "bootId", "node", "protocol", "setDigest"][..]),
        ("sync", &["have"]),
        ("delta", &["setDigest", "version"]),
        ("bundle", &["pod"]),
        ("status", &[]),
        ("status_ack", &[]),
        ("events", &["events", "now"]),
        ("events_ack", &[]),
        ("heartbeat", &["desired", "setDigest"]),
        ("logs", &["container", "credit", "namespace", "pod", "stream"]),
    ] {
        let sample = samples::all().into_iter().find(|sample| sample.name == name).unwrap();
        let Value::Object(full) = serde_json::from_str(&sample.full).unwrap() else { panic!("{name}") };
        let needed: Vec<_> = full
            .keys()
            .filter(|key| {
                let mut fewer = full.clone();
                fewer.remove(*key);
                (sample.rewrite)(Value::Object(fewer).to_string().as_bytes()).is_err()
            })
            .collect();
        assert_eq!(needed, required, "{name}");
    }
}

#[test]
fn every_golden_file_belongs_to_a_message() {
    let mut expected: BTreeSet<String> =
        samples::all().iter().flat_map(|sample| files(sample).map(|(file, _)| file)).collect();
    expected.insert("sealed.json".into());
    let found: BTreeSet<String> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}

/// A sealed envelope, and what must be in it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SealedSample {
    name: String,
    up: bool,
    subject: String,
    key_version: KeyVersion,
    /// Base64.
    envelope: ByteString,
    session: Option<SessionId>,
    counter: u64,
    answers: Option<u64>,
    epoch: OwnerEpoch,
    nonce: Option<Nonce>,
    /// JSON, or the bytes of a frame as text.
    payload: String,
}

fn device_key() -> XKey {
    XKey::new_from_raw([0x11; 32])
}

fn fleet_key(version: KeyVersion) -> XKey {
    XKey::new_from_raw([0x20 + version.0 as u8; 32])
}

fn device() -> DeviceName {
    "pi-7".parse().unwrap()
}

fn seal_samples() -> Vec<SealedSample> {
    let root = fleet_wire::subject::device_root(&device());
    let session = Some(SessionId([0x5e; 16]));
    let in_session = |counter| Stamp { session, counter, ..Stamp::default() };
    let sample =
        |name: &str, up: bool, tail: &str, version: u32, stamp: Stamp, payload: &str, bytes: bool| {
            let subject = if tail.starts_with('_') { tail.to_owned() } else { format!("{root}.{tail}") };
            let key_version = KeyVersion(version);
            let device = device();
            let direction = if up { Direction::Up } else { Direction::Down };
            let route = Route { direction, subject: &subject, device: &device, key_version };
            let (device_key, fleet_key) = (device_key(), fleet_key(key_version));
            let (own, peer) =
                if up { (device_key, public(&fleet_key)) } else { (fleet_key, public(&device_key)) };
            let agreement = Agreement::new(&own, &peer).unwrap();
            let envelope = if bytes {
                envelope::seal_bytes(route, stamp.clone(), &agreement, payload.as_bytes())
            } else {
                let body: Value = serde_json::from_str(payload).unwrap();
                envelope::seal(route, stamp.clone(), &agreement, &body)
            };
            SealedSample {
                name: name.into(),
                up,
                subject: subject.clone(),
                key_version,
                envelope: ByteString(envelope.unwrap()),
                session: stamp.session,
                counter: stamp.counter,
                answers: stamp.answers,
                epoch: stamp.epoch,
                nonce: stamp.nonce,
                payload: payload.into(),
            }
        };
    let long = format!("\"{}\"", "nothing new ".repeat(100));
    let hello = Stamp { nonce: Some(Nonce([0xab; 16])), ..Stamp::default() };
    let welcome = Stamp { session, epoch: OwnerEpoch(3), nonce: Some(Nonce([0xcd; 16])), ..Stamp::default() };
    let answer = Stamp { answers: Some(300), epoch: OwnerEpoch(70_000), ..in_session(1) };
    vec![
        sample("hello", true, "up.hello", 1, hello, "{\"bootId\":\"b\"}", false),
        sample("answer to a hello", false, "_INBOX.pi-7.Zx9", 1, welcome, "{\"ok\":{}}", false),
        sample("status", true, "up.status", 1, in_session(1), "{\"pods\":[]}", false),
        sample("compressed", true, "up.events", 2, in_session(300), &long, false),
        sample("answer", false, "_INBOX.pi-7.Zx9.2", 2, answer, "{\"pods\":[]}", false),
        sample("frame", true, "session.s1.up", 1, in_session(u64::MAX), "log line\n", true),
    ]
}

#[test]
fn envelopes_sealed_by_earlier_versions_open() {
    let path = directory().join("sealed.json");
    if updating() && !path.exists() {
        let mut text = serde_json::to_string_pretty(&seal_samples()).unwrap();
        text.push('\n');
        fs::write(&path, text).unwrap();
    }
    let samples: Vec<SealedSample> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(samples.len(), seal_samples().len());
    for sample in samples {
        let name = &sample.name;
        if !sample.subject.starts_with("_INBOX.") {
            assert_eq!(Subject::parse(&sample.subject).unwrap().device(), &device(), "{name}");
        }
        let outside = Outside::parse(&sample.envelope.0).unwrap();
        assert_eq!(outside.key_version, sample.key_version, "{name}");
        let device = device();
        let direction = if sample.up { Direction::Up } else { Direction::Down };
        let route =
            Route { direction, subject: &sample.subject, device: &device, key_version: sample.key_version };
        let fleet_key = fleet_key(sample.key_version);
        let (own, peer) =
            if sample.up { (fleet_key, public(&device_key())) } else { (device_key(), public(&fleet_key)) };
        let opened = outside
            .open(route, &Agreement::new(&own, &peer).unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let header = &opened.header;
        assert_eq!(header.session, sample.session, "{name}");
        assert_eq!(header.counter, sample.counter, "{name}");
        assert_eq!(header.answers, sample.answers, "{name}");
        assert_eq!(header.epoch, sample.epoch, "{name}");
        assert_eq!(header.nonce, sample.nonce, "{name}");
        assert_eq!(String::from_utf8_lossy(&opened.payload), sample.payload, "{name}");
    }
}
