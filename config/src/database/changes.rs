//! Who is told that an item changed, whichever process wrote it.
//!
//! The kernel tells of writes to the database's files (inotify), so nothing runs while nothing changes: asking SQLite
//! for its `data_version` every second would wake a small device 86 400 times a day for settings that change once a
//! week. A write wakes one thread; what changes often does so twenty times a second at most. Only where the system has
//! no more watches to give is it asked every two seconds.

use std::{
    ffi::OsString,
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::stream::{self, BoxStream, StreamExt as _};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::watch;

use super::{Database, connection::beside, items};
use crate::key::Key;

const BETWEEN_WRITES: Duration = Duration::from_millis(50);
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

type Changed = Arc<watch::Sender<u64>>;

/// Looks at the files until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    /// With its watch: to remove it wakes the thread.
    inotify: Option<(Arc<OwnedFd>, i32)>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some((inotify, watch)) = &self.inotify {
            // It fails if the folder went, which the thread notices by itself.
            let _ = inotify::remove_watch(inotify, *watch);
        }
    }
}

impl Watcher {
    fn start(path: &Path, changed: Changed) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let inotify = match watched(folder) {
            Ok((inotify, watch)) => Some((Arc::new(inotify), watch)),
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "changes of settings are looked for, not told");
                None
            }
        };
        let thread = std::thread::Builder::new().name("settings-watch".to_owned());
        let stopped = Arc::clone(&stop);
        match &inotify {
            Some((inotify, _)) => {
                let (inotify, folder) = (Arc::clone(inotify), folder.to_owned());
                let names = [path.to_owned(), beside(path, "-wal")];
                let names = names.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
                thread.spawn(move || told(&inotify, &folder, names, &changed, &stopped))?;
            }
            None => {
                thread.spawn(move || looked(&changed, &stopped))?;
            }
        }
        Ok(Self { stop, inotify })
    }
}

fn watched(folder: &Path) -> io::Result<(OwnedFd, i32)> {
    let inotify = inotify::init(CreateFlags::CLOEXEC)?;
    let watch = watch(&inotify, folder)?;
    Ok((inotify, watch))
}

fn watch(inotify: &OwnedFd, folder: &Path) -> io::Result<i32> {
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    Ok(inotify::add_watch(inotify, folder, flags)?)
}

/// Reports writes to the files of these names.
fn told(inotify: &OwnedFd, folder: &Path, names: Vec<OsString>, changed: &Changed, stop: &AtomicBool) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify, &mut buffer);
    while !stop.load(Ordering::Acquire) {
        let (mut is_ours, mut is_gone) = (false, false);
        loop {
            match events.next() {
                Ok(event) => {
                    let flags = event.events();
                    is_gone |= flags.contains(ReadFlags::IGNORED);
                    is_ours |= flags.contains(ReadFlags::QUEUE_OVERFLOW)
                        || event
                            .file_name()
                            .is_some_and(|name| names.iter().any(|ours| ours.as_bytes() == name.to_bytes()));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "changes of settings are looked for, not told");
                    return looked(changed, stop);
                }
            }
            if events.is_buffer_empty() {
                break;
            }
        }
        // The folder was removed, with all that was in it; it may come back.
        while is_gone && !stop.load(Ordering::Acquire) {
            is_ours = true;
            changed.send_modify(|count| *count = count.wrapping_add(1));
            match watch(inotify, folder) {
                Ok(_) => is_gone = false,
                Err(_) => std::thread::sleep(BETWEEN_LOOKS),
            }
        }
        if is_ours {
            changed.send_modify(|count| *count = count.wrapping_add(1));
            // Until then the kernel keeps what comes, and says it once.
            std::thread::sleep(BETWEEN_WRITES);
        }
    }
}

fn looked(changed: &Changed, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        changed.send_modify(|count| *count = count.wrapping_add(1));
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// One who wants to know of an item.
struct Listener {
    database: Database,
    key: Key,
    changed: watch::Receiver<u64>,
    seen: Option<u64>,
}

impl Listener {
    /// The next change; also when it cannot be said whether there was one, and the reader should look himself.
    async fn next(mut self) -> Option<((), Self)> {
        loop {
            self.changed.changed().await.ok()?;
            let (service, key) = (self.database.service().to_owned(), self.key.clone());
            let look = self
                .database
                .reader
                .run(move |opened, place| opened.read(place, |view| items::revision(view, &service, &key)));
            let revision = look.await.ok();
            if revision.is_none() || revision != self.seen {
                self.seen = revision;
                return Some(((), self));
            }
        }
    }
}

impl Database {
    /// Ticks after every change of this item since now, by whichever process. May tick once too often.
    #[must_use]
    pub fn changes_of(&self, key: &Key) -> BoxStream<'static, ()> {
        let mut watcher = self.shared.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if watcher.is_none() {
            match Watcher::start(self.path(), Arc::clone(&self.shared.changed)) {
                Ok(started) => *watcher = Some(started),
                Err(error) => {
                    tracing::warn!(%error, "only this process' own changes of settings are noticed")
                }
            }
        }
        drop(watcher);
        let changed = self.shared.changed.subscribe();
        let listener = Listener { database: self.clone(), key: key.clone(), changed, seen: None };
        stream::unfold(listener, Listener::next).boxed()
    }
}
