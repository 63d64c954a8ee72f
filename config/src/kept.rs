//! Files that only their owner reads: folders 0700, files 0600, replaced as a whole, and locks between processes.
//!
//! It owns how such a file gets onto the disk and off it; what stands in it is its caller's. It never follows a looser
//! mode, and never waits for a lock without end. Everything here blocks; callers run it on a thread that may.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use zeroize::Zeroizing;

/// How long another process may hold a lock. What is done under one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Why a private file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Others than the owner may read it.
    #[error(
        "others may read {}: its mode is {found:04o}, and at most {wanted:04o} is accepted. If nobody has read it, \
         `chmod {wanted:o} {}` is enough; else change what is in it, too",
        path.display(), path.display()
    )]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        found: u32,
        /// The loosest mode that is accepted.
        wanted: u32,
    },
    /// It cannot be read.
    #[error("cannot read {}: {source}. Look at who owns it and its folder", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be kept.
    #[error(
        "cannot keep {}: {source}. The folder has to be on a disk that is writable, has room, and belongs to the user \
         that runs this program",
        path.display()
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why; `StorageFull` when the disk is full.
        source: io::Error,
    },
    /// Larger than anything that this library writes there.
    #[error("{} has {size} bytes, and at most {limit} are read: it is not what this library wrote", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes.
        size: u64,
        /// Bytes.
        limit: u64,
    },
    /// Another process does not let go of it.
    #[error(
        "another process has held {} for more than {} seconds: look for one that is stopped (`fuser {}`)",
        path.display(), PATIENCE.as_secs(), path.display()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
}

/// What a file holds; wiped from memory when it is dropped.
pub(crate) type Content = Zeroizing<Vec<u8>>;

/// Which content of a file this is, without reading it: another one has another stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// The stamp; `None` if there is no file.
pub(crate) fn stamp(path: &Path) -> Result<Option<Stamp>, KeptError> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(Stamp {
            inode: found.ino(),
            size: found.size(),
            seconds: found.ctime(),
            nanoseconds: found.ctime_nsec(),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeptError::Read { path: path.to_owned(), source }),
    }
}

/// Makes the folder and those above it, unless it is there; refuses one that others may read.
pub(crate) fn folder(path: &Path) -> Result<(), KeptError> {
    if !path.is_dir() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| KeptError::Write { path: path.to_owned(), source })?;
    }
    check_folder(path)
}

/// Refuses a folder that others may read or write.
pub(crate) fn check_folder(path: &Path) -> Result<(), KeptError> {
    let found =
        fs::metadata(path).map_err(|source| KeptError::Read { path: path.to_owned(), source })?.mode()
            & 0o7777;
    if found & 0o077 != 0 {
        return Err(KeptError::Loose { path: path.to_owned(), found, wanted: 0o700 });
    }
    Ok(())
}

/// The content of a private file and its stamp; `None` if there is none.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<(Content, Stamp)>, KeptError> {
    let failed = |source| KeptError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let about = file.metadata().map_err(failed)?;
    let found = about.mode() & 0o7777;
    if found & 0o077 != 0 {
        return Err(KeptError::Loose { path: path.to_owned(), found, wanted: 0o600 });
    }
    let too_large = |size| KeptError::TooLarge { path: path.to_owned(), size, limit };
    if about.len() > limit {
        return Err(too_large(about.len()));
    }
    // One byte more than it has, so that the buffer does not grow, which would leave a copy behind.
    let capacity = usize::try_from(about.len()).unwrap_or(0).saturating_add(1);
    let mut content = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > limit {
        return Err(too_large(content.len() as u64));
    }
    let stamp = Stamp {
        inode: about.ino(),
        size: about.size(),
        seconds: about.ctime(),
        nanoseconds: about.ctime_nsec(),
    };
    Ok(Some((content, stamp)))
}

/// Replaces the file by one with this content: after a power cut there is the old one or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), KeptError> {
    let failed = |source| KeptError::Write { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    // Writers hold a lock; what a killed one left is overwritten.
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = (|| {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder_of(path)
    })();
    written.map_err(|source| {
        // On a full disk the half of a file would only make it worse.
        let _ = fs::remove_file(&beside);
        failed(source)
    })
}

/// Makes names in the file's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A lock between processes and between threads, as long as it lives. It ends with the process that holds it.
#[derive(Debug)]
pub(crate) struct Lock {
    // `None`: a disk on which nobody writes.
    _file: Option<File>,
}

impl Lock {
    /// Nobody else has it.
    pub(crate) fn alone(path: &Path) -> Result<Self, KeptError> {
        let file = open_lock(path).map_err(|source| KeptError::Write { path: path.to_owned(), source })?;
        wait(path, || file.try_lock())?;
        Ok(Self { _file: Some(file) })
    }

    /// Nobody has it alone. On a disk on which nothing can be written nobody writes, and nothing is locked.
    pub(crate) fn shared(path: &Path) -> Result<Self, KeptError> {
        let file = match open_lock(path).or_else(|_| File::open(path)) {
            Ok(file) => file,
            Err(_) => return Ok(Self { _file: None }),
        };
        wait(path, || file.try_lock_shared())?;
        Ok(Self { _file: Some(file) })
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn wait(path: &Path, mut attempt: impl FnMut() -> Result<(), TryLockError>) -> Result<(), KeptError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(BETWEEN_TRIES),
            Err(TryLockError::WouldBlock) => return Err(KeptError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => {
                return Err(KeptError::Write { path: path.to_owned(), source });
            }
        }
    }
}
