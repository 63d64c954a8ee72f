//! When to say hello: decisions only, no clock and no wire.
//!
//! ```text
//!            connected                   due                     accepted
//! Away ───────────────────► Waiting ───────────► Asking ───────────────────────► Open
//!   ▲                         ▲ ▲                  │ failed, refused               │
//!   │                         │ └──────────────────┘ (later each time)             │
//!   │                         └────────────────────────────────────────────────────┘
//!   └── disconnected (Open stays: core NATS knows nothing of      rehello, session unknown
//!       sessions, and the cluster side keeps them)                (at most one a second)
//! ```

use std::time::Duration;

use fleet_wire::message::RefusalCode;
use tokio::time::Instant;

use super::backoff::Backoff;

/// Least time between two hellos, whatever the cluster side (or who replays its messages) says.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// A session that lived so long was a good one: the next hello starts without a growing pause.
const SETTLED: Duration = Duration::from_secs(60);
/// Most delay of a hello that nothing forces to wait, so that a fleet spreads.
const SPREAD: Duration = Duration::from_millis(200);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// NATS can be reached.
    Connected,
    /// NATS cannot be reached.
    Disconnected,
    /// A hello goes out now.
    Asked,
    /// It was accepted: the session is open.
    Accepted,
    /// It was not answered.
    Failed,
    /// It was refused.
    Refused(RefusalCode),
    /// The cluster side does not know the session.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Away,
    Waiting { until: Instant },
    Asking,
    Open { since: Instant },
}

/// The state of the device's session, as far as hellos are concerned.
#[derive(Debug)]
pub struct Opening {
    state: State,
    connected: bool,
    asked: Option<Instant>,
    backoff: Backoff,
    refused: Backoff,
}

impl Default for Opening {
    fn default() -> Self {
        Self {
            state: State::Away,
            connected: false,
            asked: None,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(15)),
            refused: Backoff::new(Duration::from_secs(5), Duration::from_secs(60)),
        }
    }
}

impl Opening {
    /// When the next hello is due; `None` when there is no reason for one, or no connection.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } if self.connected => Some(until),
            _ => None,
        }
    }

    /// Whether the session is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Takes an event into account. `random` is uniform in 0..1.
    pub fn on(&mut self, event: &Event, now: Instant, random: f64) {
        match event {
            Event::Connected => {
                self.connected = true;
                if matches!(self.state, State::Away) {
                    self.wait(now + SPREAD.mul_f64(random));
                }
            }
            Event::Disconnected => {
                self.connected = false;
                if !self.is_open() {
                    self.state = State::Away;
                }
            }
            Event::Asked => {
                self.asked = Some(now);
                self.state = State::Asking;
            }
            Event::Accepted => {
                self.refused.reset();
                self.state = State::Open { since: now };
            }
            Event::Failed => {
                let pause = self.backoff.next(random);
                self.retry(now + pause);
            }
            Event::Refused(code) => {
                let pause = match code {
                    // Someone has to act first.
                    RefusalCode::NotEnrolled | RefusalCode::IdentityConflict => self.refused.next(random),
                    _ => self.backoff.next(random),
                };
                self.retry(now + pause);
            }
            Event::Unknown => {
                let State::Open { since } = self.state else { return };
                let pause = if now.duration_since(since) >= SETTLED {
                    self.backoff.reset();
                    SPREAD.mul_f64(random)
                } else {
                    self.backoff.next(random)
                };
                self.retry(now + pause);
            }
        }
    }

    fn retry(&mut self, until: Instant) {
        if self.connected {
            self.wait(until);
        } else {
            self.state = State::Away;
        }
    }

    fn wait(&mut self, until: Instant) {
        let earliest = self.asked.map(|asked| asked + LEAST_PAUSE);
        self.state = State::Waiting { until: earliest.map_or(until, |earliest| earliest.max(until)) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn open(start: Instant) -> Opening {
        let mut opening = Opening::default();
        for event in [Event::Connected, Event::Asked, Event::Accepted] {
            opening.on(&event, start, 0.5);
        }
        opening
    }

    #[test]
    fn nothing_is_said_without_a_connection() {
        let start = Instant::now();
        let mut opening = Opening::default();
        assert_eq!(opening.due(), None);
        opening.on(&Event::Connected, start, 0.5);
        assert!(opening.due().unwrap() <= start + SPREAD);
        opening.on(&Event::Disconnected, start, 0.5);
        assert_eq!(opening.due(), None);
    }

    #[test]
    fn a_reconnection_keeps_the_session() {
        let start = Instant::now();
        let mut opening = open(start);
        opening.on(&Event::Disconnected, start, 0.5);
        opening.on(&Event::Connected, start + Duration::from_secs(30), 0.5);
        assert!(opening.is_open());
        assert_eq!(opening.due(), None);
    }

    #[test]
    fn unanswered_hellos_wait_longer_each_time() {
        let start = Instant::now();
        let mut opening = Opening::default();
        opening.on(&Event::Connected, start, 0.0);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            opening.on(&Event::Asked, start, 1.0);
            opening.on(&Event::Failed, start, 1.0);
            pauses.push(opening.due().unwrap().duration_since(start).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15]);
    }

    #[test]
    fn a_settled_session_that_was_lost_is_replaced_soon() {
        let start = Instant::now();
        let mut opening = open(start);
        let later = start + SETTLED;
        opening.on(&Event::Unknown, later, 1.0);
        assert!(opening.due().unwrap() <= later + SPREAD);
        opening.on(&Event::Unknown, later, 1.0);
        assert!(opening.due().unwrap() <= later + SPREAD, "a second one changes nothing");
    }

    #[test]
    fn a_device_that_is_not_enrolled_asks_rarely() {
        let start = Instant::now();
        let mut opening = Opening::default();
        opening.on(&Event::Connected, start, 0.0);
        for _ in 0..10 {
            opening.on(&Event::Asked, start, 1.0);
            opening.on(&Event::Refused(RefusalCode::NotEnrolled), start, 1.0);
        }
        assert_eq!(opening.due().unwrap().duration_since(start).as_secs(), 60);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Connected),
            Just(Event::Disconnected),
            Just(Event::Accepted),
            Just(Event::Failed),
            Just(Event::Refused(RefusalCode::Busy)),
            Just(Event::Unknown),
        ]
    }

    proptest! {
        #[test]
        fn hellos_are_never_less_than_a_second_apart(
            events in proptest::collection::vec((event(), 0u64..400, 0.0f64..1.0), 1..200)
        ) {
            let mut opening = Opening::default();
            let mut now = Instant::now();
            let mut last: Option<Instant> = None;
            for (event, milliseconds, random) in events {
                now += Duration::from_millis(milliseconds);
                if opening.due().is_some_and(|due| due <= now) {
                    if let Some(last) = last {
                        prop_assert!(now.duration_since(last) >= LEAST_PAUSE);
                    }
                    last = Some(now);
                    opening.on(&Event::Asked, now, random);
                }
                opening.on(&event, now, random);
            }
        }

        #[test]
        fn whoever_is_connected_and_has_no_session_will_ask(
            events in proptest::collection::vec((event(), 0.0f64..1.0), 0..50)
        ) {
            let now = Instant::now();
            let mut opening = Opening::default();
            for (event, random) in &events {
                opening.on(event, now, *random);
            }
            opening.on(&Event::Connected, now, 0.5);
            prop_assert!(opening.is_open() || opening.due().is_some_and(|due| due <= now + Duration::from_secs(61)));
        }
    }
}
