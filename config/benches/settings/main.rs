//! What settings cost: reads, writes, the start, bytes on the disk, an idle handle; and layered reads of one struct
//! beside `figment` and `config`.
//!
//! `make bench-config`, or `cargo bench -p harmony-config --bench settings -- --help`. It prints a table, writes the
//! same as JSON, and judges nothing: the last column is what we aim at.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod idle;
mod kept;
mod layered;
mod machine;
mod model;
mod report;
mod stored;
mod times;

use std::{path::PathBuf, process::Command};

use report::Report;

/// Says to a process that the benchmark starts which part it is.
const ROLE: &str = "SETTINGS_BENCH_ROLE";
/// The folder of that part.
const FOLDER: &str = "SETTINGS_BENCH_FOLDER";

const HELP: &str = "\
Usage: cargo bench -p harmony-config --bench settings -- [OPTIONS]

  --only PARTS          of layered,stored,kept,idle (all if not said)
  --rounds N            layered reads of each library (2000)
  --items N             items in the database and in the last-known-good file (500)
  --versions N          times that each item is written (20)
  --idle-seconds N      for how long the idle handle is looked at (60)
  --folder FOLDER       where files are written (the build's temporary folder)
  --json FILE           where the report is written (~/.local/state/harmony-fleet/bench/config-<time>.json)
  --help                this
";

/// How much is measured.
struct Options {
    only: Vec<String>,
    rounds: usize,
    items: usize,
    versions: usize,
    idle_seconds: u64,
    folder: PathBuf,
    json: Option<PathBuf>,
}

impl Options {
    fn read() -> Result<Self, String> {
        let mut options = Self {
            only: ["layered", "stored", "kept", "idle"].map(str::to_owned).to_vec(),
            rounds: 2000,
            items: 500,
            versions: 20,
            idle_seconds: 60,
            folder: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            json: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            // Cargo says it to every benchmark.
            if name == "--bench" {
                continue;
            }
            let value = arguments.next().ok_or(HELP)?;
            let number = || value.parse::<usize>().map_err(|_| format!("{name} takes a number\n\n{HELP}"));
            match name.as_str() {
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = number()?.max(1),
                "--items" => options.items = number()?.max(1),
                "--versions" => options.versions = number()?.max(1),
                "--idle-seconds" => options.idle_seconds = number()?.max(1) as u64,
                "--folder" => options.folder = PathBuf::from(value),
                "--json" => options.json = Some(PathBuf::from(value)),
                _ => return Err(HELP.to_owned()),
            }
        }
        Ok(options)
    }

    fn has(&self, part: &str) -> bool {
        self.only.iter().any(|only| only == part)
    }
}

/// This program again, as a part of the benchmark.
fn itself(role: &str, folder: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).env(FOLDER, folder);
    command
}

fn main() {
    if let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER).map(PathBuf::from)) {
        let mut words = role.split(' ');
        let number = |word: Option<&str>| word.and_then(|word| word.parse().ok()).unwrap_or(1);
        return match words.next() {
            Some("layered") => layered::child(&folder, number(words.next()) as usize),
            Some("first") => layered::first(&folder, words.next().unwrap_or_default()),
            Some("write") => stored::write_until_killed(&folder),
            Some("idle") => idle::child(&folder, number(words.next())),
            _ => panic!("no such part: {role}"),
        };
    }
    let options = match Options::read() {
        Ok(options) => options,
        Err(help) => {
            print!("{help}");
            return;
        }
    };
    let mut report = Report { machine: machine::Machine::now(), ..Report::default() };
    if options.has("layered") {
        report.layered = Some(layered::measure(&options));
    }
    if options.has("stored") {
        report.stored = Some(stored::measure(&options));
    }
    if options.has("kept") {
        report.kept = Some(kept::measure(&options));
    }
    if options.has("idle") {
        report.idle = Some(idle::measure(&options));
    }
    report.load_after = machine::load();
    print!("{}", report.table());
    let file = options.json.unwrap_or_else(|| report.usual_file());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
    println!("\nwritten to {}", file.display());
}
