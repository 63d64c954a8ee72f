#![allow(clippy::unwrap_used)]

use fleet_wire::enrollment::{EnrollmentToken, open_request};
use nkeys::XKey;

use super::*;

fn ends() -> (tempfile::TempDir, DeviceKeys, XKey, CurveKey) {
    let dir = tempfile::tempdir().unwrap();
    let keys = DeviceKeys::load_or_create(dir.path()).unwrap();
    let enroller = XKey::new();
    let public = enroller.public_key().parse().unwrap();
    (dir, keys, enroller, public)
}

#[test]
fn a_token_vouches_for_the_request_without_travelling_with_it() {
    let (_dir, keys, enroller, public) = ends();
    let token = EnrollmentToken::random();
    let door = Door::Token(token.id.clone());
    let device = "pi-7".parse().unwrap();
    let asked = to_enroll(&door, &device, &keys, &Invitation::Token(token.clone()), &public).unwrap();
    let (statement, request) = open_request(&asked.message, &door, &enroller).unwrap();
    assert_eq!(statement, asked.statement);
    assert_eq!((&statement.device, &statement.identity_key), (&device, keys.identity()));
    assert!(request.vouched_by_token(&token));
    assert!(!request.vouched_by_token(&EnrollmentToken::random()));
    let secret = token.reveal();
    let secret = secret.split_once('.').unwrap().1;
    assert!(!serde_json::to_string(&request).unwrap().contains(secret));
}

#[test]
fn the_old_key_vouches_for_new_ones() {
    let (_dir, old, enroller, public) = ends();
    let (_other, next, ..) = ends();
    let device: DeviceName = "pi-7".parse().unwrap();
    let asked = to_rotate(&device, &next, &old.identity_pair().unwrap(), &public).unwrap();
    let door = Door::Device(device);
    let (statement, request) = open_request(&asked.message, &door, &enroller).unwrap();
    assert_eq!(&statement.identity_key, next.identity());
    assert!(request.vouched_by_key(old.identity()) && !request.vouched_by_key(next.identity()));
}

/// Ed25519 over PKCS#10: what `kubectl certificate approve` approves names the very keys of the request.
#[test]
fn the_certificate_request_is_signed_by_the_identity_key_and_names_device_and_curve_key() {
    let (_dir, keys, ..) = ends();
    let pem = certificate_request(&"pi-7".parse().unwrap(), &keys).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"), "{pem}");
    let body: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap();
    let (_, raw) = nkeys::from_public_key(keys.identity().as_str()).unwrap();
    let has = |bytes: &[u8]| der.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"pi-7") && has(&raw));
    assert!(has(format!("harmony-fleet:curve:{}", keys.curve_public()).as_bytes()));
    // SEQUENCE { info, algorithm, BIT STRING signature }: the signature is the last 64 bytes, over the info.
    let (rest, signature) = der.split_at(der.len() - 64);
    let header = |at: usize| match rest[at + 1] {
        length if length < 0x80 => (at + 2, usize::from(length)),
        0x81 => (at + 3, usize::from(rest[at + 2])),
        _ => (at + 4, usize::from(rest[at + 2]) << 8 | usize::from(rest[at + 3])),
    };
    let (info_at, _) = header(0);
    let (body_at, length) = header(info_at);
    assert!(keys.identity().verifies(&rest[info_at..body_at + length], signature));
}
