//! Volumes of pods on the device's disk and in its memory.
//!
//! ```text
//! <data-dir>/pods/<uid>/                    0750
//!   volumes/<name>/                         one directory per volume; hostPath volumes have none
//!     ..data -> ..2026_01_02_…              configMap and secret: swapped as a whole (payload)
//!     key -> ..data/key
//!   containers/<container>/<attempt>        termination message, bound into the container
//!   hosts                                   /etc/hosts, bound into all containers
//! <data-dir>/logs/<namespace>_<name>_<uid>/<container>/
//!   <attempt>.log                           rotated: <attempt>.log.<number>
//! ```
//!
//! Everything here blocks: callers run it on a thread that may. It can be repeated: what is as it should be is
//! not touched.

mod host_path;
mod memory;
mod payload;
mod sub_path;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use fleet_wire::{message::ReferenceKind, name::PodKey};
use k8s_openapi::{
    api::core::v1::{KeyToPath, Volume},
    apimachinery::pkg::api::resource::Quantity,
};

pub use self::sub_path::{SubPathError, resolve as resolve_sub_path};
use crate::{
    pods::{admission::is_token_volume, desired::Desired, quantity},
    store::StoreError,
};

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {problem}")]
pub struct VolumeError {
    /// Name of the volume.
    pub volume: String,
    /// In a kubelet's words.
    pub problem: String,
}

/// A volume on the device, ready to be bound into containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub path: PathBuf,
    /// Never writable: configMap and secret.
    pub read_only: bool,
}

/// Makes the directory of all pods, which only the agent's user may enter.
pub fn make_private_root(data_dir: &Path) -> Result<(), StoreError> {
    let path = data_dir.join("pods");
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|source| StoreError::MakeDirectory { path, source })
}

/// The directories of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodDirs {
    root: PathBuf,
    logs: PathBuf,
}

