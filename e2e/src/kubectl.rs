//! The real `kubectl`, as a user of the fleet runs it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::answer::Answer;

/// `kubectl` with the fleet's kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    cache: PathBuf,
}

impl Kubectl {
    /// Uses `program` with `kubeconfig`; discovery is cached below `fleet`.
    #[must_use]
    pub fn new(program: PathBuf, kubeconfig: PathBuf, fleet: &Path) -> Self {
        Self { program, kubeconfig, cache: fleet.join("kubectl-cache") }
    }

    /// The same `kubectl` with other credentials.
    #[must_use]
    pub fn with_kubeconfig(&self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, ..self.clone() }
    }

    /// The file with the credentials.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs `kubectl` with a line of arguments separated by spaces, and gives what
    /// it printed.
    ///
    /// # Errors
    /// When it fails, with both outputs.
    pub async fn run(&self, line: &str) -> Result<String> {
        self.ask(line).await?.success()
    }

    /// As [`Kubectl::run`]; a failure is an answer, too.
    ///
    /// # Errors
    /// Only when `kubectl` cannot be started.
    pub async fn ask(&self, line: &str) -> Result<Answer> {
        let mut answer = Answer::of(&mut self.command(line.split_whitespace())).await?;
        answer.command = format!("kubectl {line}");
        Ok(answer)
    }

    /// Runs `kubectl` with arguments that may hold spaces.
    ///
    /// # Errors
    /// When it fails, with both outputs.
    pub async fn run_args(&self, args: &[&str]) -> Result<String> {
        Answer::of(&mut self.command(args.iter().copied())).await?.success()
    }

    /// Runs `kubectl … --output json` and parses what it printed.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub async fn json(&self, line: &str) -> Result<serde_json::Value> {
        let text = self.run(&format!("{line} --output json")).await?;
        serde_json::from_str(&text).with_context(|| format!("`kubectl {line}` gave no JSON"))
    }

    /// `kubectl apply` of manifests given as YAML or JSON text.
    ///
    /// # Errors
    /// When it fails, with both outputs.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        self.fed("apply --filename -", manifests).await
    }

    /// Runs `kubectl` with `input` as standard input.
    ///
    /// # Errors
    /// When it fails, with both outputs.
    pub async fn fed(&self, line: &str, input: &str) -> Result<String> {
        let mut child = self
            .command(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start kubectl")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let write = async move {
            // kubectl may refuse before it has read everything: its own message says more.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        Answer {
            command: format!("kubectl {line}"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        }
        .success()
    }

    /// Starts `kubectl` and leaves it running (`logs --follow`, `port-forward`),
    /// standard output and error piped. It is killed when dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, line: &str) -> Result<Child> {
        self.command(line.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `kubectl {line}`"))
    }

    fn command<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            // A proxy of the user's environment cannot reach the fleet's network.
            .env("NO_PROXY", "*")
            .args(args);
        command
    }
}
