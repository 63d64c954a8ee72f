//! Which counters of one direction were seen: a ring of [`WINDOW`] bits behind the newest counter.
//!
//! ```text
//!            older: refused │ ◄──────── WINDOW bits ────────► │ newer: accepted, moves the window
//!   counters ───────────────┼─────────────────────────────────┼──────────────────────────────────
//!                           newest - WINDOW                   newest
//! ```

use super::WINDOW;
use crate::envelope::EnvelopeError;

const WORDS: usize = (WINDOW / 64) as usize;

/// Accepts each counter once.
#[derive(Debug, Clone)]
pub(super) struct ReplayWindow {
    newest: u64,
    /// Bit `counter % WINDOW` belongs to the one counter within the window that has this remainder.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    pub(super) fn new() -> Self {
        Self { newest: 0, seen: [0; WORDS] }
    }

    /// Accepts a counter that was not seen and is not too old to tell. Counters begin at 1.
    pub(super) fn accept(&mut self, counter: u64) -> Result<(), EnvelopeError> {
        if counter == 0 {
            return Err(EnvelopeError::Replayed { counter });
        }
        // Differences, never sums: a peer may choose counters up to `u64::MAX`.
        match counter.checked_sub(self.newest) {
            Some(ahead) if ahead > 0 => self.advance(counter, ahead),
            _ if self.newest - counter >= WINDOW || self.is_set(counter) => {
                return Err(EnvelopeError::Replayed { counter });
            }
            _ => {}
        }
        let (word, bit) = slot(counter);
        self.seen[word] |= bit;
        Ok(())
    }

    /// Moves the window and frees the bits of the counters that enter it.
    fn advance(&mut self, counter: u64, ahead: u64) {
        if ahead >= WINDOW {
            self.seen = [0; WORDS];
        } else {
            for entering in self.newest + 1..=counter {
                let (word, bit) = slot(entering);
                self.seen[word] &= !bit;
            }
        }
        self.newest = counter;
    }

    fn is_set(&self, counter: u64) -> bool {
        let (word, bit) = slot(counter);
        self.seen[word] & bit != 0
    }
}

fn slot(counter: u64) -> (usize, u64) {
    let bit = counter % WINDOW;
    ((bit / 64) as usize, 1 << (bit % 64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The specification: remember everything.
    #[derive(Default)]
    struct Model {
        newest: u64,
        seen: HashSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let known = u128::from(counter) + u128::from(WINDOW) <= u128::from(self.newest);
            if counter == 0 || known || !self.seen.insert(counter) {
                return false;
            }
            self.newest = self.newest.max(counter);
            true
        }
    }

    /// Counters near each other, near the edges of a window that jumps, and at the end of the range.
    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            8 => -8i64..8,
            4 => -(WINDOW as i64) - 3..-(WINDOW as i64) + 3,
            4 => WINDOW as i64 - 3..WINDOW as i64 + 3,
            2 => -3 * WINDOW as i64..3 * WINDOW as i64,
            1 => any::<i64>(),
        ];
        let start = prop_oneof![Just(0u64), 1..4 * WINDOW, Just(u64::MAX - WINDOW), Just(u64::MAX)];
        (start, prop::collection::vec(step, 1..400)).prop_map(|(start, steps)| {
            let mut at = start;
            steps
                .into_iter()
                .map(|step| {
                    at = at.saturating_add_signed(step);
                    at
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_window_is_a_set_with_a_short_memory(counters in counters()) {
            let mut window = ReplayWindow::new();
            let mut model = Model::default();
            for counter in counters {
                prop_assert_eq!(window.accept(counter).is_ok(), model.accept(counter), "counter {}", counter);
            }
        }

        #[test]
        fn any_order_within_the_window_is_accepted_once(
            order in Just((1..=WINDOW).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let mut window = ReplayWindow::new();
            for counter in &order {
                prop_assert!(window.accept(*counter).is_ok());
            }
            for counter in &order {
                prop_assert!(window.accept(*counter).is_err());
            }
        }
    }

    #[test]
    fn the_oldest_counter_in_the_window_is_told_from_the_one_before() {
        let mut window = ReplayWindow::new();
        window.accept(5000).unwrap();
        window.accept(5000 - WINDOW + 1).unwrap();
        assert!(window.accept(5000 - WINDOW).is_err());
    }

    #[test]
    fn the_end_of_the_range_neither_overflows_nor_wraps() {
        let mut window = ReplayWindow::new();
        window.accept(u64::MAX).unwrap();
        assert!(window.accept(u64::MAX).is_err());
        window.accept(u64::MAX - 1).unwrap();
        window.accept(u64::MAX - WINDOW + 1).unwrap();
        assert!(window.accept(u64::MAX - WINDOW).is_err());
        assert!(window.accept(1).is_err());
        assert!(window.accept(0).is_err());
    }
}
