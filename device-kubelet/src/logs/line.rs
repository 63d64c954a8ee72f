//! A line of a log in the CRI format: `<RFC 3339 time> <stdout|stderr> <F|P>[:tags] <text>`. Pure.
//!
//! `P` is a part of a line whose end follows, `F` is a line or the end of one.

use bytes::BytesMut;
use jiff::Timestamp;

/// Longest line that is taken; conmon and containerd write parts of at most 16 KiB.
pub(super) const LONGEST: usize = 256 * 1024;
/// Enough of a line's beginning to see whether it is a part.
pub(super) const HEAD: usize = 64;

/// A line without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    time: &'a [u8],
    /// It ends a line of the program.
    pub(super) full: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    /// `None` if it is not in the format.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |b| *b == b' ');
        let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        if !matches!(stream, b"stdout" | b"stderr") {
            return None;
        }
        let full = match tags.split(|b| *b == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, full, text: fields.next().unwrap_or_default() })
    }

    /// `None` if it is no time.
    pub(super) fn time(&self) -> Option<Timestamp> {
        std::str::from_utf8(self.time).ok()?.parse().ok()
    }

    /// Appends what is shown of it; the time only at the beginning of a program's line.
    pub(super) fn show(&self, at: Option<Timestamp>, out: &mut BytesMut) {
        if let Some(at) = at {
            out.extend_from_slice(format!("{at:.9} ").as_bytes());
        }
        out.extend_from_slice(self.text);
        if self.full {
            out.extend_from_slice(b"\n");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_both_runtimes_are_read() {
        for line in [
            "2026-11-21T09:17:51.569584415+00:00 stdout F hello  world",
            "2026-11-21T09:17:51.569584415Z stdout F:tag hello  world",
        ] {
            let line = Line::parse(line.as_bytes()).unwrap();
            assert!(line.full);
            let mut out = BytesMut::new();
            line.show(line.time(), &mut out);
            assert_eq!(&out[..], b"2026-11-21T09:17:51.569584415Z hello  world\n");
        }
    }

    #[test]
    fn empty_texts_are_lines_too() {
        for line in ["2026-11-21T09:17:51Z stderr P ", "2026-11-21T09:17:51Z stderr P"] {
            let line = Line::parse(line.as_bytes()).unwrap();
            assert_eq!((line.full, line.text), (false, &b""[..]));
        }
    }

    #[test]
    fn a_time_keeps_its_nine_decimals_and_becomes_utc() {
        let line = Line::parse(b"2026-11-21T11:17:51.5+02:00 stdout F x").unwrap();
        let mut out = BytesMut::new();
        line.show(line.time(), &mut out);
        assert_eq!(&out[..], b"2026-11-21T09:17:51.500000000Z x\n");
    }

    #[test]
    fn what_is_not_in_the_format_is_no_line() {
        for line in ["", "hello", "t stdout", "t stdout X y", "t stdin F y", "t stdout FF y"] {
            assert_eq!(Line::parse(line.as_bytes()), None, "{line:?}");
        }
    }
}
