//! Measured times in the few numbers that are told of them.

use std::time::Duration;

use serde::Serialize;

/// Quantiles of times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many times there are.
    pub count: usize,
    /// Half of them are at most this long.
    pub p50: f64,
    /// 99 of 100 are at most this long; of fewer than 100 it is the longest.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Quantiles {
    /// Quantiles by nearest rank; `None` of nothing.
    #[must_use]
    pub fn of(times: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut times: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        times.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).copied().map(tenths)
        };
        Some(Self { count: times.len(), p50: rank(50)?, p99: rank(99)?, max: rank(100)? })
    }
}

/// Rounded to what a clock on a busy machine can tell.
#[must_use]
pub fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Rounded to two digits after the point.
#[must_use]
pub fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// How many a second, when `count` took `time`.
#[must_use]
pub fn rate(count: usize, time: Duration) -> f64 {
    let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    tenths(count / time.as_secs_f64().max(1e-9))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranks_are_times_that_were_measured() {
        let times = (1..=200).rev().map(Duration::from_millis);
        let quantiles = Quantiles::of(times).unwrap();
        assert_eq!(quantiles, Quantiles { count: 200, p50: 100.0, p99: 198.0, max: 200.0 });
        let few = Quantiles::of([5, 9, 7].map(Duration::from_millis)).unwrap();
        assert_eq!((few.p50, few.p99), (7.0, 9.0));
        assert_eq!(Quantiles::of([]), None);
    }
}
