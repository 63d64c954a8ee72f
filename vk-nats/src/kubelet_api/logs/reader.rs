//! The reading end of a log stream: which bytes come next, how much credit goes back, when to give up.
//!
//! ```text
//!             ┌────────── granted to the device (limit) ───────────┐
//!  taken by   │ arrived in order, │  a gap  │ arrived out of order  │
//!  the client │ waits for client  │         │ (`ahead`)             │
//!  ───────────┼───────────────────┼─────────┼───────────────────────┤──► offset
//!          consumed            received                           limit
//! ```
//!
//! Pure: frames and the time go in, bytes and frames come out. Any frame may be lost, doubled or late; the
//! bytes that come out are those that the device wrote, in order, each once. `received` in a repeated
//! [`Frame::Credit`] tells the device what to send again. No more than the window is ever held.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use fleet_wire::stream::{Frame, PING_SECONDS};

/// Silence after which the reader asks whether anyone is there.
const PING: Duration = Duration::from_secs(PING_SECONDS);
/// Silence after which it gives up.
const GONE: Duration = Duration::from_secs(2 * PING_SECONDS);
/// How often credit is repeated while the stream moves. At rest it goes with the pings.
const REPEAT: Duration = Duration::from_secs(1);
/// Most chunks that wait for one before them. Bytes are bounded by the window, but a chunk of one byte takes as much
/// room and time as one of a hundred; what is dropped comes again.
const AHEAD: usize = 1024;
/// Least time between two credits that only say what is missing.
const HINT: Duration = Duration::from_millis(200);

/// How a stream went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nothing was heard for too long.
    #[error("the device has not been heard for {} s", GONE.as_secs())]
    Silent,
    /// The device ended the stream with an error.
    #[error("{0}")]
    Device(String),
    /// The device sent what it may not send.
    #[error("the device broke the stream protocol: {0}")]
    Protocol(&'static str),
}

/// Where a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// More may come.
    Open,
    /// Everything has arrived and was taken.
    Finished,
    /// It cannot go on. What arrived in order before can still be taken.
    Failed(ReadError),
}

/// The reading end. See the module's documentation.
#[derive(Debug)]
pub struct StreamReader {
    window: u64,
    consumed: u64,
    received: u64,
    limit: u64,
    ready: VecDeque<Vec<u8>>,
    ahead: BTreeMap<u64, Vec<u8>>,
    end: Option<(u64, Option<String>)>,
    failure: Option<ReadError>,
    heard: Instant,
    moved: Instant,
    credited: Instant,
    credited_limit: u64,
    credited_received: u64,
    pinged: Instant,
    owes_pong: bool,
    owes_receipt: bool,
}

impl StreamReader {
    /// A reader that has granted `window` bytes with its request at `now`.
    pub fn new(window: u64, now: Instant) -> Self {
        Self {
            window,
            consumed: 0,
            received: 0,
            limit: window,
            ready: VecDeque::new(),
            ahead: BTreeMap::new(),
            end: None,
            failure: None,
            heard: now,
            moved: now,
            credited: now,
            credited_limit: window,
            credited_received: 0,
            pinged: now,
            owes_pong: false,
            owes_receipt: false,
        }
    }

    /// Takes a frame of the device.
    pub fn arrive(&mut self, frame: Frame, now: Instant) {
        if self.failure.is_some() {
            return;
        }
        self.heard = now;
        let is_end_or_data = matches!(frame, Frame::Data { .. } | Frame::End { .. });
        let result = match frame {
            Frame::Data { offset, bytes } => self.data(offset, bytes, now),
            Frame::End { offset, error } => self.end(offset, error),
            Frame::Ping => {
                self.owes_pong = true;
                Ok(())
            }
            Frame::Pong => Ok(()),
            Frame::Cancel => Err(ReadError::Device("the device ended the stream".to_owned())),
            Frame::Credit { .. } => Err(ReadError::Protocol("credit from the side that writes")),
        };
        self.failure = result.err();
        // The device keeps its end until it is told that everything has arrived, and repeats the end if
        // that answer was lost.
        self.owes_receipt |= is_end_or_data && self.is_complete();
    }

    /// A frame of [`Self::outgoing`] could not be sent: credit is tried again soon.
    pub fn not_sent(&mut self, now: Instant) {
        self.moved = now;
    }

    /// The stream cannot go on, for a reason outside of it.
    pub fn fail(&mut self, reason: &'static str) {
        if !self.is_complete() {
            self.failure.get_or_insert_with(|| ReadError::Device(reason.to_owned()));
        }
    }

    /// Whether everything up to the end has arrived.
    fn is_complete(&self) -> bool {
        self.end.as_ref().is_some_and(|(offset, _)| *offset == self.received)
    }

