//! Sealing: limits, changed bytes, and what an envelope costs.

use std::io::Write as _;

use fleet_wire::{
    envelope::{
        self, Direction, EnvelopeError, MAX_MESSAGE, MAX_PAGE, MAX_PAYLOAD, Nonce, OVERHEAD, Outside, Route,
        SessionId, Stamp,
    },
    message::FetchReply,
    name::{DeviceName, KeyVersion, OwnerEpoch},
};
use nkeys::XKey;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ends::{Ends, agreed, noise, public, refusal};

const SUBJECT: &str = "fleet.v1.1.pi-7.up.status";

/// One seal between a device and the fleet, without a session.
struct Seal {
    name: DeviceName,
    device: XKey,
    fleet: XKey,
}

impl Seal {
    fn new() -> Self {
        Self { name: "pi-7".parse().unwrap(), device: XKey::new(), fleet: XKey::new() }
    }

    fn route(&self) -> Route<'_> {
        Route { direction: Direction::Up, subject: SUBJECT, device: &self.name, key_version: KeyVersion(1) }
    }

    fn seal(&self, body: &Value) -> Result<Vec<u8>, EnvelopeError> {
        envelope::seal(self.route(), Stamp::default(), &agreed(&self.device, &public(&self.fleet)), body)
    }

    fn seal_bytes(&self, bytes: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        envelope::seal_bytes(
            self.route(),
            Stamp::default(),
            &agreed(&self.device, &public(&self.fleet)),
            bytes,
        )
    }

    fn open(&self, message: &[u8]) -> Result<envelope::Opened, EnvelopeError> {
        Outside::parse(message)?.open(self.route(), &agreed(&self.fleet, &public(&self.device)))
    }

    /// Seals an inside of one's own making between the right keys: what a hostile device can do.
    fn forge(&self, inside: &[u8]) -> Vec<u8> {
        let mut message = b"HF\x01\0\0\0\x01\x04pi-7".to_vec();
        message.extend(self.device.seal(inside, &public(&self.fleet)).unwrap());
        message
    }

    /// The inside of an honest message.
    fn inside(&self, message: &[u8]) -> Vec<u8> {
        self.fleet.open(&message[8 + "pi-7".len()..], &public(&self.device)).unwrap()
    }
}

#[test]
fn every_changed_bit_is_refused() {
    let seal = Seal::new();
    let message = seal.seal(&json!({"pods": []})).unwrap();
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(seal.open(&changed).is_err(), "bit {bit}");
    }
    assert!(seal.open(&message).is_ok());
}

#[test]
fn every_message_cut_short_or_run_on_is_refused() {
    let seal = Seal::new();
    let mut message = seal.seal(&json!({"pods": []})).unwrap();
    for length in 0..message.len() {
        assert!(seal.open(&message[..length]).is_err(), "{length} bytes");
    }
    message.push(0);
    assert_eq!(refusal(seal.open(&message)), Some("Seal"));
}

#[test]
fn every_part_of_the_route_is_bound() {
    let seal = Seal::new();
    let message = seal.seal(&json!(1)).unwrap();
    let outside = Outside::parse(&message).unwrap();
    let peer = public(&seal.device);
    let other: DeviceName = "pi-8".parse().unwrap();
    for (route, expected) in [
        (Route { subject: "fleet.v1.1.pi-7.up.events", ..seal.route() }, "Binding"),
        (Route { key_version: KeyVersion(2), ..seal.route() }, "Binding"),
        (Route { device: &other, ..seal.route() }, "Sender"),
        (Route { direction: Direction::Down, ..seal.route() }, "Sender"),
    ] {
        assert_eq!(refusal(outside.open(route, &agreed(&seal.fleet, &peer))), Some(expected), "{route:?}");
    }
    assert!(outside.open(seal.route(), &agreed(&seal.fleet, &peer)).is_ok());
    assert_eq!(refusal(outside.open(seal.route(), &agreed(&seal.fleet, &XKey::new()))), Some("Seal"));
    assert_eq!(refusal(outside.open(seal.route(), &agreed(&XKey::new(), &peer))), Some("Seal"));
}

