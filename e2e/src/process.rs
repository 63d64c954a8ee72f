//! Long-running programs: started in a namespace, logged, recorded, stopped.
//!
//! Every process is recorded with its pid *and* its start time before anything
//! waits for it. Only a pid whose start time still matches is ever signalled, so
//! that a number that the kernel has given away again is never hit.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::netns::Netns;
use crate::wait::{Look, until};

/// A pid together with the moment at which the kernel gave it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_time: u64,
}

impl Identity {
    /// The identity of a pid that runs now.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        stat.runs().then_some(Self { pid, start_time: stat.start_time })
    }

    /// The identity of this program.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn own() -> Result<Self> {
        let pid = i32::try_from(std::process::id())?;
        Self::of(pid).context("cannot read /proc/self/stat")
    }

    /// Whether that very process still runs (a zombie does not).
    #[must_use]
    pub fn is_running(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// Sends a signal, if that very process still runs.
    pub fn signal(&self, signal: Signal) {
        if self.is_running()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may end between the check and the signal: then there is nothing to do.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until the process is gone.
    ///
    /// # Errors
    /// When it still runs after `within`.
    pub async fn gone(&self, within: Duration) -> Result<()> {
        let pid = self.pid;
        until(format!("process {pid} to end"), within, async || {
            Ok(match self.is_running() {
                true => Look::not_yet("it runs"),
                false => Look::Done(()),
            })
        })
        .await
    }
}

/// A line of `/proc/<pid>/stat`.
struct Stat {
    state: char,
    threads: u64,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold spaces and parentheses itself.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        // The state is field 3, the threads are field 20, the start time is field 22.
        let threads = fields.nth(16)?.parse().ok()?;
        let start_time = fields.nth(1)?.parse().ok()?;
        Some(Self { state, threads, start_time })
    }

    /// A zombie does not run. But the first thread of a killed process can be one while others still end, and hold
    /// its files and sockets until then.
    fn runs(&self) -> bool {
        self.state != 'Z' || self.threads > 1
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// A name that is unique in the fleet; names the log and the record.
    pub name: String,
    /// The program's path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables on top of the environment of this program.
    pub env: BTreeMap<String, String>,
    /// The network namespace to start it in; `None` is the one of this program.
    pub netns: Option<Netns>,
}

/// What is on disk about a process that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The process's name in the fleet.
    pub name: String,
    /// Which process it is.
    pub identity: Identity,
}

/// One long-running program of a fleet.
#[derive(Debug)]
pub struct Process {
    spec: Mutex<Spec>,
    record: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Describes a process whose record and log lie below the fleet's folder.
    ///
    /// Starts nothing: a process that an earlier program started and recorded is
    /// found again through the record.
    #[must_use]
    pub fn new(fleet: &Path, spec: Spec) -> Self {
        Self {
            record: fleet.join("processes").join(format!("{}.json", spec.name)),
            log: fleet.join("logs").join(format!("{}.log", spec.name)),
            spec: Mutex::new(spec),
        }
    }

    /// Replaces arguments and environment for the next start.
    pub fn change(&self, change: impl FnOnce(&mut Spec)) {
        change(&mut self.spec.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    /// Starts the program; nothing happens when it already runs.
    ///
    /// It has a session of its own, so that it outlives this program when that is
    /// wanted (the demo) and no Ctrl-C of a terminal reaches it.
    ///
    /// # Errors
    /// When it cannot be started or recorded.
    pub async fn start(&self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let spec = self.spec();
        for file in [&self.record, &self.log] {
            fs::create_dir_all(file.parent().context("no parent folder")?)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;

        // setsid and nsenter replace themselves, so the pid stays the child's.
        let mut command = Command::new("setsid");
        if let Some(netns) = &spec.netns {
            command.arg("nsenter").arg(format!("--net={}", netns.path().display())).arg("--");
        }
        let mut child = command
            .arg(&spec.program)
            .args(&spec.args)
            .envs(&spec.env)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", spec.name))?;
        let pid = i32::try_from(child.id().context("it ended at once")?)?;
        let stat = Stat::read(pid).with_context(|| format!("{} ended at once", spec.name))?;
        let identity = Identity { pid, start_time: stat.start_time };
        write_json(&self.record, &Record { name: spec.name.clone(), identity })?;
        // Reaps the child, so that an ended one does not stay as a zombie.
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::debug!(process = %spec.name, %status, "ended");
            }
        });
        Ok(())
    }

