//! Which earlier values are kept. Lines of the log are always.

use rusqlite::{Connection, params};

use super::error::Fault;

/// How much of the past is kept of each item. The values that it has, and the ones before, always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Most versions, with the one that it has.
    pub versions: u32,
    /// Most bytes of all these together, as they lie in the database.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { versions: 20, bytes: 256 * 1024 }
    }
}

/// How many times as much is kept for a continuous backup that has not got it: should it be gone for long, the database
/// does not grow without bounds.
const UNSAVED: u32 = 8;

/// Removes what is more than that. What a continuous backup has not got, all after the line `saved`, is kept for longer.
pub(crate) fn forget(
    connection: &Connection,
    name: i64,
    retention: &Retention,
    saved: Option<u64>,
) -> Result<(), Fault> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    connection
        .prepare_cached(
            "DELETE FROM contents WHERE line IN (
                 SELECT line FROM (
                     SELECT line, row_number() OVER newest AS number, sum(length(value)) OVER newest AS bytes
                     FROM contents WHERE name = ?1
                     WINDOW newest AS (ORDER BY line DESC ROWS UNBOUNDED PRECEDING)
                 ) WHERE number > 2 AND (number > ?2 OR bytes > ?3)
                     AND (line <= ?4 OR number > ?5 OR bytes > ?6))",
        )?
        .execute(params![
            name,
            retention.versions,
            number(retention.bytes),
            number(saved.unwrap_or(u64::MAX)),
            retention.versions.saturating_mul(UNSAVED),
            number(retention.bytes.saturating_mul(UNSAVED.into())),
        ])?;
    Ok(())
}
