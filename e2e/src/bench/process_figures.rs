//! What the kernel says of a process: memory, processor time, bytes written.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::quantiles::hundredths;

/// The kernel tells times to programs in 1/100 s on every architecture that we run on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// Pages of its own, and its share of those that it has together with others.
    pub pss_kib: u64,
    /// All pages that are in memory, shared ones too.
    pub rss_kib: u64,
    /// The most that `rss_kib` ever was.
    pub peak_rss_kib: u64,
    /// Of the PSS: pages that belong to no file (heap, stacks).
    pub pss_anon_kib: u64,
}

impl Memory {
    /// Memory of a running process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let rollup = read(pid, "smaps_rollup")?;
        let status = read(pid, "status")?;
        Ok(Self {
            pss_kib: field(&rollup, "Pss:")?,
            rss_kib: field(&rollup, "Rss:")?,
            peak_rss_kib: field(&status, "VmHWM:")?,
            pss_anon_kib: field(&rollup, "Pss_Anon:")?,
        })
    }
}

/// What a process has used up until a moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    ticks: u64,
    /// Of all threads that live, in nanoseconds.
    scheduled: u64,
    /// How often one of them went to sleep.
    slept: u64,
    written: u64,
}

/// What a process used up between two moments.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Used {
    /// How far apart the moments are.
    pub seconds: f64,
    /// Processor time, by the kernel's accounts of the process (in steps of 10 ms).
    pub cpu_seconds: f64,
    /// The same as a share of one core.
    pub cpu_percent: f64,
    /// The share by the scheduler's own clock, of those threads that lived all the time.
    pub scheduled_percent: f64,
    /// How often one of these threads woke up.
    pub wake_ups: u64,
    /// Bytes that it caused to be written to a disk.
    pub disk_written_bytes: u64,
}

impl Usage {
    /// Until now.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = read(pid, "stat")?;
        // The name in parentheses may hold spaces; after it comes field 3.
        let (_, rest) = stat.rsplit_once(") ").context("/proc/<pid>/stat is damaged")?;
        let time = |field: usize| rest.split(' ').nth(field - 3)?.parse::<u64>().ok();
        let ticks = time(14).zip(time(15)).map(|(user, system)| user + system);
        let (mut scheduled, mut slept) = (0, 0);
        for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let of = |file: &str| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
            // A thread that ended meanwhile counts for nothing.
            scheduled += of("schedstat").split(' ').next().and_then(|time| time.parse().ok()).unwrap_or(0);
            slept += field(&of("status"), "voluntary_ctxt_switches:").unwrap_or(0);
        }
        let io = read(pid, "io")?;
        Ok(Self {
            at: Instant::now(),
            ticks: ticks.context("/proc/<pid>/stat is damaged")?,
            scheduled,
            slept,
            written: field(&io, "write_bytes:")?,
        })
    }

    /// Processor time since the process began.
    #[must_use]
    pub fn total_cpu_seconds(&self) -> f64 {
        f64::from(u32::try_from(self.ticks).unwrap_or(u32::MAX)) / TICKS_PER_SECOND
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Used {
        let elapsed = self.at.saturating_duration_since(earlier.at);
        let ticks = u32::try_from(self.ticks.saturating_sub(earlier.ticks)).unwrap_or(u32::MAX);
        let cpu_seconds = f64::from(ticks) / TICKS_PER_SECOND;
        let share = |seconds: f64| hundredths(100.0 * seconds / elapsed.as_secs_f64().max(1e-9));
        let scheduled = Duration::from_nanos(self.scheduled.saturating_sub(earlier.scheduled));
        Used {
            seconds: hundredths(elapsed.as_secs_f64()),
            cpu_seconds,
            cpu_percent: share(cpu_seconds),
            scheduled_percent: share(scheduled.as_secs_f64()),
            wake_ups: self.slept.saturating_sub(earlier.slept),
            disk_written_bytes: self.written.saturating_sub(earlier.written),
        }
    }
}

/// Processor time of the calling thread, by the scheduler's clock.
///
/// # Errors
/// When the kernel does not tell.
pub fn own_thread() -> Result<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("reading the thread's schedstat")?;
    let nanoseconds = text.split(' ').next().and_then(|time| time.parse().ok());
    nanoseconds.map(Duration::from_nanos).context("/proc/thread-self/schedstat is damaged")
}

fn read(pid: i32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// The number after `key` at the beginning of a line.
fn field(text: &str, key: &str) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("the kernel does not tell `{key}`"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_program_has_memory_and_uses_time() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let memory = Memory::of(pid).unwrap();
        assert!(memory.pss_kib > 0 && memory.pss_kib <= memory.rss_kib);
        let before = Usage::of(pid).unwrap();
        let used = Usage::of(pid).unwrap().since(&before);
        assert!(used.seconds < 60.0);
    }
}
