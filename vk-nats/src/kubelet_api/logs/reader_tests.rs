#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 1000;
const STEP: Duration = Duration::from_millis(50);

fn data(offset: u64, bytes: &[u8]) -> Frame {
    Frame::Data { offset, bytes: bytes.to_vec() }
}

fn end(offset: u64) -> Frame {
    Frame::End { offset, error: None }
}

fn everything_from(reader: &mut StreamReader) -> Vec<u8> {
    std::iter::from_fn(|| reader.take()).flatten().collect()
}

fn sent(reader: &mut StreamReader, now: Instant) -> Vec<Frame> {
    std::iter::from_fn(|| reader.outgoing(now)).collect()
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn bytes_come_out_in_order_each_once() {
    let now = Instant::now();
    let mut reader = StreamReader::new(WINDOW, now);
    for frame in [data(6, b"world"), data(0, b"hel"), data(0, b"hel"), data(2, b"llo "), end(11)] {
        reader.arrive(frame, now);
    }
    assert_eq!(everything_from(&mut reader), b"hello world");
    assert_eq!(reader.state(), State::Finished);
}

#[test]
fn crumbs_far_ahead_are_dropped_and_come_again() {
    let now = Instant::now();
    let text: Vec<u8> = (0..4 * AHEAD).map(|number| number as u8).collect();
    let mut reader = StreamReader::new(text.len() as u64, now);
    // Every second byte, the first is missing.
    for offset in (1..text.len()).step_by(2) {
        reader.arrive(data(offset as u64, &text[offset..=offset]), now);
    }
    assert_eq!(reader.ahead.len(), AHEAD);
    reader.arrive(data(0, &text), now);
    assert_eq!(everything_from(&mut reader), text);
    assert!(reader.ahead.is_empty());
}

#[test]
fn an_end_that_overtook_bytes_waits_for_them() {
    let now = Instant::now();
    let mut reader = StreamReader::new(WINDOW, now);
    reader.arrive(end(5), now);
    assert_eq!(reader.state(), State::Open);
    reader.arrive(data(0, b"hello"), now);
    assert_eq!(reader.state(), State::Open);
    assert_eq!(everything_from(&mut reader), b"hello");
    assert_eq!(reader.state(), State::Finished);
}

#[test]
fn an_empty_log_is_finished_at_its_end() {
    let now = Instant::now();
    let mut reader = StreamReader::new(WINDOW, now);
    reader.arrive(end(0), now);
    assert_eq!(reader.state(), State::Finished);
}

#[test]
fn the_error_of_the_device_comes_after_its_bytes() {
    let now = Instant::now();
    let mut reader = StreamReader::new(WINDOW, now);
    reader.arrive(Frame::End { offset: 2, error: Some("disk is gone".to_owned()) }, now);
    assert_eq!(reader.state(), State::Open);
    reader.arrive(data(0, b"ok"), now);
    assert_eq!(everything_from(&mut reader), b"ok");
    assert_eq!(reader.state(), State::Failed(ReadError::Device("disk is gone".to_owned())));
}

#[test]
fn credit_follows_the_client_not_the_device() {
    let now = Instant::now();
    let mut reader = StreamReader::new(WINDOW, now);
    reader.arrive(data(0, &[0; 600]), now);
    assert_eq!(sent(&mut reader, now), []);
    reader.take().unwrap();
    assert_eq!(sent(&mut reader, now), [Frame::Credit { received: 600, limit: 600 + WINDOW }]);
    assert_eq!(sent(&mut reader, now), []);
}

#[test]
fn a_credit_that_was_lost_is_repeated() {
    let start = Instant::now();
    let mut reader = StreamReader::new(WINDOW, start);
    reader.arrive(data(0, &[0; 1000]), start);
    reader.take().unwrap();
    let credit = Frame::Credit { received: 1000, limit: 2000 };
    assert_eq!(sent(&mut reader, start), std::slice::from_ref(&credit));
    assert_eq!(reader.deadline(), Some(after(start, 1)));
    assert_eq!(sent(&mut reader, after(start, 1)), [credit]);
}

#[test]
fn a_gap_is_told_at_once_but_not_all_the_time() {
    let start = Instant::now();
    let mut reader = StreamReader::new(WINDOW, start);
    let first = after(start, 1);
    reader.arrive(data(10, b"late"), first);
    let hint = Frame::Credit { received: 0, limit: WINDOW };
    assert_eq!(sent(&mut reader, first), std::slice::from_ref(&hint));
    assert_eq!(sent(&mut reader, first), []);
    assert_eq!(sent(&mut reader, first + HINT), [hint]);
}

#[test]
fn silence_is_asked_about_and_then_given_up_on() {
    let start = Instant::now();
    let mut reader = StreamReader::new(WINDOW, start);
    reader.arrive(data(0, b"last words"), start);
    assert!(!sent(&mut reader, after(start, 4)).contains(&Frame::Ping));
    assert!(sent(&mut reader, after(start, 5)).contains(&Frame::Ping));
    reader.arrive(Frame::Pong, after(start, 6));
    assert!(sent(&mut reader, after(start, 11)).contains(&Frame::Ping));
    assert_eq!(reader.state(), State::Open);
    assert_eq!(sent(&mut reader, after(start, 16)), []);
    assert_eq!(reader.state(), State::Failed(ReadError::Silent));
    assert_eq!(everything_from(&mut reader), b"last words");
}

#[test]
fn a_quiet_stream_lives_on_pings_of_either_side() {
    let start = Instant::now();
    let mut reader = StreamReader::new(WINDOW, start);
    for seconds in 1..3600 {
        let now = after(start, seconds);
        if sent(&mut reader, now).contains(&Frame::Ping) {
            reader.arrive(Frame::Pong, now);
        }
        assert_eq!(reader.state(), State::Open);
    }
    reader.arrive(Frame::Ping, after(start, 3600));
    assert!(sent(&mut reader, after(start, 3600)).contains(&Frame::Pong));
}

#[test]
fn a_slow_client_keeps_what_has_arrived_when_the_device_is_gone() {
    let start = Instant::now();
    let mut reader = StreamReader::new(WINDOW, start);
    reader.arrive(data(0, b"all of it"), start);
    reader.arrive(end(9), start);
    assert_eq!(sent(&mut reader, start), [Frame::Credit { received: 9, limit: WINDOW }]);
    assert_eq!(reader.deadline(), None);
    assert_eq!(sent(&mut reader, after(start, 600)), []);
    assert_eq!(reader.state(), State::Open);
    assert_eq!(everything_from(&mut reader), b"all of it");
    assert_eq!(reader.state(), State::Finished);
}

#[test]
fn a_repeated_end_is_receipted_again() {
    let start = Instant::now();
    let mut reader = StreamReader::new(WINDOW, start);
    let receipt = [Frame::Credit { received: 0, limit: WINDOW }];
    reader.arrive(end(0), start);
    assert_eq!(sent(&mut reader, start), receipt);
    assert_eq!(sent(&mut reader, start), []);
    reader.arrive(end(0), after(start, 1));
    assert_eq!(sent(&mut reader, after(start, 1)), receipt);
}

#[test]
fn a_device_that_breaks_the_rules_ends_the_stream() {
    let now = Instant::now();
    let table: &[&[Frame]] = &[
        &[data(0, &[0; 1001])],
        &[data(900, &[0; 101])],
        &[data(u64::MAX, &[0; 2])],
        &[end(3), data(0, b"four")],
        &[data(0, b"four"), end(3)],
        &[data(2, b"xx"), end(3)],
        &[end(3), end(4)],
        &[end(1001)],
        &[Frame::Credit { received: 0, limit: 0 }],
    ];
    for frames in table {
        let mut reader = StreamReader::new(WINDOW, now);
        for frame in *frames {
            reader.arrive(frame.clone(), now);
        }
        assert!(matches!(reader.state(), State::Failed(ReadError::Protocol(_))), "{frames:?}");
        assert_eq!(sent(&mut reader, now), []);
    }
}

/// What happens to one frame on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    /// Arrives after the frame behind it.
    Late,
}

