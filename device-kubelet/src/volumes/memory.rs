//! Volumes in memory: a tmpfs of their own.

use std::{ffi::CString, io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts a tmpfs, unless one is there already (an agent that restarted); whether it did.
pub(super) fn mount(path: &Path, limit: Option<i64>, mode: u32) -> io::Result<bool> {
    if is_mount_point(path)? {
        return Ok(false);
    }
    let mut options = format!("mode={mode:o}");
    if let Some(limit) = limit.filter(|limit| *limit > 0) {
        options.push_str(&format!(",size={limit}"));
    }
    let options = CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())?;
    Ok(true)
}

/// Unmounts it, also when somebody is still in there.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    if path.is_dir() && is_mount_point(path)? {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(path.symlink_metadata()?.dev() != parent.symlink_metadata()?.dev())
}
