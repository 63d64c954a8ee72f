//! What has to be done to the files of one log, and the doing but for the runtime's part. Blocks.
//!
//! ```text
//!            too long                       the runtime reopened it
//!   whole ─────────────► two names ────────────────────────────────► whole, one rotated file more
//!     ▲   second name       │ the container ended: the second name goes
//!     └─────────────────────┘
//! ```
//!
//! "Two names" is seen on the disk itself (both are the same inode): whoever finds it, also an agent that was started
//! anew, goes on from there.
//!
//! Rotated files are numbered, not dated: a device's clock may jump. They are not compressed: `kubectl logs` reads
//! them, `--tail` from the end; and on flash each byte would be written a second time.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::chain::{self, Inode, inode};

/// How long logs may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// A file is rotated at so many bytes. A kubelet's `containerLogMaxSize`.
    pub max_bytes: u64,
    /// Files of one log, the current one included; at least 2. A kubelet's `containerLogMaxFiles`.
    pub max_files: u32,
}

impl LogLimits {
    /// A kubelet's: 50 MiB for each instance of a container.
    pub const DEFAULT: Self = Self { max_bytes: 10 * 1024 * 1024, max_files: 5 };
}

/// The files of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Which the current one is, and its length.
    pub(super) current: Option<(Inode, u64)>,
    /// Numbers of the rotated ones, oldest first.
    pub(super) rotated: Vec<(u64, Inode)>,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Rest,
    /// Remove these, give the current file this number, and have it reopened.
    Begin { remove: Vec<u64>, number: u64 },
    /// It has its number: have it reopened.
    Finish,
    /// It has a number that it will not need: nobody writes to it any more.
    Undo { number: u64 },
}

/// Decides. Pure.
pub(super) fn step(files: &Files, ended: bool, limits: LogLimits) -> Step {
    let Some((current, length)) = files.current else { return Step::Rest };
    match files.rotated.last() {
        Some((number, inode)) if *inode == current => {
            return if ended { Step::Undo { number: *number } } else { Step::Finish };
        }
        _ => {}
    }
    if ended || length < limits.max_bytes {
        return Step::Rest;
    }
    // The current file becomes a rotated one, and a new one comes.
    let kept = usize::try_from(limits.max_files).unwrap_or(usize::MAX).saturating_sub(2);
    let excess = files.rotated.len().saturating_sub(kept);
    Step::Begin {
        remove: files.rotated.iter().take(excess).map(|(number, _)| *number).collect(),
        number: files.rotated.last().map_or(1, |(number, _)| number + 1),
    }
}

/// Looks at the disk.
pub(super) fn look(current: &Path) -> io::Result<Files> {
    let at = |path: &Path| match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some),
    };
    let Some(metadata) = at(current)? else { return Ok(Files::default()) };
    let mut files = Files { current: Some((inode(&metadata), metadata.len())), rotated: Vec::new() };
    for path in chain::rotated(current)? {
        if let (Some(number), Some(metadata)) = (number_of(&path), at(&path)?) {
            files.rotated.push((number, inode(&metadata)));
        }
    }
    Ok(files)
}

/// Does what is to be done without the runtime.
pub(super) fn take(current: &Path, step: &Step) -> io::Result<()> {
    match step {
        Step::Rest | Step::Finish => Ok(()),
        Step::Undo { number } => remove(&numbered(current, *number)),
        Step::Begin { remove: old, number } => {
            // First, since they may be what fills the disk.
            for number in old {
                remove(&numbered(current, *number))?;
            }
            fs::hard_link(current, numbered(current, *number))
        }
    }
}

/// Removes the oldest rotated file that is not the current one, for room; whether there was one.
pub(super) fn make_room(current: &Path) -> io::Result<bool> {
    let files = look(current)?;
    let is_current = |inode: Inode| files.current.is_some_and(|(current, _)| current == inode);
    match files.rotated.iter().find(|(_, inode)| !is_current(*inode)) {
        Some((number, _)) => remove(&numbered(current, *number)).map(|()| true),
        None => Ok(false),
    }
}

/// Digits of a number in a name, so that names sort as numbers.
const WIDTH: usize = 10;

fn numbered(current: &Path, number: u64) -> PathBuf {
    let mut path = current.as_os_str().to_owned();
    path.push(format!(".{number:0width$}", width = WIDTH));
    PathBuf::from(path)
}

fn number_of(path: &Path) -> Option<u64> {
    let digits = path.extension()?.to_str().filter(|digits| digits.len() == WIDTH)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMITS: LogLimits = LogLimits { max_bytes: 100, max_files: 3 };

    fn files(length: u64, rotated: &[u64]) -> Files {
        Files {
            current: Some(((1, 0), length)),
            rotated: rotated.iter().map(|number| (*number, (1, *number))).collect(),
        }
    }

    #[test]
    fn a_log_rests_until_it_is_too_long() {
        assert_eq!(step(&files(99, &[]), false, LIMITS), Step::Rest);
        assert_eq!(step(&files(100, &[]), false, LIMITS), Step::Begin { remove: vec![], number: 1 });
        assert_eq!(step(&files(100, &[]), true, LIMITS), Step::Rest, "nobody writes to it any more");
        assert_eq!(step(&Files::default(), false, LIMITS), Step::Rest);
    }

    #[test]
    fn no_more_files_stay_than_allowed_and_numbers_go_on() {
        let begin = |remove: &[u64], number| Step::Begin { remove: remove.to_vec(), number };
        assert_eq!(step(&files(100, &[7]), false, LIMITS), begin(&[], 8));
        assert_eq!(step(&files(100, &[7, 8]), false, LIMITS), begin(&[7], 9));
        // The limit was lowered.
        assert_eq!(step(&files(100, &[5, 6, 7, 8]), false, LIMITS), begin(&[5, 6, 7], 9));
        let two = LogLimits { max_files: 2, ..LIMITS };
        assert_eq!(step(&files(100, &[8]), false, two), begin(&[8], 9));
    }

    #[test]
    fn a_rotation_that_was_begun_is_finished_or_undone() {
        let begun = Files { current: Some(((1, 4), 100)), rotated: vec![(3, (1, 3)), (4, (1, 4))] };
        assert_eq!(step(&begun, false, LIMITS), Step::Finish);
        assert_eq!(step(&begun, true, LIMITS), Step::Undo { number: 4 });
    }

    #[test]
    fn what_is_done_to_the_disk_is_seen_there() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join("0.log");
        assert_eq!(look(&current).unwrap(), Files::default());
        fs::write(&current, "x").unwrap();
        // Of conmon, of another instance, of somebody else.
        for other in ["0.log.tmp", "1.log.0000000009", "0.log.20261121-100000", "0.log.+000000001"] {
            fs::write(folder.path().join(other), "").unwrap();
        }
        take(&current, &Step::Begin { remove: vec![1], number: 2 }).unwrap();
        let seen = look(&current).unwrap();
        let (inode, length) = seen.current.unwrap();
        assert_eq!((length, &seen.rotated[..]), (1, &[(2, inode)][..]));
        assert!(!make_room(&current).unwrap(), "the current file is not there for room");
        take(&current, &Step::Undo { number: 2 }).unwrap();
        assert!(look(&current).unwrap().rotated.is_empty());
        assert_eq!(fs::read_to_string(&current).unwrap(), "x");
        fs::write(numbered(&current, 1), "").unwrap();
        assert!(make_room(&current).unwrap());
        assert!(look(&current).unwrap().rotated.is_empty());
    }
}
