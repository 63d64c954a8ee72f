//! The files of one log: what was rotated away, oldest first, and the current one.

use std::{
    fs::File,
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
        let metadata = file.metadata()?;
        Ok(Self { inode: (metadata.dev(), metadata.ino()), file })
    }
}

/// All files of the log that exist now, the current one last.
pub(super) fn files(current: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for path in rotated(current)? {
        match LogFile::open(&path) {
            Ok(file) => files.push(file),
            // Cleaned up meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    files.push(LogFile::open(current)?);
    Ok(files)
}

/// The file that follows the one of this inode. `None` if it is the current one, or there is none.
pub(super) fn after(current: &Path, inode: Inode) -> io::Result<Option<LogFile>> {
    let files = match files(current) {
        Ok(files) => files,
        // Between rename and reopen there is no current file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let next = match files.iter().position(|file| file.inode == inode) {
        Some(position) => position + 1,
        // Renamed over: only the current one can come after it.
        None => files.len() - 1,
    };
    Ok(files.into_iter().nth(next))
}

/// `<name>.<suffix>` beside the current file, without the temporary file of conmon and compressed ones. A kubelet's
/// suffix is a time, so the order of names is the order of ages.
fn rotated(current: &Path) -> io::Result<Vec<PathBuf>> {
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
