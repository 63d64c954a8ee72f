//! Events on their way up: counted, bounded, kept until they are acknowledged.
//!
//! A repetition is the same event again: it keeps the id and the first time and raises the count, also of one that
//! was written long ago. So there is one Event in the API that says how often, as with a kubelet.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use fleet_wire::{
    message::{EventRecord, EventType, EventsReport},
    name::RequestId,
};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::NewEvent;

/// How many wait at most; then the oldest is dropped, and that is counted.
pub const CAPACITY: usize = 1000;
/// How long a repetition continues an earlier count.
const REMEMBERED_MILLIS: i64 = 10 * 60 * 1000;
const REMEMBERED: usize = 500;
/// How far `first` may run ahead of the clock to keep events in order; further, the clock was put back.
const CROWD_MILLIS: i64 = 1000;

/// The queue.
pub struct EventQueue {
    state: Mutex<State>,
    arrived: Notify,
    prefix: String,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(NewEvent, EventRecord)>,
    /// By id; of an event that was repeated meanwhile, the newest.
    offered: BTreeMap<String, EventRecord>,
    order: u64,
    /// The last `first` that was given.
    first: i64,
    dropped: u64,
    /// By hash: the events themselves would take half a kilobyte each, for every pod there was lately.
    recent: HashMap<u64, Seen>,
    hash: RandomState,
}

#[derive(Clone, Copy)]
struct Seen {
    order: u64,
    count: u32,
    first: i64,
    last: i64,
}

impl Default for EventQueue {
    fn default() -> Self {
        let prefix = RequestId::random().as_str().to_owned();
        Self { state: Mutex::default(), arrived: Notify::new(), prefix }
    }
}

