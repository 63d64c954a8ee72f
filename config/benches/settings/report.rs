//! The results, for a terminal and for programs.

use std::{fmt::Write as _, path::PathBuf};

use serde::Serialize;

use crate::{idle::Idle, kept::Kept, layered::Layered, machine::Machine, stored::Stored, times::Times};

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub load_after: String,
    pub layered: Option<Layered>,
    pub stored: Option<Stored>,
    pub kept: Option<Kept>,
    pub idle: Option<Idle>,
}

/// What is read, in how long by the three, and which figure of that.
type Compared<'t> = (&'static str, [&'t Times; 3], fn(&Times) -> f64);

/// One line: what, figures, the aim.
type Row = Vec<String>;

fn row<const N: usize>(columns: [&str; N]) -> Row {
    columns.map(str::to_owned).to_vec()
}

fn micros(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

fn timed(what: &str, times: &Times, aim: &str) -> Row {
    row([what, &micros(times.p50), &micros(times.p95), aim])
}

impl Report {
    /// `~/.local/state/harmony-fleet/bench/config-<time>.json`.
    pub fn usual_file(&self) -> PathBuf {
        let dirs = directories::BaseDirs::new().unwrap();
        let state = dirs.state_dir().unwrap_or(dirs.data_local_dir()).join("harmony-fleet/bench");
        state.join(format!("config-{}.json", self.machine.measured_at.replace(':', "")))
    }

    pub fn table(&self) -> String {
        let machine = &self.machine;
        let mut text = format!(
            "{}, {} cores, {}, Linux {}\nload {} before, {} after; {}\n",
            machine.processor,
            machine.cores,
            machine.system,
            machine.kernel,
            machine.load_before,
            self.load_after,
            machine.measured_at
        );
        if let Some(layered) = &self.layered {
            write(&mut text, &layered_rows(layered));
            let nanoseconds = |value: f64| format!("{value:.1}");
            write(
                &mut text,
                &[
                    row(["Cached value, ns", "mean", "aim"]),
                    row(["Handle::current", &nanoseconds(layered.current_ns), "<= 1000"]),
                    row(["Handle::peek", &nanoseconds(layered.peek_ns), "<= 1000"]),
                ],
            );
        }
        if let Some(stored) = &self.stored {
            write(&mut text, &stored_rows(stored));
        }
        if let Some(kept) = &self.kept {
            write(&mut text, &kept_rows(kept));
        }
        if let Some(idle) = &self.idle {
            let number = |number: u64| number.to_string();
            write(
                &mut text,
                &[
                    row([&format!("A handle that waits for {} s", idle.seconds), "", "aim"]),
                    row(["wake-ups", &number(idle.wake_ups), ""]),
                    row(["CPU, ms", &format!("{:.1}", idle.cpu_ms), ""]),
                    row(["bytes written", &number(idle.bytes_written), "0"]),
                    row(["threads", &idle.threads.to_string(), ""]),
                    row(["resident, KiB", &number(idle.resident), ""]),
                ],
            );
        }
        text
    }
}

fn layered_rows(layered: &Layered) -> Vec<Row> {
    let head = "Defaults < TOML file < environment, µs";
    let mut rows = vec![row([head, "ours", "figment", "config", "ours/figment", "ours/config", "aim"])];
    let (figment, config, first) = (&layered.figment, &layered.config, &layered.first);
    let lines: [Compared<'_>; 7] = [
        ("read, p50", [&layered.ours, figment, config], |times| times.p50),
        ("read, mean", [&layered.ours, figment, config], |times| times.mean),
        ("read, p95", [&layered.ours, figment, config], |times| times.p95),
        ("read with a chain of its own, p50", [&layered.ours_anew, figment, config], |times| times.p50),
        ("read with a chain of its own, p95", [&layered.ours_anew, figment, config], |times| times.p95),
        ("first read of a process, p50", [&first.ours, &first.figment, &first.config], |times| times.p50),
        ("first read of a process, p95", [&first.ours, &first.figment, &first.config], |times| times.p95),
    ];
    for (what, times, of) in lines {
        let [ours, figment, config] = times.map(of);
        let ratio = |theirs: f64| format!("{:.2}", ours / theirs);
        rows.push(row([
            what,
            &micros(ours),
            &micros(figment),
            &micros(config),
            &ratio(figment),
            &ratio(config),
            // What happens once is shown, and is not what the aim is about.
            if what.starts_with("first") { "" } else { "<= 1" },
        ]));
    }
    rows
}

fn stored_rows(stored: &Stored) -> Vec<Row> {
    let head = format!("Database, {} items × {} versions, µs", stored.items, stored.versions);
    let process = format!("get while another process writes ({} times)", stored.writes_of_process);
    let task = format!("get while this process writes ({} times)", stored.writes_of_task);
    let search = format!("search ({} found)", stored.found);
    vec![
        row([&head, "p50", "p95", "aim (p95)"]),
        timed("get", &stored.get, "<= 5000"),
        timed(&process, &stored.get_beside_process, "<= 5000"),
        timed(&task, &stored.get_beside_task, "<= 5000"),
        timed("set", &stored.write, ""),
        timed("set of what is there", &stored.same, ""),
        timed("start: keys, database, all items", &stored.start, "<= 100000"),
        timed(&search, &stored.search, ""),
        row(["bytes written to the disk for a set", &format!("{:.0}", stored.bytes_per_write), "", ""]),
        row(["of what is there", &format!("{:.0}", stored.bytes_per_same), "", "0"]),
        row(["size, MiB", &format!("{:.1}", stored.size as f64 / (1024.0 * 1024.0)), "", "< 10"]),
    ]
}

fn kept_rows(kept: &Kept) -> Vec<Row> {
    vec![
        row(["Signed and kept, µs", "p50", "p95", "aim (p95)"]),
        timed(&format!("check an update of {} bytes", kept.small.bytes), &kept.small.check, "< 1000"),
        timed(&format!("check an update of {} bytes", kept.large.bytes), &kept.large.check, "< 1000"),
        timed(
            &format!("open last known good, {} items, {} KiB", kept.items, kept.file_bytes / 1024),
            &kept.open,
            "< 50000",
        ),
        timed("recall one of them", &kept.recall, ""),
    ]
}

/// Columns under each other: text to the left, the rest to the right.
fn write(text: &mut String, rows: &[Row]) {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    text.push('\n');
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}
