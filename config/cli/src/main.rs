//! `harmony-config`: the settings of this user's services, for people.
//!
//! Owns the arguments, what is printed, and the exit codes. What settings are, and where they are kept, is the
//! library's; it works on what the database has, and knows no service's types.

mod describe;
mod doctor;
mod error;
mod field;
mod home;
mod output;
mod past;
mod read;
mod rotate;
mod write;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::{error::Error, home::Home};

/// Reads, sets and looks after the settings that services keep in a database on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "harmony-config",
    version,
    after_help = "Examples:
  harmony-config list
  harmony-config get BrocadeSwitchAuth
  harmony-config set BrocadeSwitchAuth host sw-1.example
  harmony-config set BrocadeSwitchAuth password < password.txt
  harmony-config history BrocadeSwitchAuth
  harmony-config doctor

Secrets are masked, but for `reveal` and `export --reveal-secrets`, which write a line into the audit log first.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused or not as it was written."
)]
struct Command {
    #[command(flatten)]
    home: Home,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Get(read::Get),
    Set(write::Set),
    Delete(write::Delete),
    List(read::List),
    Search(read::Search),
    Explain(read::Explain),
    Reveal(read::Reveal),
    History(past::History),
    Rollback(past::Rollback),
    Verify(past::Verify),
    Rotate(rotate::Rotate),
    Template(read::Template),
    Export(read::Export),
    Import(write::Import),
    Backup(past::Backup),
    Restore(past::Restore),
    Doctor(doctor::Doctor),
    /// Prints a completion script for a shell.
    #[command(after_help = "Examples:\n  source <(harmony-config completion bash)")]
    #[command(alias = "completions")]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the version.
    Version,
}

impl Command {
    async fn run(self) -> Result<(), Error> {
        let Self { home, verb } = self;
        match verb {
            Verb::Get(get) => get.run(&home).await,
            Verb::Set(set) => set.run(&home).await,
            Verb::Delete(delete) => delete.run(&home).await,
            Verb::List(list) => list.run(&home).await,
            Verb::Search(search) => search.run(&home).await,
            Verb::Explain(explain) => explain.run(&home).await,
            Verb::Reveal(reveal) => reveal.run(&home).await,
            Verb::History(history) => history.run(&home).await,
            Verb::Rollback(rollback) => rollback.run(&home).await,
            Verb::Verify(verify) => verify.run(&home).await,
            Verb::Rotate(rotate) => rotate.run(&home).await,
            Verb::Template(template) => template.run(&home).await,
            Verb::Export(export) => export.run(&home).await,
            Verb::Import(import) => import.run(&home).await,
            Verb::Backup(backup) => backup.run(&home).await,
            Verb::Restore(restore) => restore.run(&home).await,
            Verb::Doctor(doctor) => doctor.run(&home).await,
            Verb::Version => output::print(&format!("harmony-config {}\n", env!("CARGO_PKG_VERSION"))),
            Verb::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "harmony-config", &mut script);
                output::print(&String::from_utf8_lossy(&script))
            }
        }
    }
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("harmony-config: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(command.run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("harmony-config: {}", output::plain_lines(&error.to_string()));
            if let Some(next) = error.next().filter(|next| !next.is_empty()) {
                eprintln!("next: {}", output::plain(next));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
