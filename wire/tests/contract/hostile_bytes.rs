//! No decoder panics, whatever comes. The same entry points are fuzzed at length in `wire/fuzz/`.

use fleet_wire::{
    envelope::Outside,
    keys::SignedKeyStatement,
    session::{DeviceSession, FleetSession},
    stream::Frame,
    subject::{Subject, is_own_inbox},
};
use proptest::prelude::*;

use crate::{
    ends::{Ends, public, refusal},
    samples,
};

/// Bytes that begin like an envelope often enough to reach what is behind its checks.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        any_bytes.clone(),
        any_bytes.clone().prop_map(|tail| [b"HF\x01\0\0\0\x01\0".to_vec(), tail].concat()),
        any_bytes.prop_map(|tail| [b"HF\x01\0\0\0\x01\x04pi-7xkv1".to_vec(), tail].concat()),
    ]
}

/// JSON with the keys of our messages, and values of any type.
fn json() -> impl Strategy<Value = String> {
    let key = prop::sample::select(samples::keys());
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| serde_json::json!(number).to_string()),
        Just("1e999".to_owned()),
        "\\PC{0,12}".prop_map(|text| serde_json::json!(text).to_string()),
        key.clone().prop_map(|key| serde_json::json!(key).to_string()),
        Just("\"2026-11-21T09:00:00Z\"".to_owned()),
    ];
    leaf.prop_recursive(6, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn envelopes(bytes in bytes()) {
        let mut ends = Ends::live();
        let _ = Outside::parse(&bytes);
        prop_assert!(ends.hear(&bytes).is_err());
        prop_assert!(ends.obey(&bytes).is_err());
        ends.assert_live();
    }

    #[test]
    fn insides(inside in prop::collection::vec(any::<u8>(), 0..200)) {
        // Sealed between the right keys: a hostile device, or a broken one.
        let fleet = crate::ends::Fleet::new([1]);
        let ends = Ends::of("pi-7", &fleet, &[1]);
        let secret = fleet.secret();
        let mut up = b"HF\x01\0\0\0\x01\x04pi-7".to_vec();
        up.extend(ends.key.seal(&inside, &public(secret.newest().1)).unwrap());
        let mut cluster = FleetSession::new(ends.name.clone(), public(&ends.key), secret.clone(), Default::default());
        prop_assert!(refusal(cluster.open(&ends.up(fleet_wire::subject::UpVerb::Status), &up)).is_some());
        let mut down = b"HF\x01\0\0\0\x01\0".to_vec();
        down.extend(secret.newest().1.seal(&inside, &public(&ends.key)).unwrap());
        let mut device = DeviceSession::new(ends.name.clone(), ends.key.clone(), fleet.public(&[1]), Default::default());
        prop_assert!(refusal(device.open(&ends.down(fleet_wire::subject::DownVerb::Changed), &down)).is_some());
    }

    #[test]
    fn frames(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn subjects(text in "\\PC{0,80}") {
        if let Ok(subject) = Subject::parse(&text) {
            prop_assert_eq!(subject.to_string(), text.clone());
        }
        let _ = is_own_inbox(&"pi-7".parse().unwrap(), &text);
    }

    #[test]
    fn bodies(json in json()) {
        samples::read_as_every_message(json.as_bytes());
    }

    #[test]
    fn bodies_that_are_not_json(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        samples::read_as_every_message(&bytes);
    }

    #[test]
    fn changed_bodies(at in any::<prop::sample::Index>(), byte in any::<u8>(), which in any::<prop::sample::Index>()) {
        let bodies = samples::golden_bodies();
        let mut body = bodies[which.index(bodies.len())].clone();
        let at = at.index(body.len());
        body[at] = byte;
        samples::read_as_every_message(&body);
    }

    #[test]
    fn key_statements(statement in "\\PC{0,80}", signature in "[A-Za-z0-9_-]{0,90}", root in "\\PC{0,60}") {
        let signed = SignedKeyStatement { statement, signature };
        prop_assert!(signed.verify(&root).is_err());
    }
}
