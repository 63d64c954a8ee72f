//! The session of a device: which messages are fresh.
//!
//! ```text
//! device                                   cluster
//!   hello {nonce d} ───────────────────────►        pending session = H(d, c)
//!   ◄─────────────────────── {nonce c} reply        (a replayed hello makes only a pending one)
//!   first message in it ───────────────────►        pending → live, the older one ends
//! ```
//!
//! All messages of a session are sealed with the version of the fleet's key with which its hello was: a
//! leaked older version, still known for the sake of slow devices, opens no session of a newer one.
//!
//! Counters live in memory, one for each direction, with a window that tolerates reordering; no wall
//! clock takes part. Stream frames number themselves (their subject names the stream), so that a busy
//! stream does not push control messages out of the window.

mod keys;
mod replay;

use std::collections::VecDeque;

use nkeys::XKey;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use self::{keys::Keys, replay::ReplayWindow};
use crate::{
    envelope::{self, Direction, EnvelopeError, Nonce, Opened, Outside, Route, SessionId, Stamp},
    keys::FleetKeys,
    name::{DeviceName, KeyVersion, OwnerEpoch},
};

/// How far behind the newest counter a message may be and still be told from a replay.
pub const WINDOW: u64 = 1024;
/// How many answered hellos may wait for their first message. A device that repeats its hello, or a broker
/// that replays one, does not push out the session that the device is about to use.
const MAX_PENDING: usize = 4;

fn session_id(device: &DeviceName, device_nonce: Nonce, fleet_nonce: Nonce) -> SessionId {
    let mut hash = Sha256::new();
    hash.update(b"harmony-fleet session v1\n");
    hash.update(device_nonce.0);
    hash.update(fleet_nonce.0);
    hash.update(device.as_str().as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    SessionId(id)
}

/// A live session at either end.
#[derive(Debug, Clone)]
struct Live {
    id: SessionId,
    key_version: KeyVersion,
    sent: u64,
    received: ReplayWindow,
}

impl Live {
    fn new(id: SessionId, key_version: KeyVersion) -> Self {
        Self { id, key_version, sent: 0, received: ReplayWindow::new() }
    }

    fn is(&self, id: SessionId, key_version: KeyVersion) -> bool {
        self.id == id && self.key_version == key_version
    }
}

/// A sealed message and its counter, which an answer repeats.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// To be published.
    pub message: Vec<u8>,
    /// Its counter.
    pub counter: u64,
}

/// The device's end.
#[derive(Debug)]
pub struct DeviceSession {
    device: DeviceName,
    keys: Keys,
    live: Option<Live>,
    hello: Option<(Nonce, KeyVersion)>,
    epoch: OwnerEpoch,
}

impl DeviceSession {
    /// `epoch` is the highest owner epoch that the device has persisted.
    pub fn new(device: DeviceName, own: XKey, fleet: FleetKeys, epoch: OwnerEpoch) -> Self {
        Self { device, keys: Keys::new(own, fleet), live: None, hello: None, epoch }
    }

    /// Whether a hello was answered.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// The live session's id, for logs.
    pub fn id(&self) -> Option<SessionId> {
        self.live.as_ref().map(|live| live.id)
    }

    /// Highest owner epoch seen.
    pub fn epoch(&self) -> OwnerEpoch {
        self.epoch
    }

    /// The version of the fleet's key with which the live session is sealed.
    pub fn key_version(&self) -> Option<KeyVersion> {
        self.live.as_ref().map(|live| live.key_version)
    }

    /// The fleet has other keys: the next hello is sealed with the newest. A live session goes on as long as
    /// its version is among them.
    pub fn set_fleet(&mut self, fleet: FleetKeys) {
        self.keys.set_fleet(fleet);
    }

    /// The device has another curve key: what was sealed with the old one ends.
    pub fn set_own(&mut self, own: XKey) {
        self.keys.set_device(own);
        self.live = None;
        self.hello = None;
    }

