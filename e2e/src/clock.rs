//! A clock that is wrong: Debian's libfaketime between a program and the time of day.
//!
//! The monotonic clock stays as it is, as on a machine whose time of day was never set.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::process::Spec;

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
        // What it shares with children would outlive a program that is killed.
        ("FAKETIME_DISABLE_SHM", "1".to_owned()),
    ];
    for (name, value) in variables {
        match seconds {
            0 => spec.env.remove(name),
            _ => spec.env.insert(name.to_owned(), value),
        };
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
