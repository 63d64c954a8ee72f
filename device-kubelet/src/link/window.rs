//! The writing end of a stream under a credit window: which frame goes out next. Pure.
//!
//! ```text
//!   0 ─────── acknowledged ─────────── sent ─────────── buffered        limit
//!   │ gone    │ kept, may be sent again │ not sent yet   │ free space    │ the reader's grant
//! ```
//!
//! Offsets are absolute. Whatever the wire loses, doubles or reorders, the reader can put the bytes
//! together, because what it has not acknowledged is kept and sent again.

use std::{collections::VecDeque, time::Duration};

use fleet_wire::stream::{Frame, MAX_CHUNK};
use tokio::time::Instant;

/// Most bytes that a stream keeps for sending again. Below the reader's window, because it is memory of a
/// small machine.
pub const BUFFER: usize = 128 * 1024;
/// How long the reader may acknowledge nothing before what it lacks is sent again. Doubles each time, so
/// that a slow reader is not flooded.
const RESEND_AFTER: Duration = Duration::from_secs(2);
const RESEND_AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// How long bytes may be on their way, there and back, until that was measured. A reader with a gap repeats its
/// acknowledgement five times a second: one that was sent before the bytes arrived must not be taken for a hint.
const UNDER_WAY: Duration = Duration::from_millis(500);
/// However short the way is, what follows a lost frame may take so long to be written.
const UNDER_WAY_AT_LEAST: Duration = Duration::from_millis(100);

/// What is sent, kept and granted.
#[derive(Debug)]
pub struct SendWindow {
    kept: VecDeque<u8>,
    acknowledged: u64,
    sent: u64,
    limit: u64,
    end: Option<Option<String>>,
    end_sent: bool,
    progress: Instant,
    patience: Duration,
    /// When the newest bytes went out.
    sent_at: Instant,
    /// Everything before this was sent at least once.
    furthest: u64,
    /// End of a frame that went out once, and when: its acknowledgement tells the length of the way.
    probe: Option<(u64, Instant)>,
    under_way: Duration,
}

impl SendWindow {
    /// `credit` is what the reader grants from the beginning.
    pub fn new(credit: u64, now: Instant) -> Self {
        Self {
            kept: VecDeque::new(),
            acknowledged: 0,
            sent: 0,
            limit: credit,
            end: None,
            end_sent: false,
            progress: now,
            patience: RESEND_AFTER,
            sent_at: now,
            furthest: 0,
            probe: None,
            under_way: UNDER_WAY,
        }
    }

    /// How many bytes [`SendWindow::push`] takes now.
    pub fn room(&self) -> usize {
        if self.end.is_some() { 0 } else { BUFFER.saturating_sub(self.kept.len()) }
    }

    /// Adds bytes to the stream; at most [`SendWindow::room`].
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.kept.extend(bytes);
    }

    /// The stream ends after what was pushed; `error` if not well.
    pub fn finish(&mut self, error: Option<String>) {
        self.end.get_or_insert(error);
    }

    /// The next frame that may be sent.
    pub fn next_frame(&mut self, now: Instant) -> Option<Frame> {
        let start = usize::try_from(self.sent - self.acknowledged).unwrap_or(usize::MAX);
        let granted = usize::try_from(self.limit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        let available = self.kept.len().saturating_sub(start).min(MAX_CHUNK);
        let length = available.min(granted);
        if length < available && self.sent > self.acknowledged {
            // A crumb of credit would make a crumb of a frame: the rest of the grant comes with the next
            // acknowledgement.
            return None;
        }
        if length > 0 {
            if self.sent == self.acknowledged {
                // Nothing was on its way: the wait for an acknowledgement begins here.
                self.progress = now;
            }
            let bytes = self.kept.range(start..start + length).copied().collect();
            let frame = Frame::Data { offset: self.sent, bytes };
            // What went out twice tells nothing: it is not known which of them was acknowledged.
            if self.probe.is_none() && self.sent >= self.furthest {
                self.probe = Some((self.sent + length as u64, now));
            }
            self.sent += length as u64;
            self.furthest = self.furthest.max(self.sent);
            self.sent_at = now;
            return Some(frame);
        }
        match &self.end {
            Some(error) if !self.end_sent && self.sent == self.length() => {
                self.end_sent = true;
                Some(Frame::End { offset: self.length(), error: error.clone() })
            }
            _ => None,
        }
    }

    /// The reader has everything before `received` and grants everything before `limit`.
    ///
    /// One that acknowledges nothing new although something was sent, long enough ago to have arrived, says that
    /// the first of it is lost: all of it is sent again.
    pub fn credit(&mut self, received: u64, limit: u64, now: Instant) {
        // More than was sent cannot have arrived.
        let received = received.min(self.sent);
        if received > self.acknowledged {
            let gone = usize::try_from(received - self.acknowledged).unwrap_or(usize::MAX);
            self.kept.drain(..gone.min(self.kept.len()));
            self.acknowledged = received;
            self.progress = now;
            self.patience = RESEND_AFTER;
            if let Some((_, since)) = self.probe.take_if(|(end, _)| *end <= received) {
                let measured = now.saturating_duration_since(since).clamp(UNDER_WAY_AT_LEAST, RESEND_AFTER);
                self.under_way = (self.under_way + measured) / 2;
            }
        } else if received == self.acknowledged
            && self.sent > self.acknowledged
            && now.saturating_duration_since(self.sent_at) >= self.under_way
        {
            self.rewind(now);
            // Should it be the way that is long, not the frame that is lost, then the next hint counts later.
            self.under_way = (self.under_way * 2).min(RESEND_AFTER);
        }
        self.limit = self.limit.max(limit);
    }

    /// Everything that is not acknowledged is to be sent again, the end included.
    pub fn rewind(&mut self, now: Instant) {
        self.sent = self.acknowledged;
        self.end_sent = false;
        self.progress = now;
        self.probe = None;
    }

    /// The end is to be told again: the reader still asks.
    pub fn repeat_end(&mut self) {
        self.end_sent = false;
    }

    /// When something has to be sent again, unless an acknowledgement comes first.
    pub fn resend_due(&self) -> Option<Instant> {
        (self.sent > self.acknowledged).then(|| self.progress + self.patience)
    }

    /// Sends again, if it is time to.
    pub fn resend(&mut self, now: Instant) {
        if self.resend_due().is_some_and(|due| due <= now) {
            self.rewind(now);
            self.patience = self.patience.saturating_mul(2).min(RESEND_AT_MOST_EVERY);
        }
    }

    /// Whether the reader has all bytes and was told of the end.
    pub fn is_delivered(&self) -> bool {
        self.end_sent && self.acknowledged == self.length()
    }

    fn length(&self) -> u64 {
        self.acknowledged + self.kept.len() as u64
    }
}

#[cfg(test)]
#[path = "tests/window.rs"]
mod tests;
