//! Updates from a file: whoever may write it delivers; it is looked at again whenever it changes.
//!
//! It decides nothing: what is refused is logged once, and the file is left as it is.

use std::{io::Read as _, path::PathBuf, time::Duration};

use tokio::{task, time};

use super::{LIMIT, Outcome, Updates, UpdatesError};
use crate::kept;

/// How often the file is looked at. Asked for, not told by the kernel: mounted ConfigMaps change by a symbolic link
/// two levels up, and network disks tell nothing.
const BETWEEN: Duration = Duration::from_secs(1);

/// A file that updates are put into, one in the place of the other.
#[derive(Debug, Clone)]
pub struct FileFeed {
    path: PathBuf,
    between: Duration,
}

impl FileFeed {
    /// This file; it need not be there yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), between: BETWEEN }
    }

    /// Looks at it this often.
    #[must_use]
    pub fn every(mut self, between: Duration) -> Self {
        self.between = between;
        self
    }

    /// Delivers what stands in the file, now and whenever it changes. Never ends; may be dropped at any time.
    pub async fn run(self, updates: Updates) {
        let mut ticks = time::interval(self.between);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            ticks.tick().await;
            let (path, updates) = (self.path.clone(), updates.clone());
            // A thread of its own: a disk may be slow, and keeping an update waits for it.
            seen = task::spawn_blocking(move || look(&path, seen, &updates)).await.ok().flatten();
        }
    }
}

/// Delivers the file if it is another than the one that was seen; gives which one it is.
fn look(path: &PathBuf, seen: Option<kept::Stamp>, updates: &Updates) -> Option<kept::Stamp> {
    let stamp = match kept::stamp(path) {
        Ok(Some(stamp)) if Some(stamp) != seen => stamp,
        Ok(stamp) => return stamp,
        Err(error) => {
            tracing::warn!(%error, "the file of updates cannot be looked at");
            return seen;
        }
    };
    let mut bytes = Vec::new();
    let limit = LIMIT as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    if let Err(error) = read {
        tracing::warn!(path = %path.display(), %error, "the file of updates cannot be read");
        return Some(stamp);
    }
    let before = updates.status().last_refusal;
    match updates.accept(&bytes) {
        Ok(Outcome::Applied { changed, .. }) => {
            let changed: Vec<_> = changed.iter().map(ToString::to_string).collect();
            let epoch = updates.status().head.map(|head| head.epoch);
            tracing::info!(path = %path.display(), config_epoch = epoch, ?changed, "an update is in effect");
        }
        Ok(Outcome::Current) => {}
        Err(error) => {
            // Once for each reason. The one in effect stays.
            if before.is_none_or(|(_, text)| text != error.to_string()) {
                tracing::warn!(path = %path.display(), %error, "an update is not in effect");
            }
            // What is good and could not be kept is tried again: a full disk may have room later.
            if !matches!(error, UpdatesError::Refused(_)) {
                return seen;
            }
        }
    }
    Some(stamp)
}
