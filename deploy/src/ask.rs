//! Questions to the person at the terminal. Without one, nothing is assumed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::error::FleetError;

/// Whether a person answers `y`.
///
/// # Errors
/// [`FleetError::Refused`] without a terminal, or when the answer is another one.
pub fn confirm(question: &str, instead: &str) -> Result<(), FleetError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(FleetError::refused(
            format!("nobody is there to answer: {question}"),
            format!("say it beforehand with {instead}"),
        ));
    }
    let mut err = io::stderr();
    write!(err, "{question} [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if is_yes(&answer) {
        Ok(())
    } else {
        Err(FleetError::refused("nothing was changed", "answer y to go on"))
    }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        assert!(["y\n", "Y", " yes "].into_iter().all(is_yes));
        assert!(!["", "\n", "n", "yeah", "yy"].into_iter().any(is_yes));
    }
}
