//! From the files of a log to the bytes that are shown. Synchronous.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;

use super::{
    LogOptions,
    chain::{self, LogFile},
    line::{LONGEST, Line},
    tail,
};

const BLOCK: usize = 32 * 1024;

/// What a read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// This is shown next.
    Bytes(Bytes),
    /// All that is written was read.
    Caught,
    /// Nothing more will be shown, whatever is written.
    End,
}

/// A log being read.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    current: LogFile,
    /// Known to come after the current one, which had not all been read when it was found.
    next: VecDeque<LogFile>,
    /// Read and not yet shown: the beginning of a line.
    raw: Vec<u8>,
    /// A line that is too long is passed over up to its end.
    passing: bool,
    /// Shown and not yet taken.
    ready: BytesMut,
    /// The next line begins a line of the program.
    begins: bool,
    /// Bytes that may still be shown.
    remaining: u64,
    timestamps: bool,
    since: Option<Timestamp>,
}

impl Source {
    pub(super) fn open(path: PathBuf, options: &LogOptions) -> io::Result<Self> {
        let mut files: VecDeque<_> = {
            let mut files = chain::files(&path)?;
            if let Some(lines) = options.tail_lines {
                let (index, offset) = tail::start(&files, lines)?;
                files.drain(..index);
                files[0].file.seek(SeekFrom::Start(offset))?;
            }
            files.into()
        };
        let current = files.pop_front().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            path,
            current,
            next: files,
            raw: Vec::new(),
            passing: false,
            ready: BytesMut::new(),
            begins: true,
            remaining: options.limit_bytes.unwrap_or(u64::MAX),
            timestamps: options.timestamps,
            since: options.since,
        })
    }

    /// At most `max` bytes.
    pub(super) fn read(&mut self, max: usize) -> io::Result<Progress> {
        let mut block = vec![0; BLOCK];
        loop {
            if self.ready.len() >= max {
                return Ok(Progress::Bytes(self.ready.split_to(max).freeze()));
            }
            let read = if self.remaining == 0 { 0 } else { self.current.file.read(&mut block)? };
            if read > 0 {
                self.take(&block[..read]);
            } else if !self.ready.is_empty() {
                return Ok(Progress::Bytes(self.ready.split().freeze()));
            } else if self.remaining == 0 {
                return Ok(Progress::End);
            } else if !self.go_on()? {
                return Ok(Progress::Caught);
            }
        }
    }

    /// Whether there is more to read than the current file had a moment ago.
    fn go_on(&mut self) -> io::Result<bool> {
        if let Some(next) = self.next.pop_front() {
            // A torn line at the end of a file will never be whole.
            self.raw.clear();
            self.passing = false;
            self.current = next;
            return Ok(true);
        }
        match chain::after(&self.path, self.current.inode)? {
            // Something may have been written between our last read and the rotation: the current file is
            // read to its end once more, now that nobody writes to it.
            Some(next) => {
                self.next.push_back(next);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn take(&mut self, mut block: &[u8]) {
        while let Some(end) = block.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&block[..end], &block[end + 1..]);
            if std::mem::take(&mut self.passing) {
                self.raw.clear();
            } else if self.raw.is_empty() {
                self.show(line);
            } else {
                let mut whole = std::mem::take(&mut self.raw);
                whole.extend_from_slice(line);
                self.show(&whole);
                whole.clear();
                self.raw = whole;
            }
            block = rest;
        }
        if self.raw.len() + block.len() > LONGEST {
            self.passing = true;
            self.raw.clear();
        }
        if !self.passing {
            self.raw.extend_from_slice(block);
        }
    }

    fn show(&mut self, line: &[u8]) {
        let Some(line) = Line::parse(line) else { return };
        let time = if self.timestamps || self.since.is_some() {
            // Without a time it is not a line that the runtime wrote.
            let Some(time) = line.time() else { return };
            Some(time)
        } else {
            None
        };
        if self.since.zip(time).is_some_and(|(since, time)| time < since) {
            return;
        }
        let before = self.ready.len();
        line.show(time.filter(|_| self.timestamps && self.begins), &mut self.ready);
        self.begins = line.full;
        let shown = (self.ready.len() - before) as u64;
        if shown > self.remaining {
            let cut = usize::try_from(self.remaining).unwrap_or(usize::MAX);
            self.ready.truncate(before.saturating_add(cut));
        }
        self.remaining = self.remaining.saturating_sub(shown);
    }
}
