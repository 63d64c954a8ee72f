//! A clock that is wrong: Debian's libfaketime between a program and the time of day.
//!
//! The monotonic clock stays as it is, as on a machine whose time of day was never set.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::process::{Identity, Spec};

const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Makes a program see a time of day that is so many seconds ahead, or behind if negative; 0 is the right one.
///
/// # Errors
/// When libfaketime is not installed.
pub fn set(spec: &mut Spec, seconds: i64) -> Result<()> {
    let variables = [
        ("LD_PRELOAD", library()?.display().to_string()),
        ("FAKETIME", format!("{seconds:+}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    for (name, value) in variables {
        match seconds {
            0 => spec.env.remove(name),
            _ => spec.env.insert(name.to_owned(), value),
        };
    }
    Ok(())
}

/// Removes what the library keeps in memory for a program and its children: it does so itself only where the
/// program was not started through another one. The program may still run.
///
/// # Errors
/// When something of it cannot be removed.
pub fn forget(program: &Identity) -> Result<()> {
    for prefix in ["faketime_shm_", "sem.faketime_sem_"] {
        let path = Path::new("/dev/shm").join(format!("{prefix}{}", program.pid));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The library of this machine's architecture.
fn library() -> Result<PathBuf> {
    let folders = fs::read_dir(LIBRARIES).into_iter().flatten().flatten();
    folders
        .map(|folder| folder.path().join(LIBRARY))
        .find(|path| path.is_file())
        .with_context(|| format!("no {LIBRARIES}/*/{LIBRARY}; run e2e/tools/install.sh"))
}
