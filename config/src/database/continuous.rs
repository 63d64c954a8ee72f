//! The continuous backup: it follows the writes on a thread of its own, with a connection of its own.
//!
//! ```text
//! write ─► committed ─► told to who wrote
//!              └─► request ─► the backup's thread ─► all lines that the folder has not
//! ```
//!
//! A folder on a disk that is slow, or on a mount that is gone, holds up that thread and nobody else: one attempt is under
//! way and one more waits, however many writes there are in between. It decides nothing about what is in a backup.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    backup::{self, BackupState},
    connection::{Opened, Place},
    thread::Thread,
};

/// How long the end of a program, or a database that is closed, waits for the backup to have everything.
pub(crate) const DRAIN: Duration = Duration::from_secs(2);

/// Asks for a backup, and waits for none.
#[derive(Debug, Clone)]
pub(crate) struct Continuous {
    thread: Thread,
    /// Whether an attempt waits that has not begun: it will find all that was written until then.
    waits: Arc<AtomicBool>,
}

impl Continuous {
    /// `None` where none is wanted.
    pub(crate) fn start(place: &Arc<Place>) -> std::io::Result<Option<Self>> {
        if place.options.backup.is_none() {
            return Ok(None);
        }
        let nobody = Arc::new(watch::Sender::new(0));
        let thread = Thread::start("settings-backup", Arc::clone(place), nobody, None)?;
        Ok(Some(Self { thread, waits: Arc::default() }))
    }

    /// Has added what is missing, some time.
    pub(crate) fn request(&self) {
        if self.waits.swap(true, Ordering::SeqCst) {
            return;
        }
        let waits = Arc::clone(&self.waits);
        let job = move |opened: &mut Opened, place: &Place| {
            // Before it looks: what is written from now on asks again.
            waits.store(false, Ordering::SeqCst);
            opened.back_up(place);
            Ok(())
        };
        let waits = Arc::clone(&self.waits);
        let sent = self.thread.submit(job, move |result| {
            if let Err(error) = result {
                // The database could not be opened, which its users say, too.
                waits.store(false, Ordering::SeqCst);
                tracing::debug!(%error, "no backup of the settings was tried");
            }
        });
        if let Err(error) = sent {
            tracing::warn!(%error, "the settings' backup has no thread any more");
        }
    }

    /// Waits until the backup has what was written before, but only for so long. Blocks.
    pub(crate) fn drain(&self, within: Duration) -> bool {
        let done = self.thread.close_within(within);
        if !done {
            tracing::warn!("the settings' backup is behind: its folder does not answer");
        }
        done
    }
}

impl Opened {
    /// Adds to the continuous backup what it has not. What is missing after a failure follows with the next attempt.
    fn back_up(&mut self, place: &Place) {
        let Some(folder) = &place.options.backup else { return };
        place.backup_state().busy_since = Some(Timestamp::now());
        let result =
            backup::keep(self, place, folder).map_err(|fault| fault.at(&folder.path, place.options.patience));
        let mut state = place.backup_state();
        match result {
            Ok(tail) => *state = BackupState { line: tail.line, error: None, busy_since: None },
            Err(error) => {
                let error = error.to_string();
                if state.error.as_ref() != Some(&error) {
                    tracing::warn!(%error, "the settings' backup is behind");
                }
                (state.error, state.busy_since) = (Some(error), None);
            }
        }
    }
}