/// A device that writes `log` and goes back to what the reader lacks.
struct Device {
    log: Vec<u8>,
    chunk: usize,
    next: usize,
    limit: usize,
}

impl Device {
    fn hears(&mut self, frame: &Frame) -> Option<Frame> {
        match frame {
            Frame::Credit { received, limit } => {
                self.next = *received as usize;
                self.limit = self.limit.max(*limit as usize);
                None
            }
            Frame::Ping => Some(Frame::Pong),
            _ => None,
        }
    }

    fn says(&mut self) -> Option<Frame> {
        let to = self.log.len().min(self.limit).min(self.next + self.chunk);
        if to > self.next {
            let frame = data(self.next as u64, &self.log[self.next..to]);
            self.next = to;
            return Some(frame);
        }
        (self.next == self.log.len()).then(|| end(self.log.len() as u64))
    }
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        3 => Just(Fate::Arrives),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Doubled),
        2 => Just(Fate::Late),
    ];
    proptest::collection::vec(fate, 1..60)
}

proptest! {
    /// However frames are lost, doubled and reordered for a while: the client gets the log, byte by byte.
    #[test]
    fn the_client_reads_what_the_device_wrote(
        log in proptest::collection::vec(any::<u8>(), 0..6000),
        chunk in 1usize..400,
        up in fates(),
        down in fates(),
        takes in proptest::collection::vec(0usize..4, 1..20),
    ) {
        let start = Instant::now();
        let mut reader = StreamReader::new(WINDOW, start);
        let mut device = Device { log: log.clone(), chunk, next: 0, limit: WINDOW as usize };
        let mut read = Vec::new();
        let (mut ups, mut downs) = (up.iter().cycle(), down.iter().cycle());
        let mut held: Option<Frame> = None;
        for step in 0..20_000u32 {
            let now = start + STEP * step;
            // Bad weather for less than the ten seconds after which a stream is given up.
            let weather = |fates: &mut dyn Iterator<Item = &Fate>| {
                if step < 150 { *fates.next().unwrap() } else { Fate::Arrives }
            };
            let mut answers = Vec::new();
            for frame in sent(&mut reader, now) {
                if weather(&mut downs) != Fate::Lost {
                    answers.extend(device.hears(&frame));
                }
            }
            for frame in answers.into_iter().chain(device.says()) {
                match weather(&mut ups) {
                    Fate::Arrives => reader.arrive(frame, now),
                    Fate::Lost => {}
                    Fate::Doubled => {
                        reader.arrive(frame.clone(), now);
                        reader.arrive(frame, now);
                    }
                    Fate::Late => {
                        if let Some(earlier) = held.replace(frame) {
                            reader.arrive(earlier, now);
                        }
                        continue;
                    }
                }
                if let Some(late) = held.take() {
                    reader.arrive(late, now);
                }
            }
            prop_assert!(reader.held() <= 2 * WINDOW);
            for _ in 0..takes[step as usize % takes.len()].max(usize::from(step >= 150)) {
                read.extend(reader.take().into_iter().flatten());
            }
            match reader.state() {
                State::Open => {}
                State::Finished => break,
                State::Failed(error) => prop_assert!(false, "{error}"),
            }
        }
        prop_assert_eq!(reader.state(), State::Finished);
        prop_assert_eq!(read, log);
    }

    /// Whatever a hostile device sends: no panic, and never more than two windows in memory.
    #[test]
    fn no_frame_makes_it_grow_or_panic(
        frames in proptest::collection::vec((0u64..1500, 0usize..500, 0u8..7), 0..200),
    ) {
        let start = Instant::now();
        let mut reader = StreamReader::new(WINDOW, start);
        for (index, (offset, length, kind)) in frames.into_iter().enumerate() {
            let now = start + STEP * index as u32;
            let frame = match kind {
                0 => end(offset),
                1 => Frame::Ping,
                2 if length == 0 => Frame::Cancel,
                _ => data(offset, &vec![0; length]),
            };
            reader.arrive(frame, now);
            prop_assert!(reader.held() <= 2 * WINDOW + 500);
            sent(&mut reader, now);
            if length % 3 == 0 {
                reader.take();
            }
            reader.state();
            reader.deadline();
        }
    }
}
