//! Who made which fleet, and how to take away all of it.
//!
//! A fleet's folder is enough to remove the fleet: the record of every process is
//! in it, the network's names, and the Podman roots. Nothing outside the folder and
//! those names is ever touched. A run that was killed is found by its owner's
//! identity, which no longer runs, and pruned by the next one.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::binaries;
use crate::netns::{Network, VOLATILE};
use crate::podman;
use crate::process::{Identity, Record, read_json, write_json};

/// Who answers for a fleet.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A running program; the fleet is garbage when it has ended.
    Program(Identity),
    /// A person, who will say `make down`.
    Person,
}

/// Holds the lock that makes choosing a network and pruning one step.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "dropping the file releases the lock")] File);

/// Waits for the lock over all fleets of this machine, whoever's state folder they use.
///
/// # Errors
/// When `/run` cannot be written.
pub async fn lock() -> Result<Lock> {
    fs::create_dir_all(VOLATILE).with_context(|| format!("cannot make {VOLATILE}"))?;
    let file = File::create(Path::new(VOLATILE).join("lock"))?;
    let file =
        tokio::task::spawn_blocking(move || flock(&file, FlockOperation::LockExclusive).map(|()| file));
    Ok(Lock(file.await??))
}

/// Notes who answers for the fleet in `folder`.
///
/// # Errors
/// When the folder cannot be written.
pub fn claim(folder: &Path, owner: &Owner) -> Result<()> {
    fs::create_dir_all(folder)?;
    write_json(&folder.join("owner.json"), owner)
}

/// Notes the fleet's network, before anything of it is made.
///
/// # Errors
/// When the folder cannot be written.
pub fn note_network(folder: &Path, network: &Network) -> Result<()> {
    write_json(&folder.join("network.json"), network)
}

/// Removes the fleets below `runs` whose owner has ended.
///
/// # Errors
/// When something of such a fleet cannot be removed.
pub async fn prune(runs: &Path) -> Result<()> {
    let Ok(folders) = fs::read_dir(runs) else { return Ok(()) };
    for folder in folders {
        let folder = folder?.path();
        let stale = match read_json(&folder.join("owner.json")) {
            Ok(Owner::Program(identity)) => !identity.is_running(),
            Ok(Owner::Person) => false,
            // Killed before the first write: nothing else can be there yet.
            Err(_) => true,
        };
        if stale {
            tracing::info!(folder = %folder.display(), "removing what an aborted run left");
            remove(&folder).await?;
        }
    }
    Ok(())
}

/// Ends every process of a fleet and removes all that it made.
///
/// Nothing is stopped gently: the data goes, too.
///
/// # Errors
/// When something cannot be removed; calling it again continues.
pub async fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let folder = folder.canonicalize()?;
    end_processes(&folder).await?;
    if let Ok(network) = read_json::<Network>(&folder.join("network.json")) {
        podman::power_cut(&folder.join("devices"), &network.volatile()).await?;
        network.remove().await?;
    }
    unmount_below(&folder)?;
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Unmounts everything below a folder, the innermost first.
///
/// # Errors
/// When a mount is still busy.
pub fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let mut points: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(folder) && point != folder)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().as_bytes().len()));
    for point in points {
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

async fn end_processes(folder: &Path) -> Result<()> {
    let mut ended = Vec::new();
    if let Ok(records) = fs::read_dir(folder.join("processes")) {
        for record in records {
            if let Ok(Record { identity, .. }) = read_json(&record?.path()) {
                identity.signal(Signal::KILL);
                ended.push(identity);
            }
        }
    }
    for identity in ended {
        identity.gone(Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// mountinfo writes a space as `\040` and so on (proc(5)).
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(3).unwrap_or((part, ""));
        match u8::from_str_radix(code, 8) {
            Ok(byte) => text.push(char::from(byte)),
            Err(_) => text.push_str(code),
        }
        text.push_str(rest);
    }
    text
}

/// Refuses to run where the harness cannot work, with what is missing.
///
/// # Errors
/// When this is not root or a program is not installed.
pub fn require_ground() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces and Podman need root; run this as root (or with sudo -E)");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<&str> = ["ip", "iptables", "nsenter", "setsid", "podman", "runc", "conmon"]
        .into_iter()
        .filter(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        .collect();
    if !missing.is_empty() {
        bail!("not on PATH: {}; run e2e/tools/install.sh", missing.join(", "));
    }
    require_room(&binaries::state()?)
}

/// The devices lie on this machine's disk, and report its pressure: nothing would be scheduled on them.
fn require_room(folder: &Path) -> Result<()> {
    // Below a kubelet's `nodefs.available<10%`, with room for what the fleet itself writes.
    const LEAST_PERCENT: u64 = 11;
    fs::create_dir_all(folder)?;
    let disk = rustix::fs::statvfs(folder)?;
    let percent = disk.f_bavail.saturating_mul(100) / disk.f_blocks.max(1);
    if percent < LEAST_PERCENT {
        bail!(
            "the disk of {} is {percent} % free: devices with less than 10 % report DiskPressure, and no pod is \
             scheduled on them; free some space",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b/c"), "/a b/c");
        assert_eq!(unescape("/plain"), "/plain");
        assert_eq!(unescape("/odd\\9"), "/odd9");
    }

    #[tokio::test]
    async fn an_aborted_run_is_pruned_and_a_living_one_is_not() {
        let runs = tempfile::tempdir().unwrap();
        let own = Identity::own().unwrap();
        let (alive, dead) = (runs.path().join("alive"), runs.path().join("dead"));
        claim(&alive, &Owner::Program(own)).unwrap();
        let past = Identity { start_time: own.start_time + 1, ..own };
        claim(&dead, &Owner::Program(past)).unwrap();
        prune(runs.path()).await.unwrap();
        assert!(alive.exists() && !dead.exists());
    }
}
