//! A disk of a device that is small enough to be filled: a file system in memory.
//!
//! It is mounted below the fleet's folder: [`crate::ledger::remove`] unmounts it with the fleet.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::MountFlags;

/// The file that takes up what is free.
const FILLER: &str = "filler";

/// A file system of a few mebibytes.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
    mebibytes: u32,
}

impl SmallDisk {
    /// Describes a disk of this size at `folder`; mounts nothing.
    #[must_use]
    pub fn new(folder: &Path, mebibytes: u32) -> Self {
        Self { folder: folder.to_owned(), mebibytes }
    }

    /// Mounts it, empty.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let size = format!("size={}m,mode=0700", self.mebibytes);
        let options = std::ffi::CString::new(size)?;
        rustix::mount::mount("tmpfs", &self.folder, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .with_context(|| format!("cannot mount a small disk at {}", self.folder.display()))
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When it cannot be written for another reason than being full.
    pub fn fill(&self) -> Result<()> {
        let mut filler = OpenOptions::new().create(true).append(true).open(self.folder.join(FILLER))?;
        let page = [0; 4096];
        loop {
            match filler.write(&page) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took; nothing happens when that is nothing.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.folder.join(FILLER)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("freeing the disk"),
            _ => Ok(()),
        }
    }
}
