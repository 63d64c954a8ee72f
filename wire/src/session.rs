//! The session of a device: which messages are fresh.
//!
//! ```text
//! device                                   cluster
//!   hello {nonce d} ───────────────────────►        pending session = H(d, c)
//!   ◄─────────────────────── {nonce c} reply        (a replayed hello makes only a pending one)
//!   first message in it ───────────────────►        pending → live, the older one ends
//! ```
//!
//! Counters live in memory, one for each direction, with a window that tolerates reordering; no wall
//! clock takes part. Stream frames number themselves (their subject names the stream), so that a busy
//! stream does not push control messages out of the window.

use nkeys::XKey;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    envelope::{self, Direction, EnvelopeError, Nonce, Opened, Outside, Route, SessionId, Stamp},
    keys::FleetKeys,
    name::{DeviceName, KeyVersion, OwnerEpoch},
};

/// How far behind the newest counter a message may be and still be told from a replay.
pub const WINDOW: u64 = 1024;

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

/// Which counters of one direction were seen.
#[derive(Debug, Clone)]
struct ReplayWindow {
    newest: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl ReplayWindow {
    fn new() -> Self {
        Self { newest: 0, seen: [0; (WINDOW / 64) as usize] }
    }

    /// Accepts a counter once.
    fn accept(&mut self, counter: u64) -> Result<(), EnvelopeError> {
        let refuse = Err(EnvelopeError::Replayed { counter });
        if counter == 0 || counter + WINDOW <= self.newest {
            return refuse;
        }
        if counter > self.newest {
            // Slots between the old newest and the new one belong to counters not seen yet.
            for skipped in (self.newest + 1..=counter).take(WINDOW as usize) {
                self.clear(skipped);
            }
            if counter - self.newest > WINDOW {
                self.seen = [0; (WINDOW / 64) as usize];
            }
            self.newest = counter;
        } else if self.is_set(counter) {
            return refuse;
        }
        self.set(counter);
        Ok(())
    }

    fn slot(counter: u64) -> (usize, u64) {
        let bit = counter % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn is_set(&self, counter: u64) -> bool {
        let (word, bit) = Self::slot(counter);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, counter: u64) {
        let (word, bit) = Self::slot(counter);
        self.seen[word] |= bit;
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = Self::slot(counter);
        self.seen[word] &= !bit;
    }
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
    own: XKey,
    fleet: FleetKeys,
    live: Option<Live>,
    hello: Option<Nonce>,
    epoch: OwnerEpoch,
}

impl DeviceSession {
    /// `epoch` is the highest owner epoch that the device has persisted.
    pub fn new(device: DeviceName, own: XKey, fleet: FleetKeys, epoch: OwnerEpoch) -> Self {
        Self { device, own, fleet, live: None, hello: None, epoch }
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

    /// Seals a hello with a fresh nonce. An open session stays until the answer comes.
    pub fn seal_hello<T: Serialize>(&mut self, subject: &str, body: &T) -> Result<Vec<u8>, EnvelopeError> {
        let nonce = Nonce::random();
        let (version, key) = self.fleet.newest();
        let stamp = Stamp { nonce: Some(nonce), ..Stamp::default() };
        let message =
            envelope::seal(self.route(Direction::Up, subject, version), stamp, &self.own, key, body)?;
        self.hello = Some(nonce);
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
        let Some(session) = opened.header.session else {
            return opened.body();
        };
        let device_nonce = self.hello.ok_or(EnvelopeError::Session)?;
        let fleet_nonce = opened.header.nonce.ok_or(EnvelopeError::Session)?;
        if session != session_id(&self.device, device_nonce, fleet_nonce) {
            return Err(EnvelopeError::Session);
        }
        let body = opened.body()?;
        self.advance_epoch(opened.header.epoch)?;
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
        let key = self.fleet.get(version)?;
        let route = self.route(Direction::Up, subject, version);
        Ok(Sealed { message: envelope::seal(route, stamp, &self.own, key, body)?, counter })
    }

    /// Opens a message of the live session: a command, or the answer to a request.
    ///
    /// Messages without a session ([`Opened::header`]`.session == None`) pass: only `rehello` and typed
    /// refusals of a cluster side that lost the session may come so; the caller takes nothing else.
    pub fn open(&mut self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        let (opened, _) = self.unseal(subject, message)?;
        if let Some(session) = opened.header.session {
            let live = self.live.as_mut().filter(|live| live.id == session).ok_or(EnvelopeError::Session)?;
            live.received.accept(opened.header.counter)?;
        }
        self.advance_epoch(opened.header.epoch)?;
        Ok(opened)
    }

    /// Seals frame `number` of a stream.
    pub fn seal_frame(&self, subject: &str, number: u64, frame: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let live = self.live.as_ref().ok_or(EnvelopeError::Session)?;
        let stamp = Stamp { session: Some(live.id), counter: number, ..Stamp::default() };
        let route = self.route(Direction::Up, subject, live.key_version);
        envelope::seal_bytes(route, stamp, &self.own, self.fleet.get(live.key_version)?, frame)
    }

    /// Opens a stream frame. Doubles are the stream's to drop: frames carry offsets.
    pub fn open_frame(&self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        let (opened, _) = self.unseal(subject, message)?;
        if opened.header.session.is_none() || opened.header.session != self.id() {
            return Err(EnvelopeError::Session);
        }
        Ok(opened)
    }

    fn advance_epoch(&mut self, found: OwnerEpoch) -> Result<(), EnvelopeError> {
        if found < self.epoch {
            return Err(EnvelopeError::Epoch { seen: self.epoch, found });
        }
        self.epoch = found;
        Ok(())
    }

    fn unseal(&self, subject: &str, message: &[u8]) -> Result<(Opened, KeyVersion), EnvelopeError> {
        let outside = Outside::parse(message)?;
        let version = outside.key_version;
        let key = self.fleet.get(version)?;
        let opened = outside.open(self.route(Direction::Down, subject, version), &self.own, key)?;
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
    peer: XKey,
    fleet: FleetKeys,
    epoch: OwnerEpoch,
    live: Option<Live>,
    pending: Option<Live>,
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
        Self { device, peer, fleet, epoch, live: None, pending: None }
    }

    /// Whether the device proved that it is in a session with this side.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// The live session's id, for logs.
    pub fn id(&self) -> Option<SessionId> {
        self.live.as_ref().map(|live| live.id)
    }

    /// Opens whatever the device sent on a control subject.
    ///
    /// A message of a session that is not known here is [`EnvelopeError::Session`]: answer with a
    /// sessionless refusal `UnknownSession`, or send `rehello`.
    pub fn open(&mut self, subject: &str, message: &[u8]) -> Result<Arrival, EnvelopeError> {
        let (opened, key_version) = self.unseal(subject, message)?;
        match (opened.header.session, opened.header.nonce) {
            (None, Some(nonce)) => Ok(Arrival::Hello(Hello { nonce, key_version, opened })),
            (Some(session), None) => {
                if self.pending.as_ref().is_some_and(|pending| pending.id == session) {
                    self.live = self.pending.take();
                }
                let live =
                    self.live.as_mut().filter(|live| live.id == session).ok_or(EnvelopeError::Session)?;
                live.received.accept(opened.header.counter)?;
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
        let stamp = Stamp {
            session: Some(id),
            nonce: Some(nonce),
            epoch: self.epoch,
            ..Stamp::default()
        };
        let message = self.seal_with(hello.key_version, subject, stamp, body)?;
        self.pending = Some(Live::new(id, hello.key_version));
        Ok(message)
    }

    /// Seals a message without a session: a refusal, or `rehello`.
    pub fn seal_sessionless<T: Serialize>(&self, subject: &str, body: &T) -> Result<Vec<u8>, EnvelopeError> {
        let stamp = Stamp { epoch: self.epoch, ..Stamp::default() };
        let (version, _) = self.fleet.newest();
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
        let stamp = Stamp {
            session: Some(live.id),
            counter: live.sent,
            answers,
            epoch: self.epoch,
            nonce: None,
        };
        let version = live.key_version;
        self.seal_with(version, subject, stamp, body)
    }

    /// Seals frame `number` of a stream.
    pub fn seal_frame(&self, subject: &str, number: u64, frame: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let live = self.live.as_ref().ok_or(EnvelopeError::Session)?;
        let stamp =
            Stamp { session: Some(live.id), counter: number, epoch: self.epoch, ..Stamp::default() };
        let route = self.route(Direction::Down, subject, live.key_version);
        envelope::seal_bytes(route, stamp, self.fleet.get(live.key_version)?, &self.peer, frame)
    }

    /// Opens a stream frame. Doubles are the stream's to drop: frames carry offsets.
    pub fn open_frame(&self, subject: &str, message: &[u8]) -> Result<Opened, EnvelopeError> {
        let (opened, _) = self.unseal(subject, message)?;
        if opened.header.session.is_none() || opened.header.session != self.id() {
            return Err(EnvelopeError::Session);
        }
        Ok(opened)
    }

    fn seal_with<T: Serialize>(
        &self,
        version: KeyVersion,
        subject: &str,
        stamp: Stamp,
        body: &T,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let route = self.route(Direction::Down, subject, version);
        envelope::seal(route, stamp, self.fleet.get(version)?, &self.peer, body)
    }

    fn unseal(&self, subject: &str, message: &[u8]) -> Result<(Opened, KeyVersion), EnvelopeError> {
        let outside = Outside::parse(message)?;
        let version = outside.key_version;
        let own = self.fleet.get(version)?;
        let opened = outside.open(self.route(Direction::Up, subject, version), own, &self.peer)?;
        Ok((opened, version))
    }

    fn route<'a>(&'a self, direction: Direction, subject: &'a str, key_version: KeyVersion) -> Route<'a> {
        Route { direction, subject, device: &self.device, key_version }
    }
}
