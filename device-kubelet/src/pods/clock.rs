//! Two clocks: one that only runs forward, for delays; one for people, that may be set.
//!
//! Many devices have no battery-backed clock: they boot in 1970 or in last year, and jump when they find a
//! time server. No delay may depend on that.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A moment in milliseconds since an origin of this process; may lie before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mono(pub i64);

impl Mono {
    /// The moment `delay` later.
    pub fn after(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Source of both times. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock {
    /// Now, on the clock that only runs forward. Follows tokio's clock, also when that is paused.
    pub fn mono(&self) -> Mono {
        Mono(i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// Now, for people; in whole seconds, as Kubernetes' times are.
    pub fn wall(&self) -> Timestamp {
        whole_seconds(Timestamp::now())
    }

    /// When to sleep until, for [`tokio::time::sleep_until`].
    pub fn instant(&self, at: Mono) -> Instant {
        self.origin + Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
    }

    /// The moment at which a wall time was, as well as can be known: a time in the future is now, and nothing
    /// is longer ago than a day.
    pub fn mono_of(&self, wall: Timestamp) -> Mono {
        let ago = Timestamp::now().duration_since(wall).as_millis().clamp(0, 86_400_000);
        Mono(self.mono().0 - i64::try_from(ago).unwrap_or(0))
    }

    /// The wall time of a moment.
    pub fn wall_of(&self, at: Mono) -> Timestamp {
        let ago = SignedDuration::from_millis(self.mono().0.saturating_sub(at.0));
        Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// Cut to whole seconds.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A duration as Go prints it (`1m20s`): messages are compared with a kubelet's.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) if duration.subsec_millis() == 0 => format!("{seconds}s"),
        (0, 0, 0) => format!("{}ms", duration.subsec_millis()),
        (0, 0, seconds) => {
            let fraction = format!("{:03}", duration.subsec_millis());
            format!("{seconds}.{}s", fraction.trim_end_matches('0'))
        }
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_a_kubelets_messages() {
        for (millis, text) in [
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (1_230, "1.23s"),
            (7, "7ms"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
