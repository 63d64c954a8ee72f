//! Back-off as a kubelet has it: 10 s, doubling to 5 min, forgotten after 10 quiet minutes. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::clock::Mono;

/// First delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay.
pub const MAXIMUM: Duration = Duration::from_secs(300);
/// After so long without trouble the next delay is the first one again.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// One thing that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOff {
    /// How long to wait after the next failure.
    pub delay: Duration,
    /// When it was last tried again.
    pub updated: Mono,
}

/// Something that must wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Length of the whole delay.
    pub delay: Duration,
    /// Until when.
    pub until: Mono,
}

/// What failed how often, by a key that changes when the thing itself does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackOffs(BTreeMap<String, BackOff>);

impl BackOffs {
    /// Whether a thing that ended at `ended` must wait still.
    pub fn held_since(&self, key: &str, ended: Mono, now: Mono) -> Option<Held> {
        let entry = self.0.get(key)?;
        if ended.since(entry.updated) > FORGOTTEN_AFTER {
            return None;
        }
        let until = ended.after(entry.delay);
        (now < until).then_some(Held { delay: entry.delay, until })
    }

    /// Whether a thing must wait, counted from its last trial.
    pub fn held(&self, key: &str, now: Mono) -> Option<Held> {
        self.0.get(key).and_then(|entry| self.held_since(key, entry.updated, now))
    }

    /// It is tried again now, after it ended at `ended`: the next delay is longer.
    pub fn lengthen(&mut self, key: &str, ended: Mono, now: Mono) {
        let delay = match self.0.get(key) {
            Some(entry) if ended.since(entry.updated) <= FORGOTTEN_AFTER => (entry.delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        self.0.insert(key.to_owned(), BackOff { delay, updated: now });
    }

    /// It succeeded.
    pub fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// Keeps only these keys.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|key, _| keep(key));
    }

    /// All entries, to be written down.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &BackOff)> {
        self.0.iter()
    }

    /// Puts an entry back that was written down.
    pub fn restore(&mut self, key: String, entry: BackOff) {
        self.0.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Mono {
        Mono(seconds * 1000)
    }

    #[test]
    fn a_first_failure_does_not_wait_and_later_ones_double_to_five_minutes() {
        let mut back_offs = BackOffs::default();
        let mut now = at(0);
        assert_eq!(back_offs.held_since("web", now, now), None);
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            back_offs.lengthen("web", now, now);
            let held = back_offs.held_since("web", now, now).map(|held| held.delay.as_secs());
            assert_eq!(held, Some(expected));
            now = now.after(Duration::from_secs(expected));
            assert_eq!(back_offs.held_since("web", Mono(now.0 - expected as i64 * 1000), now), None);
        }
    }

    #[test]
    fn ten_minutes_of_running_reset_it() {
        let mut back_offs = BackOffs::default();
        back_offs.lengthen("web", at(0), at(0));
        back_offs.lengthen("web", at(10), at(10));
        assert_eq!(back_offs.held_since("web", at(611), at(611)), None);
        back_offs.lengthen("web", at(611), at(611));
        assert_eq!(back_offs.held("web", at(612)).map(|held| held.delay), Some(INITIAL));
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_the_maximum(failures in prop::collection::vec(0_i64..900, 1..40)) {
            let mut back_offs = BackOffs::default();
            let mut now = at(0);
            for gap in failures {
                now = now.after(Duration::from_secs(gap.unsigned_abs()));
                if let Some(held) = back_offs.held_since("web", now, now) {
                    prop_assert!(held.until.since(now) <= MAXIMUM);
                    prop_assert!(held.delay >= INITIAL);
                    now = held.until;
                }
                back_offs.lengthen("web", now, now);
            }
        }
    }
}
