//! Changes of files, as the kernel tells them; nothing runs while nothing changes.

use std::{
    ffi::OsString,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::Path,
};

use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A file in the directory was written to, made or renamed to this name.
    File(OsString),
    /// The kernel dropped some changes.
    Overflow,
    /// The directory went away; nothing more comes.
    Gone,
}

/// Which changes of files are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// A file was renamed to its name, or closed after writing: it is complete.
    Completed,
    /// Every write, too.
    Written,
}

/// A watch on a directory.
#[derive(Debug)]
pub(crate) struct DirectoryWatch {
    inotify: AsyncFd<OwnedFd>,
}

impl DirectoryWatch {
    /// The kernel keeps what happens from here on.
    pub(crate) fn new(dir: &Path, interest: Interest) -> std::io::Result<Self> {
        use inotify::WatchFlags as Flags;
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        let completed = Flags::MOVED_TO | Flags::CLOSE_WRITE | Flags::ONLYDIR;
        let flags = match interest {
            Interest::Completed => completed,
            Interest::Written => completed | Flags::MODIFY | Flags::CREATE,
        };
        inotify::add_watch(&fd, dir, flags)?;
        Ok(Self { inotify: register(fd)? })
    }

    /// Waits for the next changes, each told once. May be cancelled without loss.
    pub(crate) async fn next(&mut self) -> std::io::Result<Vec<Change>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let changes = read(self.inotify.get_ref())?;
            if changes.is_empty() {
                ready.clear_ready();
            } else {
                return Ok(changes);
            }
        }
    }
}

/// Tells that files are written to, not how often: each has to be armed again, so that who writes much wakes nobody
/// more often than he asks for.
#[derive(Debug)]
pub(crate) struct FirstWrites {
    inotify: AsyncFd<OwnedFd>,
}

impl FirstWrites {
    pub(crate) fn new() -> std::io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        Ok(Self { inotify: register(fd)? })
    }

    /// The next write to this file, from here on, is told.
    pub(crate) fn arm(&self, file: &Path) -> std::io::Result<()> {
        use inotify::WatchFlags as Flags;
        inotify::add_watch(self.inotify.get_ref(), file, Flags::MODIFY | Flags::ONESHOT)?;
        Ok(())
    }

    /// Waits for a write to any armed file. May be cancelled without loss.
    pub(crate) async fn next(&self) -> std::io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            // The kernel ends a watch that has told its one event, and says so.
            if !read(self.inotify.get_ref())?.is_empty() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

#[expect(
    deprecated,
    reason = "unsound only for types whose descriptor changes, which OwnedFd's does not; its successor is an unsafe fn"
)]
fn register(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

fn read(fd: &OwnedFd) -> std::io::Result<Vec<Change>> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut changes = Vec::new();
    let mut read_any = false;
    // Stops at the end of one read, so that a flood cannot hold us here.
    while !(read_any && reader.is_buffer_empty()) {
        match reader.next() {
            Ok(event) => {
                read_any = true;
                let change = if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                    Some(Change::Overflow)
                } else if event.events().contains(inotify::ReadFlags::IGNORED) {
                    Some(Change::Gone)
                } else {
                    event.file_name().map(|name| Change::File(OsString::from_vec(name.to_bytes().to_vec())))
                };
                if let Some(change) = change.filter(|change| !changes.contains(change)) {
                    changes.push(change);
                }
            }
            Err(rustix::io::Errno::AGAIN) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_many_writes_only_the_first_wakes_until_it_is_armed_again() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        std::fs::write(&one, "").unwrap();
        std::fs::write(&two, "").unwrap();
        let writes = FirstWrites::new().unwrap();
        writes.arm(&one).unwrap();
        writes.arm(&two).unwrap();
        assert_eq!(writes.arm(&folder.path().join("3")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
        let quiet = async || tokio::time::timeout(Duration::from_secs(3600), writes.next()).await.is_err();
        assert!(quiet().await);
        std::fs::write(&one, "a").unwrap();
        writes.next().await.unwrap();
        std::fs::write(&one, "b").unwrap();
        assert!(quiet().await);
        std::fs::write(&two, "a").unwrap();
        writes.next().await.unwrap();
        assert!(quiet().await);
        writes.arm(&one).unwrap();
        std::fs::write(&one, "c").unwrap();
        writes.next().await.unwrap();
    }
}
