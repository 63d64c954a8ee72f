//! The logs of a fleet, for whoever has to find out why a scenario failed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where logs of failed scenarios are kept: `$HARMONY_LOGS`, else below the state folder.
///
/// # Errors
/// When neither that nor `HOME` is set.
pub fn folder() -> Result<PathBuf> {
    match std::env::var_os("HARMONY_LOGS") {
        Some(folder) => Ok(PathBuf::from(folder)),
        None => Ok(crate::binaries::state()?.join("failed")),
    }
}

/// Copies everything that was logged to `to`, together with configurations (keys
/// are left out), and gives the folder.
///
/// # Errors
/// When `to` cannot be written.
pub fn collect(fleet: &Path, to: &Path) -> Result<PathBuf> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(fleet.join("logs")).into_iter().flatten().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    for config in ["nats/nats.conf", "nats/auth.conf", "vk-nats-0.toml", "fleet.json"] {
        let from = fleet.join(config);
        if from.is_file() {
            fs::copy(&from, to.join(config.replace('/', "-")))?;
        }
    }
    Ok(to.to_owned())
}

/// The last lines of each log that says something about a failure, for a terminal.
#[must_use]
pub fn tails(fleet: &Path, lines: usize) -> String {
    let mut text = String::new();
    let mut entries: Vec<_> = fs::read_dir(fleet.join("logs")).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Control plane and Podman talk a lot; the collected folder has them.
        if name.starts_with("kube-") || name.starts_with("etcd") {
            continue;
        }
        let log = fs::read(entry.path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<&str> = log.lines().collect();
        text.push_str(&format!("--- {name}\n{}\n", all[all.len().saturating_sub(lines)..].join("\n")));
    }
    text
}