    fn data(&mut self, offset: u64, mut bytes: Vec<u8>, now: Instant) -> Result<(), ReadError> {
        let length = bytes.len() as u64;
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.limit) else {
            return Err(ReadError::Protocol("more bytes than it was granted"));
        };
        if self.end.as_ref().is_some_and(|(last, _)| end > *last) {
            return Err(ReadError::Protocol("bytes after the end"));
        }
        if end <= self.received {
            return Ok(());
        }
        if offset > self.received {
            // Of two chunks at one offset the longer one knows more.
            let known = self.ahead.get(&offset).map_or(0, Vec::len);
            let room = known > 0 || self.ahead.len() < AHEAD;
            if room && bytes.len() > known && self.held() + bytes.len() as u64 <= 2 * self.window {
                self.ahead.insert(offset, bytes);
            }
            return Ok(());
        }
        bytes.drain(..(self.received - offset) as usize);
        self.append(bytes, now);
        while let Some(next) = self.ahead.first_entry().filter(|next| *next.key() <= self.received) {
            let (offset, mut bytes) = next.remove_entry();
            let known = (self.received - offset) as usize;
            if known < bytes.len() {
                bytes.drain(..known);
                self.append(bytes, now);
            }
        }
        Ok(())
    }

    fn append(&mut self, bytes: Vec<u8>, now: Instant) {
        self.received += bytes.len() as u64;
        self.moved = now;
        self.ready.push_back(bytes);
    }

    fn end(&mut self, offset: u64, error: Option<String>) -> Result<(), ReadError> {
        let furthest =
            self.ahead.iter().map(|(offset, bytes)| offset + bytes.len() as u64).max().unwrap_or(0);
        if offset < self.received.max(furthest) || offset > self.limit {
            return Err(ReadError::Protocol("an end that does not fit the bytes"));
        }
        match &self.end {
            Some((known, _)) if *known != offset => {
                return Err(ReadError::Protocol("two different ends"));
            }
            Some(_) => {}
            None => self.end = Some((offset, error)),
        }
        Ok(())
    }

    /// Bytes held here that were not taken yet.
    fn held(&self) -> u64 {
        let ahead: usize = self.ahead.values().map(Vec::len).sum();
        self.received - self.consumed + ahead as u64
    }

    /// Whether [`Self::take`] would give bytes.
    pub fn has_bytes(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next bytes for the client. Taking them makes room, which is granted with the next credit.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let bytes = self.ready.pop_front()?;
        self.consumed += bytes.len() as u64;
        self.limit = self.consumed + self.window;
        Some(bytes)
    }

    /// Where the stream is. Bytes that are ready come first.
    pub fn state(&self) -> State {
        if let Some(failure) = &self.failure {
            return State::Failed(failure.clone());
        }
        match &self.end {
            Some((_, Some(error))) if self.is_complete() => State::Failed(ReadError::Device(error.clone())),
            Some((_, None)) if self.is_complete() && self.ready.is_empty() => State::Finished,
            _ => State::Open,
        }
    }

    /// The next frame to send at `now`, if any. To be asked until there is none.
    pub fn outgoing(&mut self, now: Instant) -> Option<Frame> {
        if self.failure.is_some() {
            return None;
        }
        if self.is_complete() {
            // The device may go; the client takes its time.
            return std::mem::take(&mut self.owes_receipt)
                .then_some(Frame::Credit { received: self.received, limit: self.limit });
        }
        if now.saturating_duration_since(self.heard) >= GONE {
            self.failure = Some(ReadError::Silent);
            return None;
        }
        if std::mem::take(&mut self.owes_pong) {
            return Some(Frame::Pong);
        }
        if now >= self.credit_due() {
            self.credited = now;
            self.credited_limit = self.limit;
            self.credited_received = self.received;
            return Some(Frame::Credit { received: self.received, limit: self.limit });
        }
        if now >= self.ping_due() {
            self.pinged = now;
            return Some(Frame::Ping);
        }
        None
    }

    /// When [`Self::outgoing`] has something to say, or to give up, if nothing arrives before; `None` once
    /// the device is not needed any more.
    pub fn deadline(&self) -> Option<Instant> {
        (self.failure.is_none() && !self.is_complete())
            .then(|| self.credit_due().min(self.ping_due()).min(self.heard + GONE))
    }

    fn credit_due(&self) -> Instant {
        if self.limit - self.credited_limit >= (self.window / 4).max(1) {
            // Much room: at once.
            return self.credited;
        }
        let has_gap =
            !self.ahead.is_empty() || self.end.as_ref().is_some_and(|(offset, _)| *offset > self.received);
        if has_gap {
            return self.credited + HINT;
        }
        // While it moves, soon; and once more after it stopped, so that what was lost at its end is
        // noticed. Then at the pace of pings.
        let resting = !self.awaits_pong()
            && self.credited >= self.moved + 2 * REPEAT
            && self.credited_limit == self.limit
            && self.credited_received == self.received;
        self.credited + if resting { PING } else { REPEAT }
    }

    fn ping_due(&self) -> Instant {
        if self.awaits_pong() { self.pinged + REPEAT } else { self.heard + PING }
    }

    /// A ping may be lost like anything else: until it is answered, the reader asks more often.
    fn awaits_pong(&self) -> bool {
        self.pinged > self.heard
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
