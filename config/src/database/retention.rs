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

/// Removes what is more than that.
pub(crate) fn forget(connection: &Connection, name: i64, retention: &Retention) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "DELETE FROM contents WHERE line IN (
                 SELECT line FROM (
                     SELECT line, row_number() OVER newest AS number, sum(length(value)) OVER newest AS bytes
                     FROM contents WHERE name = ?1
                     WINDOW newest AS (ORDER BY line DESC ROWS UNBOUNDED PRECEDING)
                 ) WHERE number > 2 AND (number > ?2 OR bytes > ?3))",
        )?
        .execute(params![name, retention.versions, i64::try_from(retention.bytes).unwrap_or(i64::MAX)])?;
    Ok(())
}