    /// Seals a hello with a fresh nonce. An open session stays until the answer comes.
    pub fn seal_hello<T: Serialize>(&mut self, subject: &str, body: &T) -> Result<Vec<u8>, EnvelopeError> {
        let nonce = Nonce::random();
        let version = self.keys.fleet.newest().0;
        let stamp = Stamp { nonce: Some(nonce), ..Stamp::default() };
        let agreement = self.keys.agreement(version)?;
        let message = envelope::seal(self.route(Direction::Up, subject, version), stamp, agreement, body)?;
        self.hello = Some((nonce, version));
        Ok(message)
    }

    /// Opens the answer to the last hello. If it carries a session, that is the live one from now on;
    /// a refusal carries none and leaves the old one as it is.
    pub fn open_hello_reply<T: DeserializeOwned>(
        &mut self,
        subject: &str,
        message: &[u8],
    ) -> Result<T, EnvelopeError> {
        let (opened, version) = self.unseal(subject, message)?;
        self.check_epoch(opened.header.epoch)?;
        let Some(session) = opened.header.session else {
            let refusal = opened.body()?;
            self.epoch = opened.header.epoch;
            return Ok(refusal);
        };
        let (device_nonce, hello_version) = self.hello.ok_or(EnvelopeError::Session)?;
        let fleet_nonce = opened.header.nonce.ok_or(EnvelopeError::Session)?;
        if version != hello_version || session != session_id(&self.device, device_nonce, fleet_nonce) {
            return Err(EnvelopeError::Session);
        }
        let body = opened.body()?;
        self.epoch = opened.header.epoch;
        self.hello = None;
        self.live = Some(Live::new(session, version));
        Ok(body)
    }

    /// Seals a message in the live session.
    pub fn seal<T: Serialize>(&mut self, subject: &str, body: &T) -> Result<Sealed, EnvelopeError> {
        let live = self.live.as_mut().ok_or(EnvelopeError::Session)?;
        live.sent += 1;
        let (counter, version) = (live.sent, live.key_version);
        let stamp = Stamp { session: Some(live.id), counter, ..Stamp::default() };
        let agreement = self.keys.agreement(version)?;
        let route = self.route(Direction::Up, subject, version);
        Ok(Sealed { message: envelope::seal(route, stamp, agreement, body)?, counter })
    }

    /// Opens a message of the live session: a command, or the answer to a request.
    ///
    /// Messages without a session ([`Opened::header`]`.session == None`) pass: only `rehello` and typed
    /// refusals of a cluster side that lost the session may come so; the caller takes nothing else.
    pub fn open(&mut self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        let (opened, version) = self.unseal(subject, message)?;
        self.check_epoch(opened.header.epoch)?;
        if let Some(session) = opened.header.session {
            let live = self.live.as_mut().filter(|live| live.is(session, version));
            live.ok_or(EnvelopeError::Session)?.received.accept(opened.header.counter)?;
        }
        self.epoch = opened.header.epoch;
        Ok(opened)
    }

    /// Seals frame `number` of a stream.
    pub fn seal_frame(&self, subject: &str, number: u64, frame: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let live = self.live.as_ref().ok_or(EnvelopeError::Session)?;
        let stamp = Stamp { session: Some(live.id), counter: number, ..Stamp::default() };
        let route = self.route(Direction::Up, subject, live.key_version);
        envelope::seal_bytes(route, stamp, self.keys.agreement(live.key_version)?, frame)
    }

    /// Opens a stream frame. Doubles are the stream's to drop: frames carry offsets.
    pub fn open_frame(&self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        let (opened, version) = self.unseal(subject, message)?;
        self.check_epoch(opened.header.epoch)?;
        match &self.live {
            Some(live) if opened.header.session.is_some_and(|id| live.is(id, version)) => Ok(opened),
            _ => Err(EnvelopeError::Session),
        }
    }

    fn check_epoch(&self, found: OwnerEpoch) -> Result<(), EnvelopeError> {
        if found < self.epoch {
            return Err(EnvelopeError::Epoch { seen: self.epoch, found });
        }
        Ok(())
    }

