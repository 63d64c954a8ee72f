//! Readiness of what follows something else and hears only of its own failures.

use std::time::Duration;

use tokio::time::Instant;

use super::CheckHandle;

/// How long nothing may have failed until it counts as good again: longer than any pause between two attempts.
pub const QUIET: Duration = Duration::from_secs(10);

/// A check of a watch. A watch says that it was interrupted, but not that it goes on: nothing comes while nothing
/// changes. So it is ready again with the next event, or when no attempt has failed for [`QUIET`].
#[derive(Debug)]
pub struct Following {
    check: CheckHandle,
    complete: bool,
    failed: Option<Instant>,
}

impl Following {
    /// Not ready before everything was seen once.
    #[must_use]
    pub fn new(check: CheckHandle) -> Self {
        Self { check, complete: false, failed: None }
    }

    /// Everything that there is was seen.
    pub fn complete(&mut self) {
        self.complete = true;
        self.failed = None;
        self.check.ready();
    }

    /// Something came.
    pub fn event(&mut self) {
        if self.complete && self.failed.take().is_some() {
            self.check.ready();
        }
    }

    /// An attempt failed.
    pub fn interrupted(&mut self, reason: impl Into<String>) {
        self.failed = Some(Instant::now());
        self.check.not_ready(reason);
    }

    /// Ends when there was quiet for long enough after a failure; it is ready then. To be called anew after each event
    /// and each failure.
    pub async fn quiet(&mut self) {
        match self.failed {
            Some(failed) if self.complete => {
                tokio::time::sleep_until(failed + QUIET).await;
                self.event();
            }
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    #[tokio::test(start_paused = true)]
    async fn quiet_after_a_failure_is_ready_again_and_never_before_all_was_seen() {
        let health = Health::new();
        let mut following = Following::new(health.check("watch"));
        following.interrupted("no answer");
        let waited = tokio::time::timeout(10 * QUIET, following.quiet()).await;
        assert!(waited.is_err() && !health.is_ready(), "not everything was seen yet");
        following.complete();
        assert!(health.is_ready());

        following.interrupted("no answer");
        assert!(!health.is_ready());
        let early = tokio::time::timeout(QUIET / 2, following.quiet()).await;
        assert!(early.is_err() && !health.is_ready());
        following.interrupted("no answer again");
        let began = Instant::now();
        following.quiet().await;
        assert!(health.is_ready());
        assert_eq!(began.elapsed(), QUIET, "counted from the last failure");

        following.interrupted("no answer");
        following.event();
        assert!(health.is_ready(), "an event shows that it goes on");
    }
}
