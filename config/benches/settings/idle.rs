//! A program that has a handle and does nothing: how often it wakes up, what that takes, what it writes.

use std::{path::Path, process::Stdio, time::Duration};

use harmony_config::{ConfigManager, Environment, File};
use serde::{Deserialize, Serialize};

use crate::{
    Options, itself,
    model::{FILE, Service, VARIABLES},
    stored,
};

#[derive(Debug, Serialize, Deserialize)]
pub struct Idle {
    pub seconds: u64,
    /// Times that a thread of it was scheduled.
    pub wake_ups: u64,
    /// Milliseconds of a core.
    pub cpu_ms: f64,
    pub bytes_written: u64,
    pub threads: usize,
    /// KiB.
    pub resident: u64,
}

pub fn measure(options: &Options) -> Idle {
    let folder = tempfile::tempdir_in(&options.folder).unwrap();
    std::fs::write(folder.path().join("Service.toml"), FILE).unwrap();
    let mut command = itself(&format!("idle {}", options.idle_seconds), folder.path());
    let output = command.envs(VARIABLES).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// (nanoseconds on a core, times scheduled) of all threads.
fn scheduled() -> (u64, u64, usize) {
    let (mut time, mut times, mut threads) = (0, 0, 0);
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [nanoseconds, _, slices] = numbers[..] {
            time += nanoseconds;
            times += slices;
            threads += 1;
        }
    }
    (time, times, threads)
}

/// The part that waits, and prints what that took. Chain: environment, file in a folder, database with its
/// last-known-good file.
pub fn child(folder: &Path, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let idle = runtime.block_on(async {
        let chain = ConfigManager::builder().source(Environment::new()).source(File::folder(folder));
        let manager = chain.database_in(folder, "bench").unwrap().build();
        let handle = manager.handle::<Service>().await.unwrap();
        // What belongs to the start is over.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (before, wrote) = (scheduled(), stored::written());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let (after, written) = (scheduled(), stored::written() - wrote);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        drop(handle);
        Idle {
            seconds,
            wake_ups: after.1 - before.1,
            cpu_ms: (after.0 - before.0) as f64 / 1e6,
            bytes_written: written,
            threads: after.2,
            resident: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    });
    println!("{}", serde_json::to_string(&idle).unwrap());
}