    fn unseal(&self, subject: &str, message: &[u8]) -> Result<(Opened, KeyVersion), EnvelopeError> {
        let outside = Outside::parse(message)?;
        let version = outside.key_version;
        let agreement = self.keys.agreement(version)?;
        let opened = outside.open(self.route(Direction::Down, subject, version), agreement)?;
        Ok((opened, version))
    }

    fn route<'a>(&'a self, direction: Direction, subject: &'a str, key_version: KeyVersion) -> Route<'a> {
        Route { direction, subject, device: &self.device, key_version }
    }
}

/// The cluster's end, one for each device.
#[derive(Debug)]
pub struct FleetSession {
    device: DeviceName,
    keys: Keys,
    epoch: OwnerEpoch,
    live: Option<Live>,
    /// Answered hellos, oldest first.
    pending: VecDeque<Live>,
    /// Version with which the device's last message was sealed.
    peer_version: Option<KeyVersion>,
}

/// What [`FleetSession::open`] found.
#[derive(Debug)]
pub enum Arrival {
    /// A hello, not yet accepted: [`FleetSession::accept_hello`] or a sessionless refusal follows.
    Hello(Hello),
    /// A message of the live session.
    InSession(Opened),
}

/// An unsealed hello.
///
/// It may be a replay. Answering it changes nothing; what it says (the Node's status, the incarnation)
/// is to be acted on only when a message of the session that it opens has arrived.
#[derive(Debug)]
pub struct Hello {
    nonce: Nonce,
    key_version: KeyVersion,
    /// The message; its body is a [`crate::message::HelloRequest`].
    pub opened: Opened,
}

impl FleetSession {
    /// `peer` is the device's public curve key, `epoch` the own incarnation.
    pub fn new(device: DeviceName, peer: XKey, fleet: FleetKeys, epoch: OwnerEpoch) -> Self {
        let keys = Keys::new(peer, fleet);
        Self { device, keys, epoch, live: None, pending: VecDeque::new(), peer_version: None }
    }

    /// Whether the device proved that it is in a session with this side.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// The live session's id.
    pub fn id(&self) -> Option<SessionId> {
        self.live.as_ref().map(|live| live.id)
    }

    /// The version of the fleet's key with which the live session is sealed.
    pub fn key_version(&self) -> Option<KeyVersion> {
        self.live.as_ref().map(|live| live.key_version)
    }

    /// The fleet has other keys. Sessions go on as long as their version is among them.
    pub fn set_fleet(&mut self, fleet: FleetKeys) {
        self.keys.set_fleet(fleet);
    }

