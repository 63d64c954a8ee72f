//! A thread that has a connection: one for reads, one for writes. Who asks it awaits the answer; no runtime's thread ever waits for a disk.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use super::{
    connection::{Opened, Place},
    continuous::{Continuous, DRAIN},
    error::{DatabaseError, Fault},
};

type Job = Box<dyn FnOnce(&mut Keeper) + Send>;

/// Sends jobs to the thread, which ends with the last of these.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

/// What the thread has.
struct Keeper {
    place: Arc<Place>,
    opened: Option<Opened>,
    changed: Arc<watch::Sender<u64>>,
    /// Is told of every change, and of every database that is opened: another process may have left something behind.
    backup: Option<Continuous>,
}

impl Thread {
    /// Starts it. The database is opened with the first job, and again when that failed or the file is another one.
    pub(crate) fn start(
        name: &str,
        place: Arc<Place>,
        changed: Arc<watch::Sender<u64>>,
        backup: Option<Continuous>,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let path = place.path.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut keeper = Keeper { place, opened: None, changed, backup };
            for job in queue {
                job(&mut keeper);
            }
        })?;
        Ok(Self { jobs, path })
    }

    /// Has a job done with the connection, after all that were sent before. Who stops waiting does not stop the job.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Opened, &Place) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (tell, told) = oneshot::channel();
        self.submit(job, |result| drop(tell.send(result)))?;
        told.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// The same, for a thread that may wait.
    pub(crate) fn run_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Opened, &Place) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (tell, told) = mpsc::channel();
        self.submit(job, move |result| drop(tell.send(result)))?;
        told.recv().unwrap_or_else(|_| Err(self.ended()))
    }

    /// Lets go of the files; the next job opens them again. The backup gets a moment to follow.
    pub(crate) async fn close(&self) -> Result<(), DatabaseError> {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |keeper| {
            keeper.opened = None;
            if let Some(backup) = &keeper.backup {
                backup.drain(DRAIN);
            }
            let _ = tell.send(());
        });
        self.jobs.send(job).map_err(|_| self.ended())?;
        told.await.map_err(|_| self.ended())
    }

    /// The same, for a thread that may wait, but only for so long; whether it was done by then.
    pub(super) fn close_within(&self, within: Duration) -> bool {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move |keeper| {
            keeper.opened = None;
            let _ = tell.send(());
        });
        self.jobs.send(job).is_ok() && told.recv_timeout(within).is_ok()
    }

    pub(super) fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Opened, &Place) -> Result<T, Fault> + Send + 'static,
        tell: impl FnOnce(Result<T, DatabaseError>) + Send + 'static,
    ) -> Result<(), DatabaseError> {
        let job: Job = Box::new(move |keeper| tell(keeper.perform(job)));
        self.jobs.send(job).map_err(|_| self.ended())
    }

    fn ended(&self) -> DatabaseError {
        DatabaseError::Ended { path: self.path.clone() }
    }
}

impl Keeper {
    fn perform<T>(
        &mut self,
        job: impl FnOnce(&mut Opened, &Place) -> Result<T, Fault>,
    ) -> Result<T, DatabaseError> {
        let place = Arc::clone(&self.place);
        let known = |fault: Fault| fault.at(&place.path, place.options.patience);
        if self.opened.as_ref().is_some_and(|opened| !opened.is_current(&place)) {
            self.opened = None;
        }
        let was_open = self.opened.is_some();
        let opened = match &mut self.opened {
            Some(opened) => opened,
            none => none.insert(place.open().map_err(known)?),
        };
        let lines = opened.connection.total_changes();
        let result = job(opened, &place).map_err(known);
        let changed = opened.connection.total_changes() != lines;
        if changed {
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
        if let Some(backup) = &self.backup
            && (changed || !was_open)
        {
            backup.request();
        }
        if matches!(result, Err(DatabaseError::Corrupt { .. } | DatabaseError::Unopened { .. })) {
            self.opened = None;
        }
        result
    }
}