impl EventQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event, or counts it.
    pub fn record(&self, event: NewEvent) {
        self.record_at(event, Timestamp::now().as_millisecond());
    }

    fn record_at(&self, event: NewEvent, now: i64) {
        let mut state = self.state();
        let hash = state.hash.hash_one(&event);
        let known = state.recent.get(&hash).copied();
        let seen = match known.filter(|seen| now.saturating_sub(seen.last) <= REMEMBERED_MILLIS) {
            Some(seen) => Seen { count: seen.count.saturating_add(1), last: now, ..seen },
            None => {
                state.order += 1;
                // Two of one millisecond are shown in the order in which they came.
                let crowded = (0..CROWD_MILLIS).contains(&state.first.saturating_sub(now));
                state.first = if crowded { state.first.saturating_add(1) } else { now };
                Seen { order: state.order, count: 1, first: state.first, last: now.max(state.first) }
            }
        };
        if state.recent.len() >= REMEMBERED {
            state.recent.retain(|_, seen| now.saturating_sub(seen.last) <= REMEMBERED_MILLIS);
            if state.recent.len() >= REMEMBERED {
                state.recent.clear();
            }
        }
        state.recent.insert(hash, seen);
        if let Some((_, record)) = state.waiting.iter_mut().find(|(waiting, _)| *waiting == event) {
            (record.count, record.last) = (seen.count, seen.last);
            return;
        }
        if state.waiting.len() + state.offered.len() >= CAPACITY {
            // Ids sort by age.
            if state.offered.pop_first().is_none() {
                state.waiting.pop_front();
            }
            state.dropped += 1;
        }
        let record = EventRecord {
            id: format!("{}-{:012}", self.prefix, seen.order),
            pod: event.pod.clone(),
            container: event.container.clone(),
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.clone(),
            message: event.message.clone(),
            count: seen.count,
            first: seen.first,
            last: seen.last,
        };
        state.waiting.push_back((event, record));
        drop(state);
        self.arrived.notify_one();
    }

    /// The oldest that are not acknowledged; waits for the first.
    pub async fn next(&self, max: usize) -> EventsReport {
        loop {
            let arrived = self.arrived.notified();
            if let Some(report) = self.offer(max) {
                return report;
            }
            arrived.await;
        }
    }

    fn offer(&self, max: usize) -> Option<EventsReport> {
        let mut state = self.state();
        while state.offered.len() < max {
            let Some((_, record)) = state.waiting.pop_front() else { break };
            state.offered.insert(record.id.clone(), record);
        }
        let events: Vec<EventRecord> = state.offered.values().take(max).cloned().collect();
        let dropped = state.dropped;
        (!events.is_empty()).then(|| EventsReport { events, dropped, now: Timestamp::now().as_millisecond() })
    }

    /// These were taken.
    pub fn acknowledge(&self, report: &EventsReport) {
        let mut state = self.state();
        for event in &report.events {
            if state.offered.get(&event.id).is_some_and(|offered| offered.count == event.count) {
                state.offered.remove(&event.id);
            }
        }
        state.dropped = state.dropped.saturating_sub(report.dropped);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event(reason: &str) -> NewEvent {
        let (reason, message) = (reason.to_owned(), String::new());
        NewEvent { pod: None, container: None, warning: false, reason, message }
    }

    #[test]
    fn a_repetition_is_the_same_event_with_a_higher_count() {
        let queue = EventQueue::default();
        queue.record_at(event("BackOff"), 1000);
        queue.record_at(event("BackOff"), 2000);
        let first = queue.offer(10).unwrap();
        assert_eq!((first.events.len(), first.events[0].count), (1, 2));
        queue.record_at(event("BackOff"), 3000);
        let both = queue.offer(1).unwrap();
        assert_eq!(both.events, first.events, "what was handed out is offered until it is acknowledged");
        queue.acknowledge(&first);
        let second = queue.offer(10).unwrap();
        let (again, first) = (&second.events[0], &first.events[0]);
        assert_eq!((&again.id, again.count, again.first, again.last), (&first.id, 3, 1000, 3000));
        queue.acknowledge(&second);
        assert!(queue.offer(10).is_none());
        queue.record_at(event("BackOff"), 3000 + REMEMBERED_MILLIS + 1);
        let later = queue.offer(10).unwrap();
        assert_eq!(later.events[0].count, 1);
        assert_ne!(later.events[0].id, first.id);
    }

    #[test]
    fn what_was_repeated_while_it_was_written_is_written_again() {
        let queue = EventQueue::default();
        queue.record_at(event("BackOff"), 1000);
        let first = queue.offer(10).unwrap();
        queue.record_at(event("BackOff"), 2000);
        let second = queue.offer(10).unwrap();
        assert_eq!((second.events.len(), second.events[0].count), (1, 2));
        queue.acknowledge(&first);
        assert_eq!(queue.offer(10).unwrap().events, second.events);
        queue.acknowledge(&second);
        assert!(queue.offer(10).is_none());
    }

    #[test]
    fn events_of_one_moment_keep_their_order_and_a_clock_that_was_put_back_is_believed() {
        let queue = EventQueue::default();
        for (reason, now) in [("Pulled", 5000), ("Created", 5000), ("Started", 5001), ("Killing", 1000)] {
            queue.record_at(event(reason), now);
        }
        let report = queue.offer(10).unwrap();
        let firsts: Vec<i64> = report.events.iter().map(|event| event.first).collect();
        assert_eq!(firsts, [5000, 5001, 5002, 1000]);
        assert!(report.events.iter().all(|event| event.last >= event.first));
    }

    #[test]
    fn the_oldest_are_dropped_and_that_is_told_once() {
        let queue = EventQueue::default();
        for number in 0..CAPACITY + 5 {
            queue.record_at(event(&number.to_string()), 0);
        }
        let report = queue.offer(2).unwrap();
        assert_eq!((report.dropped, report.events[0].reason.as_str()), (5, "5"));
        queue.acknowledge(&report);
        assert_eq!(queue.offer(2).unwrap().dropped, 0);
    }
}
