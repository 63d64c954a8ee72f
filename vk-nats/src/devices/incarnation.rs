//! Incarnation tokens: they tell a device from a clone or an old copy of its disk.
//!
//! A token is `<number>.<random>`; each accepted hello hands out the next. It counts as the device's only
//! once the device has said something in the session that came with it, since an answer can get lost. A
//! device that shows a lower number, or the same number with another random part, runs from an old disk.

use std::fmt;

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    number: u64,
    random: String,
}

impl Token {
    /// The token after `last`.
    pub fn next(last: Option<&Token>) -> Self {
        Self {
            number: last.map_or(1, |last| last.number.saturating_add(1)),
            random: fleet_wire::name::RequestId::random().to_string(),
        }
    }

    /// Reads a token.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, random) = text.split_once('.')?;
        (!random.is_empty() && random.len() <= 64)
            .then(|| number.parse().ok().map(|number| Self { number, random: random.to_owned() }))
            .flatten()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.random)
    }
}

/// What a shown token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The newest incarnation, or the first.
    Newest,
    /// An old one: the disk was cloned or restored.
    Old,
}

/// Judges the token that a device shows against the newest that is known to have reached it.
///
/// A higher number than known is believed: it was handed out and confirmed, but this side ended before
/// it could be written down. None at all from a device that had one is an old disk, too.
pub fn judge(known: Option<&Token>, shown: Option<&Token>) -> Verdict {
    match (known, shown) {
        (None, _) => Verdict::Newest,
        (Some(_), None) => Verdict::Old,
        (Some(known), Some(shown)) => {
            if shown.number > known.number || shown == known {
                Verdict::Newest
            } else {
                Verdict::Old
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/incarnation.rs"]
mod tests;
