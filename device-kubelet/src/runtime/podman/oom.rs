//! Whether the kernel killed in a container for memory.
//!
//! Podman tells it from a file that conmon writes into its working directory, which Podman 4.3 leaves at the
//! service's own: there it never hears of it. So the kernel's counter is read the moment the exit is seen;
//! the container's control group stands until Podman cleans up, some ten milliseconds later.

use std::path::{Path, PathBuf};

/// The control groups of one pod's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodCgroups {
    /// Of the infra container, e.g. `/machine.slice/…/libpod-<id>.scope`.
    infra_path: String,
    infra: String,
}

impl PodCgroups {
    /// From the path of the infra container's own control group; the others differ in the id only.
    pub(super) fn new(infra: &str, infra_path: &str) -> Option<Self> {
        (!infra.is_empty() && infra_path.contains(infra))
            .then(|| Self { infra_path: infra_path.to_owned(), infra: infra.to_owned() })
    }

    /// Whether the kernel killed for memory in this container, which has just ended.
    pub(super) fn killed_for_memory(&self, container: &str) -> bool {
        self.killed_below(Path::new("/sys/fs/cgroup"), container)
    }

    fn killed_below(&self, mount: &Path, container: &str) -> bool {
        let path = self.infra_path.replace(&self.infra, container);
        let path = path.trim_start_matches('/');
        let version_2 = mount.join(path).join("memory.events");
        let version_1: PathBuf =
            [mount, Path::new("memory"), Path::new(path), Path::new("memory.oom_control")].iter().collect();
        [version_2, version_1]
            .iter()
            .filter_map(|file| std::fs::read_to_string(file).ok())
            .any(|counters| kills(&counters) > 0)
    }
}

fn kills(counters: &str) -> u64 {
    let lines = counters.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(name, _)| *name == "oom_kill")
        .find_map(|(_, count)| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn the_kernels_counter_is_found_in_both_versions() {
        for (folder, file) in [
            ("machine.slice/libpod-c1.scope", "memory.events"),
            ("memory/machine.slice/libpod-c1.scope", "memory.oom_control"),
        ] {
            let mount = tempfile::tempdir().unwrap();
            let folder = mount.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            let cgroups = PodCgroups::new("i9", "/machine.slice/libpod-i9.scope").unwrap();
            assert!(!cgroups.killed_below(mount.path(), "c1"));
            std::fs::write(folder.join(file), "oom_kill_disable 0\nunder_oom 0\noom 3\noom_kill 0\n")
                .unwrap();
            assert!(!cgroups.killed_below(mount.path(), "c1"));
            std::fs::write(folder.join(file), "oom 3\noom_kill 1\noom_group_kill 0\n").unwrap();
            assert!(cgroups.killed_below(mount.path(), "c1"));
        }
        assert_eq!(PodCgroups::new("i9", ""), None);
    }
}
