//! Growing, jittered pauses between attempts.

use std::time::Duration;

/// Doubles from `base` to `max`; each pause is drawn from its upper half, so that a fleet whose cluster
/// side went away together does not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first pause is at most `base`, none is over `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: 0 }
    }

    /// The pause after one more failure. `random` is uniform in 0..1.
    pub fn next(&mut self, random: f64) -> Duration {
        let bound = self.base.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
        let pauses: Vec<u64> = (0..6).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_secs(), 1);
    }

    #[test]
    fn every_pause_lies_in_the_upper_half() {
        for random in [-1.0, 0.0, 0.3, 1.0, 7.0, f64::NAN] {
            let mut backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(4));
            for _ in 0..100 {
                let random = if random.is_nan() { 0.0 } else { random };
                let pause = backoff.next(random);
                assert!(pause >= Duration::from_secs(2) && pause <= Duration::from_secs(4), "{pause:?}");
            }
        }
    }
}
