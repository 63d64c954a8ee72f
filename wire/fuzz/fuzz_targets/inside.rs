//! What is under a good seal: header and payload of a hostile device.
//!
//! The first byte says how much of an honest inside stands in front of the rest, so that the fuzzer gets
//! past the binding.
#![no_main]

use fleet_wire::{
    envelope::{self, Direction, EnvelopeError, MAX_PAYLOAD, Outside, Route, Stamp},
    keys::Agreement,
    message::StatusReport,
    name::{DeviceName, KeyVersion},
};
use libfuzzer_sys::fuzz_target;
use nkeys::XKey;

const OUTSIDE: &[u8] = b"HF\x01\0\0\0\x01\x04pi-7";

fn run(bytes: &[u8]) -> Option<()> {
    let (&honest, rest) = bytes.split_first()?;
    let name: DeviceName = "pi-7".parse().ok()?;
    let (device, fleet) = (XKey::new_from_raw([1; 32]), XKey::new_from_raw([2; 32]));
    let route = Route {
        direction: Direction::Up,
        subject: "fleet.v1.96.pi-7.up.status",
        device: &name,
        key_version: KeyVersion(1),
    };
    let body = vec!["again and again"; 50];
    let agreement = Agreement::new(&device, &fleet).ok()?;
    let sealed = envelope::seal(route, Stamp::default(), &agreement, &body).ok()?;
    let inside = agreement.open(&sealed[OUTSIDE.len()..]).ok()?;
    let forged = [&inside[..usize::from(honest).min(inside.len())], rest].concat();
    let message = [OUTSIDE, &agreement.seal(&forged).ok()?].concat();
    match Outside::parse(&message).and_then(|outside| outside.open(route, &agreement)) {
        Ok(opened) => {
            assert!(opened.payload.len() <= MAX_PAYLOAD);
            let _ = opened.body::<StatusReport>();
            let _ = opened.bytes();
        }
        Err(EnvelopeError::Seal | EnvelopeError::Sender { .. }) => panic!("the seal was good"),
        Err(_) => {}
    }
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    run(bytes);
});
