//! The machine that figures were made on: without it they say nothing.

use std::fs;

use serde::Serialize;

use crate::answer;

/// The machine, and how busy it was when the measuring began.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor as it names itself.
    pub processor: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The distribution.
    pub system: String,
    /// Podman's version.
    pub podman: String,
    /// Load averages of the last 1, 5 and 15 minutes.
    pub load_before: String,
    /// UTC, to the second.
    pub measured_at: String,
}

impl Machine {
    /// This machine, now. What it does not tell is `unknown`.
    pub async fn this() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|rest| rest.trim_matches([' ', '\t', ':', '=', '"']).to_owned())
        };
        let unknown = || "unknown".to_owned();
        let memory = after(&text("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory = memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        Self {
            processor: after(&text("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: after(&text("/etc/os-release"), "PRETTY_NAME").unwrap_or_else(unknown),
            podman: answer::run("podman", ["--version"])
                .await
                .unwrap_or_else(|_| unknown())
                .trim()
                .to_owned(),
            load_before: load(),
            measured_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

/// The load averages of the last 1, 5 and 15 minutes.
#[must_use]
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
