//! Both ends of the wire, side by side.

use std::collections::BTreeMap;

use fleet_wire::{
    envelope::EnvelopeError,
    keys::{Agreement, FleetKeys},
    name::{DeviceName, KeyVersion, OwnerEpoch, RequestId},
    session::{Arrival, DeviceSession, FleetSession},
    subject::{DownVerb, Leg, Subject, UpVerb, inbox_prefix},
};
use nkeys::XKey;
use serde_json::Value;

/// A public key, as the other side has it.
pub fn public(key: &XKey) -> XKey {
    XKey::from_public_key(&key.public_key()).unwrap()
}

/// What two keys agree on.
pub fn agreed(one: &XKey, other: &XKey) -> Agreement {
    Agreement::new(one, other).unwrap()
}

/// A fleet with some versions of its curve key.
pub struct Fleet {
    keys: BTreeMap<KeyVersion, XKey>,
}

impl Fleet {
    pub fn new(versions: impl IntoIterator<Item = u32>) -> Self {
        Self { keys: versions.into_iter().map(|version| (KeyVersion(version), XKey::new())).collect() }
    }

    pub fn secret(&self) -> FleetKeys {
        FleetKeys::new(self.keys.clone()).unwrap()
    }

    /// What a device knows that has heard of these versions.
    pub fn public(&self, versions: &[u32]) -> FleetKeys {
        let known = self.keys.iter().filter(|(version, _)| versions.contains(&version.0));
        FleetKeys::new(known.map(|(version, key)| (*version, public(key))).collect()).unwrap()
    }
}

/// A device and the cluster's end for it.
pub struct Ends {
    pub name: DeviceName,
    pub device: DeviceSession,
    pub fleet: FleetSession,
    pub key: XKey,
}

impl Ends {
    /// Not in a session yet.
    pub fn of(name: &str, fleet: &Fleet, known: &[u32]) -> Self {
        let name: DeviceName = name.parse().unwrap();
        let key = XKey::new();
        let device = DeviceSession::new(name.clone(), key.clone(), fleet.public(known), OwnerEpoch(0));
        let cluster = FleetSession::new(name.clone(), public(&key), fleet.secret(), OwnerEpoch(1));
        Self { name, device, fleet: cluster, key }
    }

    /// In a live session.
    pub fn live() -> Self {
        let mut ends = Self::of("pi-7", &Fleet::new([1]), &[1]);
        ends.shake_hands();
        ends
    }

    pub fn up(&self, verb: UpVerb) -> String {
        Subject::Up(self.name.clone(), verb).to_string()
    }

    pub fn down(&self, verb: DownVerb) -> String {
        Subject::Down(self.name.clone(), verb).to_string()
    }

    pub fn stream(&self, id: &str, leg: Leg) -> String {
        Subject::Stream(self.name.clone(), id.parse::<RequestId>().unwrap(), leg).to_string()
    }

    pub fn inbox(&self, token: &str) -> String {
        format!("{}.{token}", inbox_prefix(&self.name))
    }

    pub fn hello(&mut self) -> Vec<u8> {
        let subject = self.up(UpVerb::Hello);
        self.device.seal_hello(&subject, &"hello").unwrap()
    }

    /// The cluster's answer to a hello, on inbox `token`.
    pub fn answer_hello(&mut self, hello: &[u8], token: &str) -> Vec<u8> {
        let subject = self.up(UpVerb::Hello);
        let Ok(Arrival::Hello(hello)) = self.fleet.open(&subject, hello) else { panic!("not a hello") };
        let inbox = self.inbox(token);
        self.fleet.accept_hello(&hello, &inbox, &"welcome").unwrap()
    }

    pub fn take_answer(&mut self, answer: &[u8], token: &str) -> Result<String, EnvelopeError> {
        let inbox = self.inbox(token);
        self.device.open_hello_reply(&inbox, answer)
    }

    /// Hello, its answer, and a first message.
    pub fn shake_hands(&mut self) {
        let hello = self.hello();
        let answer = self.answer_hello(&hello, "h");
        assert_eq!(self.take_answer(&answer, "h").unwrap(), "welcome");
        let first = self.say("first");
        assert_eq!(self.hear(&first).unwrap(), "first");
    }

    /// The device says something, as `up.status`.
    pub fn say(&mut self, what: &str) -> Vec<u8> {
        let subject = self.up(UpVerb::Status);
        self.device.seal(&subject, &what).unwrap().message
    }

    /// What the cluster side makes of it.
    pub fn hear(&mut self, message: &[u8]) -> Result<String, EnvelopeError> {
        let subject = self.up(UpVerb::Status);
        match self.fleet.open(&subject, message)? {
            Arrival::InSession(opened) => opened.body(),
            Arrival::Hello(_) => panic!("a hello where a status was expected"),
        }
    }

    /// The cluster side commands something, as `down.changed`.
    pub fn command(&mut self, what: &str) -> Vec<u8> {
        let subject = self.down(DownVerb::Changed);
        self.fleet.seal(&subject, None, &what).unwrap()
    }

    /// What the device makes of it.
    pub fn obey(&mut self, message: &[u8]) -> Result<String, EnvelopeError> {
        let subject = self.down(DownVerb::Changed);
        self.device.open(&subject, message)?.body()
    }

    /// Both directions work.
    pub fn assert_live(&mut self) {
        let status = self.say("status");
        assert_eq!(self.hear(&status).unwrap(), "status");
        let command = self.command("command");
        assert_eq!(self.obey(&command).unwrap(), "command");
    }
}

/// The refusal's kind, or `None` for what was accepted.
pub fn refusal<T>(result: Result<T, EnvelopeError>) -> Option<&'static str> {
    result.err().map(|error| error.label())
}

/// A JSON string that does not compress.
pub fn noise(bytes: usize) -> Value {
    use base64::Engine as _;
    let mut state = 1u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(bytes * 3 / 4)
    .collect();
    base64::engine::general_purpose::STANDARD.encode(random).into()
}
