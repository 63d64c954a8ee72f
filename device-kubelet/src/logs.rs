//! Logs of containers: read for `kubectl logs`, from the files to the bytes that are shown; and kept from growing.
//!
//! The files are in the CRI format and are written by the runtime; their content is never changed here. A reader keeps
//! one block in memory, whatever the log's length. While it follows, it sleeps until the kernel tells of a
//! write, a rotation, or the container's end.
//!
//! ```text
//! logs.rs     when to read on, when to end              (async)
//!  ├ line     a line of the CRI format                  (pure)
//!  ├ chain    the files of one log: rotated, current    (which comes after which)
//!  ├ tail     where the last lines begin                (backwards, in blocks)
//!  ├ source   lines to shown bytes, limits, time stamps (synchronous)
//!  ├ rotation what has to be done to the files          (decision: pure)
//!  └ rotator  when to look, and the doing               (one task)
//! ```
//!
//! # Rotation
//! The agent's own ([`rotator`]) gives the current file a second name, `<name>.<number>`, and has the runtime go on in
//! a new file, which replaces the first name in one step: there is a current file at each moment, and nothing is lost
//! or shown twice, whenever the agent, the container or the device ends in between.
//!
//! conmon's own (`--log-size-max`) opens a new file and renames it over the old one, whose content is gone for
//! everybody who does not hold it open: a follower does, reads it to its end, and goes on with the new one. A
//! rotation as a kubelet does it (rename to `<name>.<time>`, then have the runtime reopen) is read in order, too.

mod chain;
mod line;
mod rotation;
pub mod rotator;
mod source;
mod tail;

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::watch;

use self::source::{Progress, Source};
use crate::runtime::inotify::{Change, DirectoryWatch, Interest};

/// What of a log is shown, and how. As in `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what is written, until the container has ended.
    pub follow: bool,
    /// At most so many lines from the end. A line that was written in parts is one.
    pub tail_lines: Option<u64>,
    /// Nothing older than this.
    pub since: Option<Timestamp>,
    /// At most so many bytes, time stamps included; the last line may be cut.
    pub limit_bytes: Option<u64>,
    /// Each line begins with its time, in UTC with nine decimals.
    pub timestamps: bool,
}

/// Bytes of a chunk of [`stream()`].
pub const CHUNK: usize = 32 * 1024;

/// A log being read.
#[derive(Debug)]
pub struct LogReader {
    // `None` only while a blocking read has it.
    source: Option<Source>,
    path: PathBuf,
    follow: Option<Follow>,
}

#[derive(Debug)]
struct Follow {
    watch: DirectoryWatch,
    ended: watch::Receiver<bool>,
    /// Nothing more will be written.
    over: bool,
}

impl LogReader {
    /// Opens the log of which `path` is the current file. `ended` turns true when nothing more will be written; it
    /// counts only when the log is followed.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no file.
    pub async fn open(path: PathBuf, options: LogOptions, ended: watch::Receiver<bool>) -> io::Result<Self> {
        let follow = match path.parent() {
            // Before anything is read, so that no write is missed.
            Some(folder) if options.follow => {
                let watch = DirectoryWatch::new(folder, Interest::Written)?;
                Some(Follow { watch, ended, over: false })
            }
            _ => None,
        };
        let of = path.clone();
        let source = blocking(move || Source::open(of, &options)).await?;
        Ok(Self { source: Some(source), path, follow })
    }

    /// The next bytes, at most `max` (at least one) of them; `None` when all was read and, if it is followed, the
    /// container has ended. Cancelling it ends the reader.
    pub async fn next_chunk(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        loop {
            // Looked at before reading: what a container wrote before it ended is in the file by then.
            let ended = self.follow.as_ref().is_none_or(|follow| follow.over || *follow.ended.borrow());
            let Some(mut source) = self.source.take() else { return Ok(None) };
            let (source, progress) = blocking(move || {
                let progress = source.read(max.max(1))?;
                Ok((source, progress))
            })
            .await?;
            match progress {
                Progress::Bytes(bytes) => {
                    self.source = Some(source);
                    return Ok(Some(bytes));
                }
                Progress::End => return Ok(None),
                Progress::Caught if ended => return Ok(None),
                Progress::Caught => self.source = Some(source),
            }
            if let Some(follow) = &mut self.follow {
                follow.wait(&self.path).await?;
            }
        }
    }
}

impl Follow {
    /// Until the log of `path` may have grown, or nothing more will be written.
    async fn wait(&mut self, path: &Path) -> io::Result<()> {
        loop {
            let changes = tokio::select! {
                // Its owner gone means the same: nobody will tell of an end any more.
                _ = self.ended.wait_for(|ended| *ended) => {
                    self.over = true;
                    return Ok(());
                }
                changes = self.watch.next() => changes?,
            };
            // The pod is being removed.
            self.over |= changes.contains(&Change::Gone);
            let concerns = |change: &Change| match change {
                Change::File(name) => path.file_name() == Some(name),
                Change::Overflow | Change::Gone => true,
            };
            if changes.iter().any(concerns) {
                return Ok(());
            }
        }
    }
}

/// The log as a stream of chunks; reads no further than it is polled.
pub fn stream(
    path: PathBuf,
    options: LogOptions,
    ended: watch::Receiver<bool>,
) -> BoxStream<'static, io::Result<Bytes>> {
    enum State {
        Closed(PathBuf, LogOptions, watch::Receiver<bool>),
        Open(LogReader),
        Done,
    }
    stream::unfold(State::Closed(path, options, ended), async |state| {
        let opened = match state {
            State::Closed(path, options, ended) => LogReader::open(path, options, ended).await,
            State::Open(reader) => Ok(reader),
            State::Done => return None,
        };
        let read = match opened {
            Ok(mut reader) => reader.next_chunk(CHUNK).await.map(|chunk| chunk.map(|chunk| (chunk, reader))),
            Err(error) => Err(error),
        };
        match read {
            Ok(Some((chunk, reader))) => Some((Ok(chunk), State::Open(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), State::Done)),
        }
    })
    .boxed()
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

#[cfg(test)]
#[path = "logs/tests.rs"]
mod tests;
