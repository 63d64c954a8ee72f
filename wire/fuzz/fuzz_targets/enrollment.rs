//! Becoming a member: what somebody who is no member yet may send, and what operators hand around.
//!
//! The first byte says whether the rest is a whole message, or what is under a good seal.
#![no_main]

use fleet_wire::enrollment::{
    Door, EnrollReply, EnrollRequest, EnrollStatement, EnrollmentIntent, EnrollmentToken,
    MAX_ENROLL_MESSAGE, SealError, open_request,
};
use libfuzzer_sys::fuzz_target;
use nkeys::XKey;

fn run(bytes: &[u8]) -> Option<()> {
    let (&sealed, rest) = bytes.split_first()?;
    let door = Door::Device("pi-7".parse().ok()?);
    let (device, enroller) = (XKey::new_from_raw([1; 32]), XKey::new_from_raw([2; 32]));
    if sealed == 0 {
        let opened = open_request(rest, &door, &enroller);
        assert!(opened.is_err() || rest.len() <= MAX_ENROLL_MESSAGE);
    } else {
        let body = device.seal(rest, &enroller).ok()?;
        let message = [&[1], device.public_key().as_bytes(), &body].concat();
        match open_request(&message, &door, &enroller) {
            Ok((statement, _)) => assert_eq!(statement.subject, door.subject()),
            Err(SealError::Box) => panic!("the seal was good"),
            Err(_) => {}
        }
    }
    let _ = serde_json::from_slice::<EnrollRequest>(rest);
    let _ = serde_json::from_slice::<EnrollStatement>(rest);
    let _ = serde_json::from_slice::<EnrollReply>(rest);
    let _ = serde_json::from_slice::<EnrollmentIntent>(rest);
    let text = std::str::from_utf8(rest).ok()?;
    if let Ok(token) = text.parse::<EnrollmentToken>() {
        assert_eq!(*token.reveal(), text.trim());
    }
    if let Ok(door) = Door::parse(text) {
        assert_eq!(door.subject(), text);
    }
    Some(())
}

fuzz_target!(|bytes: &[u8]| {
    run(bytes);
});
