//! Many durations, and what is said of them.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Times {
    pub count: usize,
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub max: f64,
}

impl Times {
    pub fn of(mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let at = |percent: usize| micros(taken[(taken.len() - 1) * percent / 100]);
        Self {
            count: taken.len(),
            mean: micros(taken.iter().sum::<Duration>()) / taken.len() as f64,
            p50: at(50),
            p95: at(95),
            max: at(100),
        }
    }

    /// Of something that is done so often.
    pub fn taken(times: usize, mut what: impl FnMut()) -> Self {
        let each = |_| {
            let begun = Instant::now();
            what();
            begun.elapsed()
        };
        Self::of((0..times).map(each).collect())
    }
}