impl PodDirs {
    /// Of this pod, below the agent's directory.
    pub fn new(data_dir: &Path, pod: &PodKey) -> Self {
        Self {
            root: data_dir.join("pods").join(pod.uid.as_str()),
            logs: data_dir.join("logs").join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid)),
        }
    }

    /// Log of one container's instance.
    pub fn log(&self, container: &str, attempt: u32) -> PathBuf {
        self.logs.join(container).join(format!("{attempt}.log"))
    }

    /// File for the termination message of one container's instance.
    pub fn last_words(&self, container: &str, attempt: u32) -> PathBuf {
        self.root.join("containers").join(container).join(attempt.to_string())
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    /// Makes the file for a termination message, writable by any user of the container.
    pub fn create_last_words(&self, container: &str, attempt: u32) -> io::Result<PathBuf> {
        let path = self.last_words(container, attempt);
        if let Some(parent) = path.parent() {
            make_dir(parent, 0o755)?;
        }
        fs::write(&path, b"")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        Ok(path)
    }

    /// Writes the containers' `/etc/hosts`, in place: those that run see it, too. The same text is not written again.
    pub fn write_hosts(&self, text: &str) -> io::Result<PathBuf> {
        let path = self.root.join("hosts");
        // A container may write there as much as the disk takes: what has another size is not read.
        let same_size = fs::metadata(&path).is_ok_and(|old| old.len() == text.len() as u64);
        if same_size && fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(path);
        }
        make_dir(&self.root, 0o750)?;
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// Makes the directory for a container's logs.
    pub fn create_log_dir(&self, container: &str) -> io::Result<()> {
        make_dir(&self.logs.join(container), 0o755)
    }

    /// Takes the volumes away: what was in memory is gone, what was on disk is removed. Logs stay.
    pub fn remove_volumes(&self) -> io::Result<()> {
        let volumes = self.root.join("volumes");
        for entry in read_dir(&volumes)? {
            memory::unmount(&entry)?;
        }
        remove_dir(&volumes)
    }

    /// Removes the logs, rotated ones too, and termination messages of a container's instances before this one.
    pub fn remove_instances_before(&self, container: &str, oldest: u32) -> io::Result<()> {
        let number = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            name.split('.').next()?.parse::<u32>().ok()
        };
        for folder in [self.logs.join(container), self.root.join("containers").join(container)] {
            for path in read_dir(&folder)? {
                if number(&path).is_some_and(|number| number < oldest) {
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Removes everything of the pod, its logs too.
    pub fn remove(&self) -> io::Result<()> {
        self.remove_volumes()?;
        remove_dir(&self.root)?;
        remove_dir(&self.logs)
    }
}

/// Sets up all volumes of a pod, or brings the content of its configMap and secret volumes up to date.
pub fn prepare(desired: &Desired, dirs: &PodDirs) -> Result<BTreeMap<String, Mounted>, VolumeError> {
    let mut mounted = BTreeMap::new();
    for volume in desired.spec.volumes.iter().flatten().filter(|volume| !is_token_volume(volume)) {
        let done = prepare_one(desired, dirs, volume)
            .map_err(|problem| VolumeError { volume: volume.name.clone(), problem })?;
        mounted.insert(volume.name.clone(), done);
    }
    Ok(mounted)
}

fn prepare_one(desired: &Desired, dirs: &PodDirs, volume: &Volume) -> Result<Mounted, String> {
    if let Some(source) = &volume.host_path {
        let path = PathBuf::from(&source.path);
        host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(Mounted { path, read_only: false });
    }
    let path = dirs.volume(&volume.name);
    let group = desired.spec.security_context.as_ref().and_then(|security| security.fs_group);
    let group = group.and_then(|group| u32::try_from(group).ok());
    if let Some(source) = &volume.empty_dir {
        let mut fresh = !path.exists();
        make_dir(&path, 0o777).map_err(said)?;
        if source.medium.as_deref() == Some("Memory") {
            let limit = source.size_limit.as_ref().and_then(|Quantity(text)| quantity::ceil(text));
            // After a reboot the directory is there, and what was in memory is not.
            fresh |= memory::mount(&path, limit, 0o777).map_err(|error| {
                format!("medium Memory needs the agent to run as root with CAP_SYS_ADMIN: {error}")
            })?;
        }
        if fresh {
            own_by_group(&path, group, 0o2777).map_err(said)?;
        }
        return Ok(Mounted { path, read_only: false });
    }
    let (files, secret) = content(desired, volume)?;
    make_dir(&path, 0o755).map_err(said)?;
    if secret && let Err(error) = memory::mount(&path, None, 0o755) {
        // Without privileges a secret lies on disk, behind directories that only the agent's user may enter.
        tracing::debug!(path = %path.display(), %error, "secret volume is not in memory");
    }
    payload::write(&path, &files, group).map_err(said)?;
    Ok(Mounted { path, read_only: true })
}

/// Files of a configMap or secret volume, and whether they are secret.
fn content(desired: &Desired, volume: &Volume) -> Result<(payload::Files, bool), String> {
    if let Some(source) = &volume.config_map {
        let Some(map) = desired.config_maps.get(&source.name) else {
            return match source.optional {
                Some(true) => Ok((payload::Files::new(), false)),
                _ => Err(missing(desired, ReferenceKind::ConfigMap, &source.name)),
            };
        };
        let mut all: BTreeMap<&str, &[u8]> =
            map.data.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        all.extend(map.binary_data.iter().map(|(key, value)| (key.as_str(), value.0.as_slice())));
        let (mode, optional) = (source.default_mode, source.optional == Some(true));
        return project(&all, source.items.as_deref(), mode, optional).map(|files| (files, false));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let Some(secret) = desired.secrets.get(name) else {
            return match source.optional {
                Some(true) => Ok((payload::Files::new(), true)),
                _ => Err(missing(desired, ReferenceKind::Secret, name)),
            };
        };
        let all: BTreeMap<&str, &[u8]> =
            secret.data.iter().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
        let (mode, optional) = (source.default_mode, source.optional == Some(true));
        return project(&all, source.items.as_deref(), mode, optional).map(|files| (files, true));
    }
    Err("this type of volume is not supported on this device".to_owned())
}

fn missing(desired: &Desired, kind: ReferenceKind, name: &str) -> String {
    let known = desired.missing.iter().find(|missing| missing.kind == kind && missing.name == name);
    known.map_or_else(
        || {
            let kind = if kind == ReferenceKind::Secret { "secret" } else { "configmap" };
            format!("{kind} \"{name}\" not found")
        },
        |missing| missing.message.clone(),
    )
}

fn project(
    all: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<payload::Files, String> {
    let mode =
        |mode: Option<i32>| u32::try_from(mode.or(default_mode).unwrap_or(0o644)).unwrap_or(0o644) & 0o777;
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(all
            .iter()
            .map(|(key, data)| ((*key).to_owned(), payload::File { data: data.to_vec(), mode: mode(None) }))
            .collect());
    };
    let mut files = payload::Files::new();
    for item in items {
        match all.get(item.key.as_str()) {
            Some(data) => {
                files.insert(item.path.clone(), payload::File { data: data.to_vec(), mode: mode(item.mode) });
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(files)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    // What `mkdir` makes is narrowed by the umask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn own_by_group(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    if fs::metadata(path)?.gid() != group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn read_dir(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