    /// Sessions of answered hellos that wait for their first message, oldest first. Only a few are kept: what
    /// is known of a session that is no longer among them can be forgotten.
    pub fn pending(&self) -> impl DoubleEndedIterator<Item = SessionId> + '_ {
        self.pending.iter().map(|pending| pending.id)
    }

    /// Opens whatever the device sent on a control subject.
    ///
    /// A message of a session that is not known here is [`EnvelopeError::Session`]: answer with a
    /// sessionless refusal `UnknownSession`, or send `rehello`.
    pub fn open(&mut self, subject: &str, message: &[u8]) -> Result<Arrival, EnvelopeError> {
        let (opened, key_version) = self.unseal(subject, message)?;
        self.peer_version = Some(key_version);
        match (opened.header.session, opened.header.nonce) {
            (None, Some(nonce)) => Ok(Arrival::Hello(Hello { nonce, key_version, opened })),
            (Some(session), None) => {
                self.accept(session, key_version, opened.header.counter)?;
                Ok(Arrival::InSession(opened))
            }
            _ => Err(EnvelopeError::Session),
        }
    }

    /// Answers a hello and makes a session that becomes live with the device's first message in it.
    pub fn accept_hello<T: Serialize>(
        &mut self,
        hello: &Hello,
        subject: &str,
        body: &T,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let nonce = Nonce::random();
        let id = session_id(&self.device, hello.nonce, nonce);
        let stamp = Stamp { session: Some(id), nonce: Some(nonce), epoch: self.epoch, ..Stamp::default() };
        let message = self.seal_with(hello.key_version, subject, stamp, body)?;
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Live::new(id, hello.key_version));
        Ok(message)
    }

    /// Seals a message without a session: a refusal, or `rehello`. It is sealed with the version of the
    /// fleet's key that the device used last, since a device may not have heard of a newer one.
    pub fn seal_sessionless<T: Serialize>(&self, subject: &str, body: &T) -> Result<Vec<u8>, EnvelopeError> {
        let stamp = Stamp { epoch: self.epoch, ..Stamp::default() };
        let version = self.peer_version.unwrap_or_else(|| self.keys.fleet.newest().0);
        self.seal_with(version, subject, stamp, body)
    }

    /// Seals a message in the live session; `answers` is the counter of the request it answers.
    pub fn seal<T: Serialize>(
        &mut self,
        subject: &str,
        answers: Option<u64>,
        body: &T,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let live = self.live.as_mut().ok_or(EnvelopeError::Session)?;
        live.sent += 1;
        let stamp =
            Stamp { session: Some(live.id), counter: live.sent, answers, epoch: self.epoch, nonce: None };
        let version = live.key_version;
        self.seal_with(version, subject, stamp, body)
    }

    /// Seals frame `number` of a stream.
    pub fn seal_frame(&self, subject: &str, number: u64, frame: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let live = self.live.as_ref().ok_or(EnvelopeError::Session)?;
        let stamp = Stamp { session: Some(live.id), counter: number, epoch: self.epoch, ..Stamp::default() };
        let route = self.route(Direction::Down, subject, live.key_version);
        envelope::seal_bytes(route, stamp, self.keys.agreement(live.key_version)?, frame)
    }

    /// Opens a stream frame. Doubles are the stream's to drop: frames carry offsets.
    pub fn open_frame(&self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        let (opened, version) = self.unseal(subject, message)?;
        match &self.live {
            Some(live) if opened.header.session.is_some_and(|id| live.is(id, version)) => Ok(opened),
            _ => Err(EnvelopeError::Session),
        }
    }

    /// Accepts a counter of the live session, or makes a pending one live: the live one before it and what
    /// was answered earlier end then.
    fn accept(&mut self, id: SessionId, version: KeyVersion, counter: u64) -> Result<(), EnvelopeError> {
        if let Some(live) = self.live.as_mut().filter(|live| live.is(id, version)) {
            return live.received.accept(counter);
        }
        let position = self.pending.iter().position(|pending| pending.is(id, version));
        let mut opening = position
            .and_then(|position| self.pending.get(position).cloned())
            .ok_or(EnvelopeError::Session)?;
        opening.received.accept(counter)?;
        self.pending.drain(..=position.unwrap_or_default());
        self.live = Some(opening);
        Ok(())
    }

    fn seal_with<T: Serialize>(
        &self,
        version: KeyVersion,
        subject: &str,
        stamp: Stamp,
        body: &T,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let route = self.route(Direction::Down, subject, version);
        envelope::seal(route, stamp, self.keys.agreement(version)?, body)
    }

    fn unseal(&self, subject: &str, message: &[u8]) -> Result<(Opened, KeyVersion), EnvelopeError> {
        let outside = Outside::parse(message)?;
        let version = outside.key_version;
        let agreement = self.keys.agreement(version)?;
        let opened = outside.open(self.route(Direction::Up, subject, version), agreement)?;
        Ok((opened, version))
    }

    fn route<'a>(&'a self, direction: Direction, subject: &'a str, key_version: KeyVersion) -> Route<'a> {
        Route { direction, subject, device: &self.device, key_version }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Both sides compute it alone: this value is part of the contract.
    #[test]
    fn the_session_that_two_nonces_make_never_changes() {
        let id = session_id(&"pi-7".parse().unwrap(), Nonce([0xab; 16]), Nonce([0xcd; 16]));
        assert_eq!(
            id.0,
            [0x00, 0xa3, 0x7f, 0x08, 0x8e, 0xb9, 0xc0, 0xc4, 0xe2, 0x3e, 0x36, 0xf1, 0xfa, 0x68, 0x14, 0xf6]
        );
    }
}
