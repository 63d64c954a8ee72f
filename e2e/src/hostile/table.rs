//! What was tried, what came back, and what that means.

use std::fmt::{self, Write as _};

use anyhow::{Result, ensure};

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was refused.
    Refused,
    /// It was taken, and nothing came of it.
    Harmless,
    /// It was meant to work, and worked.
    Works,
    /// It was meant to work, and did not: the refusals beside it show nothing.
    Broken,
    /// It should not have worked.
    Succeeded,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "refused",
            Self::Harmless => "no effect",
            Self::Works => "(control) works",
            Self::Broken => "(CONTROL) BROKEN",
            Self::Succeeded => "SUCCEEDED",
        })
    }
}

/// One line.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was tried.
    pub attempt: String,
    /// What came back.
    pub answer: String,
    /// What that means.
    pub verdict: Verdict,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Notes an attempt.
    pub fn note(&mut self, attempt: impl Into<String>, answer: impl Into<String>, verdict: Verdict) {
        let row = Row { attempt: attempt.into(), answer: shortened(&answer.into()), verdict };
        tracing::info!("{}: {} → {}", row.attempt, row.answer, row.verdict);
        self.rows.push(row);
    }

    /// Notes an attempt that must not work: `Err` says how it was refused, `Ok` what it got.
    pub fn attempt(&mut self, attempt: impl Into<String>, result: std::result::Result<String, String>) {
        match result {
            Ok(got) => self.note(attempt, got, Verdict::Succeeded),
            Err(refusal) => self.note(attempt, refusal, Verdict::Refused),
        }
    }

    /// Notes what must work, so that the refusals beside it mean something.
    pub fn control(&mut self, attempt: impl Into<String>, result: std::result::Result<String, String>) {
        match result {
            Ok(got) => self.note(attempt, got, Verdict::Works),
            Err(refusal) => self.note(attempt, refusal, Verdict::Broken),
        }
    }

    /// The lines.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Whether nothing that must not work did, and each control did.
    ///
    /// # Errors
    /// With the lines that are not as they should be.
    pub fn is_clean(&self) -> Result<()> {
        let wrong: Vec<String> = self
            .rows
            .iter()
            .filter(|row| matches!(row.verdict, Verdict::Succeeded | Verdict::Broken))
            .map(|row| format!("{}: {} ({})", row.attempt, row.answer, row.verdict))
            .collect();
        ensure!(wrong.is_empty(), "{} of {} attempts:\n{}", wrong.len(), self.rows.len(), wrong.join("\n"));
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&Row) -> &str| {
            self.rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default()
        };
        let (attempts, answers) = (width(|row| &row.attempt), width(|row| &row.answer));
        for row in &self.rows {
            writeln!(f, "{:attempts$}  {:answers$}  {}", row.attempt, row.answer, row.verdict)?;
        }
        Ok(())
    }
}

/// One line of at most so many characters, without control characters.
fn shortened(text: &str) -> String {
    const MOST: usize = 90;
    let mut line = String::new();
    for c in text.chars().take(MOST) {
        if c.is_control() {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().count() > MOST {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_or_a_broken_control_makes_it_unclean() {
        let mut table = Table::default();
        table.attempt("a", Err("no".to_owned()));
        table.control("b", Ok("yes".to_owned()));
        assert!(table.is_clean().is_ok());
        table.control("c", Err("no".to_owned()));
        assert!(table.is_clean().is_err_and(|error| error.to_string().contains("c: no")));
        let mut table = Table::default();
        table.attempt("d", Ok("the secret".to_owned()));
        assert!(table.is_clean().is_err_and(|error| error.to_string().contains("d: the secret")));
    }
}