/// The version stands outside of the seal: rewriting it must not pass where both versions are one key.
#[test]
fn a_rewritten_key_version_is_refused() {
    let seal = Seal::new();
    let mut message = seal.seal(&json!(1)).unwrap();
    message[6] = 2;
    let outside = Outside::parse(&message).unwrap();
    assert_eq!(outside.key_version, KeyVersion(2));
    let peer = public(&seal.device);
    let route = Route { key_version: KeyVersion(2), ..seal.route() };
    assert_eq!(refusal(outside.open(route, &agreed(&seal.fleet, &peer))), Some("Binding"));
    assert_eq!(refusal(outside.open(seal.route(), &agreed(&seal.fleet, &peer))), Some("Binding"));
}

#[test]
fn a_message_over_the_limit_is_neither_made_nor_looked_at() {
    let seal = Seal::new();
    assert!(seal.seal(&noise(MAX_MESSAGE - OVERHEAD - 8)).unwrap().len() <= MAX_MESSAGE);
    assert_eq!(refusal(seal.seal(&noise(MAX_MESSAGE * 3 / 2))), Some("TooLarge"));
    assert!(seal.seal_bytes(&vec![7; MAX_MESSAGE - OVERHEAD]).unwrap().len() <= MAX_MESSAGE);
    assert_eq!(refusal(seal.seal_bytes(&vec![7; MAX_MESSAGE - 1])), Some("TooLarge"));
    assert_eq!(refusal(seal.seal_bytes(&vec![7; MAX_MESSAGE])), Some("TooLarge"));
    assert_eq!(refusal(Outside::parse(&vec![0; MAX_MESSAGE + 1])), Some("TooLarge"));
}

#[test]
fn a_body_over_the_limit_is_not_sealed_however_well_it_compresses() {
    let seal = Seal::new();
    assert!(seal.seal(&"a".repeat(MAX_PAYLOAD - 2).into()).is_ok());
    assert_eq!(refusal(seal.seal(&"a".repeat(MAX_PAYLOAD - 1).into())), Some("TooLarge"));
}

#[test]
fn a_small_message_does_not_unpack_into_a_large_one() {
    let seal = Seal::new();
    // The header of an honest compressed message, and a bomb behind it.
    let inside = seal.inside(&seal.seal(&"a".repeat(10_000).into()).unwrap());
    let header = header_length(&inside);
    let bomb = deflated(&vec![b' '; 64 * 1024 * 1024]);
    assert!(bomb.len() < MAX_MESSAGE);
    let forged = seal.forge(&[&inside[..header], &bomb].concat());
    assert_eq!(refusal(seal.open(&forged)), Some("TooLarge"));
    // Not deflate at all.
    let forged = seal.forge(&[&inside[..header], &[0xff; 40][..]].concat());
    assert_eq!(refusal(seal.open(&forged)), Some("Inflate"));
    // Just within the limit.
    let forged = seal.forge(&[&inside[..header], &deflated(&vec![b' '; MAX_PAYLOAD])].concat());
    assert_eq!(seal.open(&forged).unwrap().payload.len(), MAX_PAYLOAD);
}

