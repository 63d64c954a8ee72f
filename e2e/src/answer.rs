//! One command, run to its end, and what it answered.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// What a finished command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The command line, as a person would type it.
    pub command: String,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
    /// The exit code; `None` when a signal ended the command.
    pub code: Option<i32>,
}

impl Answer {
    /// Runs `command` without standard input and collects both outputs.
    ///
    /// # Errors
    /// Only when the command cannot be started; an exit code is part of the answer.
    pub async fn of(command: &mut Command) -> Result<Self> {
        let line = command_line(command);
        let output = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start `{line}`"))?;
        Ok(Self {
            command: line,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        })
    }

    /// Whether the command ended with exit code 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output when the command succeeded.
    ///
    /// # Errors
    /// With the whole answer when it did not.
    pub fn success(self) -> Result<String> {
        if self.ok() {
            return Ok(self.stdout);
        }
        bail!("{self}")
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "`{}` ended with exit code {code}", self.command)?,
            None => write!(f, "`{}` was ended by a signal", self.command)?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n{name}: {}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Runs a program with arguments and gives its standard output.
///
/// # Errors
/// When it cannot be started or does not end with exit code 0.
pub async fn run<A: AsRef<OsStr>>(
    program: impl AsRef<Path>,
    args: impl IntoIterator<Item = A>,
) -> Result<String> {
    let mut command = Command::new(program.as_ref());
    command.args(args);
    Answer::of(&mut command).await?.success()
}

fn command_line(command: &Command) -> String {
    let command = command.as_std();
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| {
            let part = part.to_string_lossy();
            if part.is_empty() || part.contains(|c: char| c.is_whitespace() || c == '\'') {
                format!("'{part}'")
            } else {
                part.into_owned()
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
