//! The writer against a model of a reader, over a wire that loses, doubles and reorders.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// Takes bytes in order, drops what it has, ignores what it cannot join.
#[derive(Default)]
struct Reader {
    bytes: Vec<u8>,
    consumed: u64,
    end: Option<(u64, Option<String>)>,
}

const READER_WINDOW: u64 = 10_000;

impl Reader {
    fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::Data { offset, bytes } => {
                assert!(bytes.len() <= MAX_CHUNK);
                assert!(offset + bytes.len() as u64 <= self.consumed + READER_WINDOW, "over the credit");
                let have = self.bytes.len() as u64;
                if offset <= have {
                    let known = usize::try_from(have - offset).unwrap();
                    self.bytes.extend(bytes.into_iter().skip(known));
                }
            }
            Frame::End { offset, error } => self.end = Some((offset, error)),
            other => panic!("{other:?}"),
        }
    }

    fn credit(&mut self) -> (u64, u64) {
        self.consumed = self.bytes.len() as u64;
        (self.consumed, self.consumed + READER_WINDOW)
    }

    fn is_done(&self) -> bool {
        self.end.as_ref().is_some_and(|(length, _)| *length == self.bytes.len() as u64)
    }
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    Doubled,
    Delayed,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        5 => Just(Fate::Arrives),
        2 => Just(Fate::Lost),
        1 => Just(Fate::Doubled),
        1 => Just(Fate::Delayed),
    ]
}

struct Wire<T> {
    delayed: Vec<T>,
}

impl<T: Clone> Wire<T> {
    fn send(&mut self, message: T, fate: Fate, mut deliver: impl FnMut(T)) {
        match fate {
            Fate::Arrives => deliver(message),
            Fate::Lost => {}
            Fate::Doubled => {
                deliver(message.clone());
                deliver(message);
            }
            Fate::Delayed => {
                self.delayed.push(message);
                return;
            }
        }
        for late in std::mem::take(&mut self.delayed) {
            deliver(late);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_reader_gets_the_exact_bytes(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9_000), 0..12),
        fates in proptest::collection::vec(fate(), 1..64),
        reconnects in proptest::collection::vec(any::<bool>(), 1..16),
        error in proptest::option::of("[a-z]{1,8}"),
    ) {
        let expected: Vec<u8> = chunks.concat();
        let mut fates = fates.into_iter().cycle();
        let mut reconnects = reconnects.into_iter().cycle();
        let mut now = Instant::now();
        let mut window = SendWindow::new(READER_WINDOW, now);
        let mut reader = Reader::default();
        let mut up = Wire { delayed: Vec::new() };
        let mut down = Wire { delayed: Vec::new() };
        let mut source = chunks.into_iter().peekable();
        let mut rounds = 0;
        while !(reader.is_done() && window.is_delivered()) {
            rounds += 1;
            // After a while the wire is good, as it has to be for anything to end.
            let good = rounds > 200;
            prop_assert!(rounds < 1_000, "stalled");
            while source.peek().is_some_and(|chunk| chunk.len() <= window.room()) {
                window.push(&source.next().unwrap());
            }
            if source.peek().is_none() {
                window.finish(error.clone());
            }
            if reconnects.next().unwrap() && !good {
                window.rewind(now);
            }
            while let Some(frame) = window.next_frame(now) {
                let fate = if good { Fate::Arrives } else { fates.next().unwrap() };
                up.send(frame, fate, |frame| reader.frame(frame));
            }
            let fate = if good { Fate::Arrives } else { fates.next().unwrap() };
            let credit = reader.credit();
            down.send(credit, fate, |(received, limit)| window.credit(received, limit, now));
            now += RESEND_AFTER;
            window.resend(now);
            if reader.end.is_none() {
                // A reader that waits for the end pings, and is told again.
                window.repeat_end();
            }
        }
        prop_assert_eq!(&reader.bytes, &expected);
        prop_assert_eq!(reader.end, Some((expected.len() as u64, error)));
    }

    #[test]
    fn credits_of_a_liar_do_no_harm(
        credits in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..50)
    ) {
        let now = Instant::now();
        let mut window = SendWindow::new(0, now);
        for (received, limit) in credits {
            let room = window.room().min(1_000);
            window.push(&vec![7; room]);
            window.credit(received, limit, now);
            while window.next_frame(now).is_some() {}
            window.resend(now);
            prop_assert!(window.acknowledged <= window.sent);
        }
    }
}

