//! How results are shown: tables for people, JSON and YAML for programs, colours on terminals only.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::error::FleetError;

/// Format of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Names only.
    Name,
}

/// A colour, as a terminal knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// All is well.
    Green,
    /// Somebody should look.
    Yellow,
    /// Something is wrong.
    Red,
    /// Of no importance now.
    Grey,
}

impl Colour {
    /// The text in this colour, or as it is.
    pub fn paint(self, text: &str, coloured: bool) -> String {
        let code = match self {
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Red => 31,
            Self::Grey => 90,
        };
        if coloured { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Whether the standard output takes colours: a terminal, and nobody said `NO_COLOR`.
pub fn coloured() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A row of a table: its cells, and which of them has a colour.
pub struct Row {
    /// The cells.
    pub cells: Vec<String>,
    /// Index of a cell, and its colour.
    pub accent: (usize, Colour),
}

/// Columns without lines, as `kubectl` shows them.
pub fn table(header: &[&str], rows: &[Row], coloured: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(&row.cells);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let mut lines = table.lines();
    let mut text = String::new();
    if let Some(header) = lines.next() {
        text.push_str(header.trim_end());
        text.push('\n');
    }
    for (line, row) in lines.zip(rows) {
        text.push_str(&accented(line.trim_end(), row, coloured));
        text.push('\n');
    }
    text
}

/// Colours a cell after the columns were laid out: escape sequences have no width.
fn accented(line: &str, row: &Row, coloured: bool) -> String {
    let (index, colour) = row.accent;
    let mut from = 0;
    for cell in &row.cells[..index] {
        from += line[from..].find(cell.as_str()).map_or(0, |at| at + cell.len());
    }
    match row.cells.get(index).and_then(|cell| line[from..].find(cell.as_str()).map(|at| (from + at, cell))) {
        Some((at, cell)) => {
            format!("{}{}{}", &line[..at], colour.paint(cell, coloured), &line[at + cell.len()..])
        }
        None => line.to_owned(),
    }
}

/// JSON with a newline at the end.
///
/// # Errors
/// When the value cannot be written so.
pub fn json<T: Serialize>(value: &T) -> Result<String, FleetError> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| FleetError::Render(error.to_string()))
}

/// YAML.
///
/// # Errors
/// When the value cannot be written so.
pub fn yaml<T: Serialize>(value: &T) -> Result<String, FleetError> {
    serde_saphyr::to_string(value).map_err(|error| FleetError::Render(error.to_string()))
}

/// What a device or a stranger wrote, without what a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// Writes results.
///
/// # Errors
/// When the standard output takes nothing; a closed pipe is no error.
pub fn print(text: &str) -> Result<(), FleetError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Says something beside the results.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// The time between, as `kubectl` shows ages: `42s`, `5m`, `3h`, `12d`.
pub fn age(from: Timestamp, to: Timestamp) -> String {
    match (to.as_second() - from.as_second()).max(0) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_kubectls() {
        let start = Timestamp::UNIX_EPOCH;
        let after = |seconds| age(start, Timestamp::from_second(seconds).unwrap());
        assert_eq!(
            [after(0), after(119), after(120), after(7199), after(7200), after(172_800)],
            ["0s", "119s", "2m", "119m", "2h", "2d"].map(str::to_owned)
        );
        assert_eq!(age(Timestamp::from_second(5).unwrap(), start), "0s", "a clock that is behind");
    }

    #[test]
    fn a_device_cannot_write_on_the_operators_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{9b}d"), "a [2Jb c d");
    }

    #[test]
    fn a_colour_changes_no_column() {
        let rows = ["pi-1", "ready"].map(|name| Row {
            cells: vec![name.to_owned(), "ready".to_owned(), "x".to_owned()],
            accent: (1, Colour::Green),
        });
        let plain = table(&["NAME", "STATE", "MORE"], &rows, false);
        assert_eq!(plain, "NAME    STATE   MORE\npi-1    ready   x\nready   ready   x\n");
        let painted = table(&["NAME", "STATE", "MORE"], &rows, true);
        assert_eq!(painted.replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""), plain);
        assert!(
            painted.contains("\nready   \u{1b}[32mready\u{1b}[0m"),
            "the state, not the name: {painted:?}"
        );
    }
}
