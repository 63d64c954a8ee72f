//! Has conmon, a container's monitor, go on with the log in a new file.
//!
//! conmon reads requests from a fifo, `ctl`, beside the container's configuration. Asked to reopen the log, it makes
//! `<log>.tmp`, and renames it over the log (conmon 2.0 to 2.2). If it cannot make that file, it *exits*, and
//! the container is left without a monitor: so the file is made here first, and a full or read-only
//! disk shows here.
//!
//! A request twice would replace a file that has lines already. What is in the fifo tells whether the last one was
//! read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{fs::OFlags, io::Errno};
use tokio::time::Instant;

use crate::runtime::inotify::{DirectoryWatch, Interest};

/// conmon's word for it, with a window size that it does not look at.
const REOPEN: &[u8] = b"2 0 0\n";
/// conmon answers in milliseconds, unless the disk stalls.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether there still is a monitor, while it does not answer.
const GLANCE: Duration = Duration::from_millis(250);

/// Returns when the log is a new file.
pub(super) async fn reopen(ctl: &Path, log: &Path) -> io::Result<()> {
    let folder = log.parent().ok_or_else(|| io::Error::other("the log has no folder"))?;
    let mut changes = DirectoryWatch::new(folder, Interest::Completed)?;
    let before = inode(log)?;
    let (fifo, path) = (ctl.to_owned(), log.to_owned());
    tokio::task::spawn_blocking(move || request(open(&fifo)?, &path)).await.map_err(io::Error::other)??;
    let until = Instant::now() + PATIENCE;
    while inode(log)? == before {
        match tokio::time::timeout(GLANCE, changes.next()).await {
            Ok(changes) => {
                changes?;
            }
            // Its container ended before it came to the request; Podman has cleaned up.
            Err(_) if !ctl.exists() => {
                remove_fresh(log);
                return Err(ended());
            }
            Err(_) if Instant::now() >= until => {
                let message = format!("its monitor did not reopen it within {} s", PATIENCE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn request(mut ctl: File, log: &Path) -> io::Result<()> {
    if rustix::io::ioctl_fionread(&ctl)? > 0 {
        // conmon has not come to the last request yet.
        return Ok(());
    }
    // The permissions that conmon gives it.
    OpenOptions::new().create(true).append(true).mode(0o600).open(fresh(log))?;
    ctl.write_all(REOPEN).map_err(|error| {
        remove_fresh(log);
        // The container ended since the fifo was opened.
        if error.kind() == io::ErrorKind::BrokenPipe { ended() } else { error }
    })
}

/// Never waits for a reader: without one, the container has ended.
fn open(ctl: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = match OpenOptions::new().write(true).custom_flags(flags).open(ctl) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ended()),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => return Err(ended()),
        opened => opened?,
    };
    if file.metadata()?.file_type().is_fifo() {
        Ok(file)
    } else {
        Err(io::Error::other(format!("{} is not a fifo", ctl.display())))
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the container does not run")
}

fn remove_fresh(log: &Path) {
    // Empty, and in nobody's way: it goes with the log at the latest.
    let _ = fs::remove_file(fresh(log));
}

fn fresh(log: &Path) -> PathBuf {
    let mut path = log.as_os_str().to_owned();
    path.push(".tmp");
    PathBuf::from(path)
}

fn inode(log: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(log)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read as _;

    use super::*;

    struct Place {
        folder: tempfile::TempDir,
        ctl: PathBuf,
        log: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (ctl, log) = (folder.path().join("ctl"), folder.path().join("0.log"));
            let made = std::process::Command::new("mkfifo").arg(&ctl).status().unwrap();
            assert!(made.success());
            fs::write(&log, "old").unwrap();
            Self { folder, ctl, log }
        }

        /// Opened as conmon does.
        fn monitor(&self) -> File {
            OpenOptions::new().read(true).write(true).custom_flags(0o4000).open(&self.ctl).unwrap()
        }
    }

    #[tokio::test]
    async fn a_fifo_without_a_reader_is_a_container_that_ended() {
        let place = Place::new();
        let error = reopen(&place.ctl, &place.log).await.unwrap_err();
        assert_eq!(error.to_string(), "the container does not run");
        let error = reopen(Path::new("/does/not/exist/ctl"), &place.log).await.unwrap_err();
        assert_eq!(error.to_string(), "the container does not run");
        assert!(!fresh(&place.log).exists());
        let error = reopen(&place.log, &place.log).await.unwrap_err();
        assert!(error.to_string().contains("is not a fifo"), "{error}");
        assert_eq!(fs::read_to_string(&place.log).unwrap(), "old");
    }

    #[test]
    fn a_monitor_that_goes_away_before_it_is_asked_is_a_container_that_ended() {
        let place = Place::new();
        let monitor = place.monitor();
        let ctl = open(&place.ctl).unwrap();
        drop(monitor);
        assert_eq!(request(ctl, &place.log).unwrap_err().to_string(), "the container does not run");
        assert!(!fresh(&place.log).exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_does_not_answer_is_asked_once() {
        let place = Place::new();
        let mut monitor = place.monitor();
        for _ in 0..2 {
            let error = reopen(&place.ctl, &place.log).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
        let mut asked = [0; 64];
        let length = monitor.read(&mut asked).unwrap();
        assert_eq!(&asked[..length], REOPEN);
        // It comes to it at last.
        fs::rename(fresh(&place.log), &place.log).unwrap();
        assert_eq!(fs::read_to_string(&place.log).unwrap(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_goes_away_without_an_answer_is_not_waited_for() {
        let place = Place::new();
        let monitor = place.monitor();
        let reopening = reopen(&place.ctl, &place.log);
        let going = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(monitor);
            fs::remove_file(&place.ctl).unwrap();
        };
        let (refused, ()) = tokio::join!(reopening, going);
        assert_eq!(refused.unwrap_err().to_string(), "the container does not run");
        assert!(!fresh(&place.log).exists());
        assert_eq!(fs::read_to_string(&place.log).unwrap(), "old");
    }

    #[tokio::test]
    async fn a_disk_that_takes_no_file_is_found_before_the_monitor_is_asked() {
        let place = Place::new();
        let mut monitor = place.monitor();
        // Stands where the file should be: for root, no permission would.
        fs::create_dir(fresh(&place.log)).unwrap();
        reopen(&place.ctl, &place.log).await.unwrap_err();
        let error = monitor.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(place.folder);
    }
}
