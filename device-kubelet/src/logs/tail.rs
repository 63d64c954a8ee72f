//! Where the last lines of a log begin.
//!
//! Read backwards in blocks, so that the time depends on what is shown and not on what was logged.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{
    chain::LogFile,
    line::{HEAD, Line},
};

const BLOCK: usize = 64 * 1024;

/// Index of the file, and offset in it, where the last `lines` lines begin.
pub(super) fn start(files: &[LogFile], lines: u64) -> io::Result<(usize, u64)> {
    let mut count = Count { wanted: lines, seen: 0, any: false };
    for (index, file) in files.iter().enumerate().rev() {
        if let Some(offset) = backwards(&file.file, &mut count)? {
            return Ok((index, offset));
        }
    }
    Ok((0, 0))
}

struct Count {
    wanted: u64,
    seen: u64,
    any: bool,
}

impl Count {
    /// Takes the line before those taken; true if it is not wanted any more.
    fn is_beyond(&mut self, head: &[u8]) -> bool {
        let Some(line) = Line::parse(head) else { return false };
        // Parts belong to the end that follows; at the very end, the end has not been written.
        if line.full || !self.any {
            if self.seen == self.wanted {
                return true;
            }
            self.seen += 1;
        }
        self.any = true;
        false
    }
}

/// Offset of the first wanted line, if an unwanted one is before it in this file.
fn backwards(file: &File, count: &mut Count) -> io::Result<Option<u64>> {
    let mut block = vec![0; BLOCK];
    // End of the line whose beginning is looked for; a torn last line has none.
    let mut line_end: Option<u64> = None;
    let mut block_end = file.metadata()?.len();
    while block_end > 0 {
        let size = block_end.min(BLOCK as u64);
        let block_start = block_end - size;
        let block = &mut block[..usize::try_from(size).map_err(io::Error::other)?];
        file.read_exact_at(block, block_start)?;
        let mut at = block.len();
        while let Some(newline) = block[..at].iter().rposition(|b| *b == b'\n') {
            let line_start = block_start + newline as u64 + 1;
            if let Some(end) = line_end
                && count.is_beyond(&head(file, line_start, end)?)
            {
                return Ok(Some(end + 1));
            }
            line_end = Some(line_start - 1);
            at = newline;
        }
        block_end = block_start;
    }
    match line_end {
        Some(end) if count.is_beyond(&head(file, 0, end)?) => Ok(Some(end + 1)),
        _ => Ok(None),
    }
}

/// The beginning of the line between these offsets.
fn head(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(end - start).unwrap_or(HEAD).min(HEAD);
    let mut head = vec![0; length];
    file.read_exact_at(&mut head, start)?;
    Ok(head)
}
