//! How watches of the API server are begun again.

use std::time::Duration;

use kube::runtime::{utils::Backoff, watcher::DefaultBackoff};

/// Longest pause. kube's own is half a minute and more, as in client-go; but a Node that is deleted, or a device that
/// is admitted, shouldn't wait that long after the API server was away. And one that the lifecycle controller has set
/// to Unknown in that time shows that by its watch: its pods are evicted after a while.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// kube's pauses between attempts, cut at [`LONGEST`] with jitter.
#[derive(Default)]
pub(super) struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let longest = LONGEST.mul_f64(rand::random_range(0.5..=1.0));
        self.0.next().map(|pause| pause.min(longest))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pauses_grow_and_stay_short() {
        let pauses: Vec<_> = Pauses::default().take(20).collect();
        assert!(pauses[0] < Duration::from_secs(2), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST / 2), "{pauses:?}");
    }
}
