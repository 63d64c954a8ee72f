//! The files of one log: what was rotated away, oldest first, and the current one.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Which file on disk it is, whatever its name.
pub(super) type Inode = (u64, u64);

/// One file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) file: File,
    pub(super) inode: Inode,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self { inode: inode(&file.metadata()?), file })
    }
}

pub(super) fn inode(metadata: &Metadata) -> Inode {
    (metadata.dev(), metadata.ino())
}

/// All files of the log that exist now, the current one last.
pub(super) fn files(current: &Path) -> io::Result<Vec<LogFile>> {
    // The current file comes first: were it opened last, one that is rotated away in between would be missed. So
    // it may stand among the rotated ones by now, and is met again there; what came after it is found by `after`.
    let current_file = existing(LogFile::open(current))?;
    let mut files = Vec::new();
    for path in rotated(current)? {
        // `None`: cleaned up meanwhile.
        if let Some(file) = existing(LogFile::open(&path))? {
            files.push(file);
        }
    }
    if let Some(file) = current_file
        && !files.iter().any(|rotated| rotated.inode == file.inode)
    {
        files.push(file);
    }
    if files.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(files) }
}

/// The file that follows the one of this inode. `None` if it is the current one, or there is none.
pub(super) fn after(current: &Path, inode: Inode) -> io::Result<Option<LogFile>> {
    let Some(files) = existing(files(current))? else { return Ok(None) };
    let next = match files.iter().position(|file| file.inode == inode) {
        Some(position) => position + 1,
        // Removed as the oldest, or renamed over: all that is left came after it.
        None => 0,
    };
    Ok(files.into_iter().nth(next))
}

fn existing<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// `<name>.<suffix>` beside the current file, oldest first, without the temporary file of conmon and compressed ones.
/// The suffix is a number of fixed width ([`super::rotation`]) or, from others, a time: the order of names is the
/// order of ages.
pub(super) fn rotated(current: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (current.parent(), current.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let mut rotated = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let suffix = path
            .file_name()
            .and_then(|other| other.to_str())
            .and_then(|other| other.strip_prefix(name)?.strip_prefix('.'));
        if suffix.is_some_and(|suffix| suffix != "tmp" && !suffix.ends_with("gz")) {
            rotated.push(path);
        }
    }
    rotated.sort();
    Ok(rotated)
}