    /// The recorded identity, whether it runs or not.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        Some(read_json::<Record>(&self.record).ok()?.identity)
    }

    /// Whether the recorded process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.identity().is_some_and(|identity| identity.is_running())
    }

    /// The process's name in the fleet.
    #[must_use]
    pub fn name(&self) -> String {
        self.spec().name
    }

    /// The file that takes standard output and standard error.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything the process has written so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Sends a signal to it, if it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(identity) = self.identity() {
            identity.signal(signal);
        }
    }

    /// `kill -9`, as a crash or the kernel's memory killer does it.
    ///
    /// # Errors
    /// When it is still there after 10 s.
    pub async fn kill(&self) -> Result<()> {
        self.end(Signal::KILL, Duration::from_secs(10)).await
    }

    /// SIGTERM, and SIGKILL after `grace`.
    ///
    /// # Errors
    /// When it is still there 10 s after the SIGKILL.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        if self.end(Signal::TERM, grace).await.is_err() {
            tracing::warn!(process = %self.name(), ?grace, "did not end in time, killing it");
            self.kill().await?;
        }
        Ok(())
    }

    /// Stops it within `grace` and starts it again.
    ///
    /// # Errors
    /// As [`Process::stop`] and [`Process::start`].
    pub async fn restart(&self, grace: Duration) -> Result<()> {
        self.stop(grace).await?;
        self.start().await
    }

    /// Waits until the process is ready, and gives up at once when it ends.
    ///
    /// # Errors
    /// When the process ends or the deadline passes, with the end of its log.
    pub async fn ready<T>(
        &self,
        within: Duration,
        mut look: impl AsyncFnMut() -> Result<Look<T>>,
    ) -> Result<T> {
        let name = self.name();
        let what = format!("{name} to be ready");
        let found = until(what, within, async || {
            if !self.is_running() {
                return Ok(Look::Done(None));
            }
            Ok(match look().await? {
                Look::Done(value) => Look::Done(Some(value)),
                Look::NotYet(seen) => Look::NotYet(seen),
            })
        })
        .await
        .with_context(|| format!("the end of {}:\n{}", self.log.display(), self.log_tail(20)))?;
        match found {
            Some(value) => Ok(value),
            None => bail!("{name} ended; the end of its log:\n{}", self.log_tail(20)),
        }
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log_text();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn spec(&self) -> Spec {
        self.spec.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    async fn end(&self, signal: Signal, within: Duration) -> Result<()> {
        let Some(identity) = self.identity() else { return Ok(()) };
        identity.signal(signal);
        identity.gone(within).await.with_context(|| format!("{} does not end", self.name()))?;
        let _ = fs::remove_file(&self.record);
        Ok(())
    }
}

/// Writes a file in one step: a program that is killed leaves the old or the new one.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let partial = path.with_extension("partial");
    let file = File::create(&partial).with_context(|| format!("writing {}", path.display()))?;
    serde_json::to_writer_pretty(file, value)?;
    fs::rename(&partial, path).with_context(|| format!("writing {}", path.display()))
}

/// Reads what [`write_json`] wrote.
///
/// # Errors
/// When it is not there or says something else.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_runs_until_its_last_thread_has_ended() {
        let line = |state, threads| {
            format!("7 (a) b) {state} 1 7 7 0 -1 4228364 0 0 0 0 0 0 0 0 20 0 {threads} 0 3127 0 0 184 0 0\n")
        };
        let runs = |state, threads| Stat::parse(&line(state, threads)).unwrap().runs();
        assert!(runs('S', 1) && runs('Z', 2) && !runs('Z', 1));
        assert_eq!(Stat::parse(&line('Z', 1)).unwrap().start_time, 3127);
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn this_program_runs_and_a_reused_pid_does_not() {
        let own = Identity::own().unwrap();
        assert!(own.is_running());
        assert!(!Identity { start_time: own.start_time + 1, ..own }.is_running());
    }

    #[tokio::test]
    async fn a_process_is_logged_recorded_and_stopped() {
        let fleet = tempfile::tempdir().unwrap();
        let process = Process::new(
            fleet.path(),
            Spec {
                name: "shell".into(),
                program: "/bin/sh".into(),
                args: vec!["-c".into(), "echo started; exec sleep 60".into()],
                env: BTreeMap::new(),
                netns: None,
            },
        );
        process.start().await.unwrap();
        let found = process.ready(Duration::from_secs(5), async || {
            Ok(match process.log_text().contains("started") {
                true => Look::Done(()),
                false => Look::not_yet("an empty log"),
            })
        });
        found.await.unwrap();
        let identity = process.identity().unwrap();
        process.stop(Duration::from_secs(5)).await.unwrap();
        assert!(!identity.is_running());
        assert!(process.identity().is_none());
    }
}
