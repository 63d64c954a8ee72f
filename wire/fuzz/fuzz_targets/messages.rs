//! Bodies of every message: what is read is written and read again.
#![no_main]

use fleet_wire::{
    keys::{KeyStatement, SignedKeyStatement},
    message::*,
};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return };
    let Ok(text) = serde_json::to_string(&message) else { panic!("what was read cannot be written") };
    let Ok(message) = serde_json::from_str::<T>(&text) else { panic!("what was written cannot be read: {text}") };
    assert_eq!(serde_json::to_string(&message).ok(), Some(text));
}

fuzz_target!(|bytes: &[u8]| {
    again::<HelloRequest>(bytes);
    again::<Reply<HelloReply>>(bytes);
    again::<Rehello>(bytes);
    again::<Revoked>(bytes);
    again::<Rotate>(bytes);
    again::<SyncRequest>(bytes);
    again::<Reply<Delta>>(bytes);
    again::<Delta>(bytes);
    again::<Bundle>(bytes);
    again::<FetchRequest>(bytes);
    again::<Reply<FetchReply>>(bytes);
    again::<Heartbeat>(bytes);
    again::<StatusReport>(bytes);
    again::<Reply<StatusAck>>(bytes);
    again::<StatusAck>(bytes);
    again::<EventsReport>(bytes);
    again::<Reply<EventsAck>>(bytes);
    again::<LogsRequest>(bytes);
    again::<Reply<LogsReply>>(bytes);
    again::<KeyStatement>(bytes);
    again::<SignedKeyStatement>(bytes);
});
