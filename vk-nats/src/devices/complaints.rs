//! What a device does wrong: counted every time, logged once for each kind.

use std::{collections::HashSet, time::Duration};

use fleet_wire::name::DeviceName;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How often at most the same is told again.
const AGAIN: Duration = Duration::from_secs(60);

/// Kinds that were logged for one device.
#[derive(Debug, Default)]
pub struct Complaints {
    told: HashSet<(&'static str, String)>,
    forgot: Option<Instant>,
}

impl Complaints {
    /// Counts, and logs the first of its kind. `kind` is a short label, never content of a message.
    pub fn record(
        &mut self,
        metrics: &Metrics,
        device: &DeviceName,
        verb: &'static str,
        kind: &str,
        detail: &dyn std::fmt::Display,
    ) {
        metrics.message(verb, kind);
        if self.is_new(verb, kind) {
            tracing::warn!(
                %device, verb, kind, %detail,
                "a message of this device was refused; further ones of this kind are only counted"
            );
        }
    }

    /// A new session begins: it is worth a line (`true`), and so is again what was wrong before. Not more than once in
    /// a minute: a device that begins one session after the other must not fill the log.
    pub fn forget(&mut self, now: Instant) -> bool {
        if self.forgot.is_some_and(|at| now.saturating_duration_since(at) < AGAIN) {
            return false;
        }
        self.forgot = Some(now);
        self.told.clear();
        true
    }

    fn is_new(&mut self, verb: &'static str, kind: &str) -> bool {
        self.told.insert((verb, kind.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_device_that_begins_one_session_after_the_other_does_not_fill_the_log() {
        let mut complaints = Complaints::default();
        let start = Instant::now();
        assert!(complaints.forget(start));
        assert!(complaints.is_new("status", "Format"));
        assert!(!complaints.is_new("status", "Format"));
        assert!(!complaints.forget(start + AGAIN / 2));
        assert!(!complaints.is_new("status", "Format"));
        assert!(complaints.is_new("status", "Seal"));
        assert!(complaints.forget(start + AGAIN));
        assert!(complaints.is_new("status", "Format"));
    }
}