#[test]
fn nothing_is_sent_beyond_the_credit() {
    let now = Instant::now();
    let mut window = SendWindow::new(10, now);
    window.push(&[1; 25]);
    window.finish(None);
    assert_eq!(window.next_frame(now), Some(Frame::Data { offset: 0, bytes: vec![1; 10] }));
    assert_eq!(window.next_frame(now), None);
    window.credit(10, 25, now);
    assert_eq!(window.next_frame(now), Some(Frame::Data { offset: 10, bytes: vec![1; 15] }));
    assert_eq!(window.next_frame(now), Some(Frame::End { offset: 25, error: None }));
    assert!(!window.is_delivered());
    window.credit(25, 25, now);
    assert!(window.is_delivered());
}

#[test]
fn the_buffer_is_bounded_and_resending_slows_down() {
    let start = Instant::now();
    let mut window = SendWindow::new(u64::MAX, start);
    window.push(&vec![0; BUFFER]);
    assert_eq!(window.room(), 0);
    let mut now = start;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        while window.next_frame(now).is_some() {}
        let due = window.resend_due().unwrap();
        pauses.push(due.duration_since(now).as_secs());
        now = due;
        window.resend(now);
    }
    assert_eq!(pauses, [2, 4, 8, 16, 30, 30]);
}

#[test]
fn a_crumb_of_credit_is_not_used_while_something_is_on_its_way() {
    let now = Instant::now();
    let mut window = SendWindow::new(MAX_CHUNK as u64 + 10, now);
    window.push(&vec![1; 2 * MAX_CHUNK]);
    assert!(
        matches!(window.next_frame(now), Some(Frame::Data { offset: 0, bytes }) if bytes.len() == MAX_CHUNK)
    );
    assert_eq!(window.next_frame(now), None);
    window.credit(MAX_CHUNK as u64, MAX_CHUNK as u64 + 10, now);
    assert_eq!(window.next_frame(now), Some(Frame::Data { offset: MAX_CHUNK as u64, bytes: vec![1; 10] }));
}

/// Sends all that may be sent, and gives the offsets of the data.
fn offsets(window: &mut SendWindow, now: Instant) -> Vec<u64> {
    let frames = std::iter::from_fn(|| window.next_frame(now));
    let offset = |frame| if let Frame::Data { offset, .. } = frame { Some(offset) } else { None };
    frames.filter_map(offset).collect()
}

#[test]
fn a_repeated_acknowledgement_brings_what_was_lost_at_once() {
    let start = Instant::now();
    let mut window = SendWindow::new(100, start);
    window.push(&[1; 10]);
    assert_eq!(offsets(&mut window, start), [0]);
    let soon = start + UNDER_WAY / 2;
    window.credit(0, 100, soon);
    assert_eq!(offsets(&mut window, soon), [0; 0], "it may still be on its way");
    let later = start + UNDER_WAY;
    assert!(window.resend_due().unwrap() > later);
    window.credit(0, 100, later);
    assert_eq!(offsets(&mut window, later), [0]);
    window.credit(0, 100, later + UNDER_WAY);
    assert_eq!(offsets(&mut window, later + UNDER_WAY), [0; 0], "on a long way, hints do not flood");
}

#[test]
fn an_older_acknowledgement_and_one_of_everything_are_no_hints() {
    let start = Instant::now();
    let mut window = SendWindow::new(100, start);
    window.push(&[1; 10]);
    offsets(&mut window, start);
    window.credit(10, 100, start + UNDER_WAY);
    window.credit(10, 100, start + 2 * UNDER_WAY);
    assert_eq!(offsets(&mut window, start + 2 * UNDER_WAY), [0; 0], "nothing is missing");
    window.push(&[2; 10]);
    let sent = start + 2 * UNDER_WAY;
    assert_eq!(offsets(&mut window, sent), [10]);
    window.credit(3, 100, sent + UNDER_WAY);
    assert_eq!(offsets(&mut window, sent + UNDER_WAY), [0; 0], "it was overtaken");
}

#[test]
fn a_short_way_makes_hints_count_early_and_a_long_one_late() {
    for (way, least, most) in [(10, 100, 150), (1_500, 1_000, 2_000)] {
        let way = Duration::from_millis(way);
        let mut now = Instant::now();
        let mut window = SendWindow::new(u64::MAX, now);
        for round in 1..=8 {
            window.push(&[1; 10]);
            offsets(&mut window, now);
            now += way;
            window.credit(round * 10, u64::MAX, now);
        }
        assert!(window.under_way >= Duration::from_millis(least), "{:?}", window.under_way);
        assert!(window.under_way <= Duration::from_millis(most), "{:?}", window.under_way);
    }
}
