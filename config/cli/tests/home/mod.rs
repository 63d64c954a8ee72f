//! A folder of settings, a service that writes into it, and the built command.

#![allow(dead_code)]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use harmony_config::{Config, ConfigManager, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

pub const CANARY: &str = "canary-7f3a91";

/// How to reach a switch.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
pub struct Switch {
    /// Its address.
    pub host: String,
    /// What it asks for.
    pub password: Secret<String>,
    /// Its secured port.
    #[serde(default)]
    pub tls: Tls,
}

/// Where it speaks TLS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Tls {
    /// The port.
    #[serde(default = "port")]
    pub port: u16,
}

impl Default for Tls {
    fn default() -> Self {
        Self { port: port() }
    }
}

fn port() -> u16 {
    22
}

pub struct Home {
    folder: TempDir,
}

impl Home {
    /// Nothing is there.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A service has written its settings.
    pub fn with_settings() -> Self {
        let home = Self::new();
        let switch = Switch {
            host: "sw-1.example".to_owned(),
            password: Secret::new(CANARY.to_owned()),
            tls: Tls::default(),
        };
        home.block(async |chain| {
            chain.set(&switch).await.unwrap();
        });
        home
    }

    fn block<T>(&self, act: impl AsyncFnOnce(ConfigManager) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let chain = ConfigManager::builder().database_in(&self.settings(), "switchd").unwrap().build();
        runtime.block_on(act(chain))
    }

    /// What the service reads.
    pub fn service(&self) -> Switch {
        self.block(async |chain| chain.get::<Switch>().await.unwrap())
    }

    pub fn settings(&self) -> PathBuf {
        self.path("settings")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Exit code, standard output, standard error.
    pub fn run(&self, arguments: &[&str], input: &str) -> (i32, String, String) {
        self.run_with(arguments, input, &[])
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harmony-config"));
        command.env_clear().env("HOME", self.folder.path()).env("USER", "tester");
        command.args(["--folder", self.settings().to_str().unwrap()]).args(arguments);
        command
    }

    pub fn run_with(
        &self,
        arguments: &[&str],
        input: &str,
        variables: &[(&str, &str)],
    ) -> (i32, String, String) {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Who does not read is not waited for.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let done = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    pub fn run_ok(&self, arguments: &[&str], input: &str) -> String {
        let (code, out, error) = self.run(arguments, input);
        assert_eq!(code, 0, "{arguments:?}: {error}");
        out
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run_ok(arguments, "")
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let out = self.ok(&arguments);
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{out}"))
    }

    /// Files of the settings that have this text.
    pub fn files_with(&self, text: &str) -> Vec<PathBuf> {
        files_with(&self.settings(), text)
    }
}

fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
            found.push(path);
        }
    }
    found
}