/// Binding, session, counter, answers, epoch, nonce, encoding: all but the binding are one byte here.
fn header_length(_: &[u8]) -> usize {
    32 + 6
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_body_nested_without_end_is_refused() {
    let seal = Seal::new();
    let inside = seal.inside(&seal.seal(&json!(1)).unwrap());
    let nested = [&inside[..header_length(&inside)], "[".repeat(100_000).as_bytes()].concat();
    let opened = seal.open(&seal.forge(&nested)).unwrap();
    assert_eq!(refusal(opened.body::<Value>()), Some("Payload"));
}

#[test]
fn a_body_of_another_type_is_a_payload_error_and_names_the_place() {
    let seal = Seal::new();
    let opened = seal.open(&seal.seal(&json!({"pods": 7})).unwrap()).unwrap();
    let error = opened.body::<fleet_wire::message::StatusReport>().unwrap_err();
    assert_eq!(error.label(), "Payload");
    assert!(error.to_string().contains("column"), "{error}");
}

#[test]
fn other_formats_are_told_from_broken_ones() {
    for (message, text) in [
        (&b""[..], "no magic"),
        (b"H", "no magic"),
        (b"XF\x01\0\0\0\x01\0", "no magic"),
        (b"HF", "cut short"),
        (b"HF\x02\0\0\0\x01\0", "another format version"),
        (b"HF\x01\0\0\0", "cut short"),
        (b"HF\x01\0\0\0\x01", "cut short"),
        (b"HF\x01\0\0\0\x01\x05pi-7", "cut short"),
    ] {
        let error = Outside::parse(message).unwrap_err().to_string();
        assert!(error.contains(text), "{message:?}: {error}");
    }
}

#[test]
fn an_inside_without_a_header_is_refused() {
    let seal = Seal::new();
    for inside in [&b""[..], b"x", &[0xff; 31], &[0xff; 200]] {
        assert!(seal.open(&seal.forge(inside)).is_err(), "{inside:?}");
    }
}

/// What a writer leaves free below the limit is enough for the largest outside and header.
#[test]
fn the_overhead_is_bounded() {
    let name: DeviceName = "a".repeat(63).parse().unwrap();
    let (device, fleet) = (XKey::new(), XKey::new());
    let stamp = Stamp {
        session: Some(SessionId([0xff; 16])),
        counter: u64::MAX,
        answers: Some(u64::MAX),
        epoch: OwnerEpoch(u64::MAX),
        nonce: Some(Nonce([0xff; 16])),
    };
    let route = Route {
        direction: Direction::Up,
        subject: SUBJECT,
        device: &name,
        key_version: KeyVersion(u32::MAX),
    };
    let message = envelope::seal_bytes(route, stamp, &agreed(&device, &public(&fleet)), &[7; 1000]).unwrap();
    assert!(message.len() - 1000 <= OVERHEAD, "{}", message.len() - 1000);
}

#[test]
fn the_largest_page_fits_into_a_message() {
    let seal = Seal::new();
    let Value::String(random) = noise(MAX_PAGE) else { unreachable!() };
    let mut data = random.into_bytes();
    data.resize(MAX_PAGE, b'x');
    let page = FetchReply { data: k8s_openapi::ByteString(data), size: u64::MAX };
    assert!(seal.seal(&serde_json::to_value(page).unwrap()).unwrap().len() <= MAX_MESSAGE);
}

#[test]
fn a_long_body_is_compressed_and_a_short_one_is_not() {
    let seal = Seal::new();
    let long = seal.seal(&json!(vec!["nginx:1.29"; 500])).unwrap();
    assert!(long.len() < 500, "{}", long.len());
    let short = seal.seal(&json!("short")).unwrap();
    assert!(String::from_utf8_lossy(&seal.inside(&short)).contains("short"));
}

/// Nothing of what is said can be read outside of the seal, but the sender's name.
#[test]
fn a_sealed_message_shows_nothing() {
    let mut ends = Ends::live();
    let message = ends.say("the quick brown fox");
    let text = String::from_utf8_lossy(&message);
    assert!(text.contains("pi-7") && !text.contains("quick"));
}

proptest! {
    #[test]
    fn bytes_are_opened_as_they_were_sealed(bytes in any::<Vec<u8>>()) {
        let seal = Seal::new();
        let opened = seal.open(&seal.seal_bytes(&bytes).unwrap()).unwrap();
        prop_assert_eq!(opened.bytes().unwrap(), bytes);
    }

    #[test]
    fn text_is_opened_as_it_was_sealed(text in "\\PC{0,600}") {
        let seal = Seal::new();
        let opened = seal.open(&seal.seal(&text.clone().into()).unwrap()).unwrap();
        prop_assert_eq!(opened.body::<String>().unwrap(), text);
    }
}
