//! When a certificate is renewed, and when a request is tried again. Pure: chance comes in as a number.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A certificate is renewed between these parts of its life, as kubelets do it: replicas that started together
/// do not ask together, and a tenth is left for an enroller that is away.
const RENEW: (f64, f64) = (0.7, 0.9);
/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// At first it is looked at each second: an approval takes one or two.
const EAGER: Duration = Duration::from_secs(30);

/// When a certificate that was signed just now has to be renewed; `chance` lies between 0 and 1.
///
/// Its life is counted from now, not from its `notBefore`: signers put that back to forgive wrong clocks.
pub fn renewal(now: Timestamp, not_after: Timestamp, chance: f64) -> Timestamp {
    let life = not_after.duration_since(now).max(SignedDuration::ZERO);
    let part = RENEW.0 + (RENEW.1 - RENEW.0) * chance.clamp(0.0, 1.0);
    // A product with less than one stays in range.
    let after = SignedDuration::try_from_secs_f64(life.as_secs_f64() * part).unwrap_or(SignedDuration::ZERO);
    now.saturating_add(after).unwrap_or(not_after)
}

/// How long to rest after so many failures in a row: doubled each time, and between half and all of it.
pub fn pause(failures: u32, chance: f64) -> Duration {
    let doubled = PAUSE.0.saturating_mul(2u32.saturating_pow(failures.saturating_sub(1))).min(PAUSE.1);
    doubled.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

/// How long until a request is looked at again that was made so long ago.
pub fn poll(age: Duration) -> Duration {
    if age < EAGER { Duration::from_secs(1) } else { Duration::from_secs(5) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_between_70_and_90_percent_of_its_life() {
        let (now, end) = (at(1_000), at(2_000));
        assert_eq!(renewal(now, end, 0.0), at(1_700));
        assert_eq!(renewal(now, end, 0.5), at(1_800));
        assert_eq!(renewal(now, end, 1.0), at(1_900));
        for chance in [-1.0, 0.3, 7.0, f64::NAN] {
            let renewal = renewal(now, end, chance);
            assert!(renewal >= now && renewal <= at(1_900), "{chance}: {renewal}");
        }
    }

    #[test]
    fn one_that_is_over_already_is_renewed_at_once() {
        assert_eq!(renewal(at(2_000), at(1_000), 0.5), at(2_000));
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(pause(1, 1.0), Duration::from_secs(5));
        assert_eq!(pause(1, 0.0), Duration::from_millis(2500));
        assert_eq!(pause(3, 1.0), Duration::from_secs(20));
        for failures in [7, 40, u32::MAX] {
            assert_eq!(pause(failures, 1.0), Duration::from_secs(300), "{failures}");
        }
    }
}
