//! Logs as containers and runtimes leave them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    time::Duration,
};

use futures::TryStreamExt as _;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

struct Log {
    folder: TempDir,
    ended: watch::Sender<bool>,
}

impl Log {
    fn new(content: &str) -> Self {
        let log = Self { folder: tempfile::tempdir().unwrap(), ended: watch::Sender::new(false) };
        fs::write(log.path(), content).unwrap();
        log
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("0.log")
    }

    fn write(&self, content: &str) {
        append(&self.path(), content);
    }

    async fn shown(&self, options: LogOptions) -> String {
        let chunks = stream(self.path(), options, self.ended.subscribe());
        text(&chunks.try_collect::<Vec<_>>().await.unwrap().concat())
    }

    async fn followed(&self, options: LogOptions) -> LogReader {
        let options = LogOptions { follow: true, ..options };
        LogReader::open(self.path(), options, self.ended.subscribe()).await.unwrap()
    }
}

fn append(path: &Path, content: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn next(reader: &mut LogReader) -> Option<String> {
    let chunk = tokio::time::timeout(Duration::from_secs(30), reader.next_chunk(CHUNK));
    chunk.await.expect("a chunk within 30 s").unwrap().map(|bytes| text(&bytes))
}

fn line(second: u32, flag: &str, said: &str) -> String {
    format!("2026-11-21T10:00:{second:02}.000000001+00:00 stdout {flag} {said}\n")
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|n| line(n % 60, "F", &format!("line {n}"))).collect()
}

fn all() -> LogOptions {
    LogOptions::default()
}

fn tail(lines: u64) -> LogOptions {
    LogOptions { tail_lines: Some(lines), ..all() }
}

#[tokio::test]
async fn all_lines_are_shown_without_their_prefix() {
    let log = Log::new(&lines(0..3));
    assert_eq!(log.shown(all()).await, "line 0\nline 1\nline 2\n");
    assert_eq!(Log::new("").shown(all()).await, "");
}

#[tokio::test]
async fn a_missing_file_is_an_error() {
    let (_keep, ended) = watch::channel(false);
    let error = LogReader::open("/does/not/exist/0.log".into(), all(), ended).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn parts_are_joined_and_a_torn_line_is_left_out() {
    let content = [line(0, "P", "a"), line(0, "P", "b"), line(0, "F", "c"), line(1, "F", "d")].concat();
    let log = Log::new(&(content + "2026-11-21T10:00:02.000000001+00:00 stdout F torn"));
    assert_eq!(log.shown(all()).await, "abc\nd\n");
    assert_eq!(log.shown(tail(2)).await, "abc\nd\n");
    assert_eq!(log.shown(tail(1)).await, "d\n");
    let times = LogOptions { timestamps: true, ..all() };
    assert_eq!(
        log.shown(times).await,
        "2026-11-21T10:00:00.000000001Z abc\n2026-11-21T10:00:01.000000001Z d\n"
    );
    assert_eq!(Log::new(&line(0, "P", "only a part")).shown(all()).await, "only a part");
}

#[tokio::test]
async fn foreign_lines_are_left_out() {
    let log = Log::new(&format!("garbage\n\n{}\u{0}\n{}", line(0, "F", "a"), line(1, "F", "b")));
    assert_eq!(log.shown(all()).await, "a\nb\n");
    assert_eq!(log.shown(tail(1)).await, "b\n");
}

#[tokio::test]
async fn an_endless_line_is_passed_over() {
    let endless = "x".repeat(3 * line::LONGEST);
    let log = Log::new(&format!("{}{}{}", line(0, "F", "a"), line(1, "F", &endless), line(2, "F", "b")));
    assert_eq!(log.shown(all()).await, "a\nb\n");
}

#[tokio::test]
async fn the_tail_is_found_across_blocks() {
    let content = lines(0..10_000);
    let log = Log::new(&content);
    for wanted in [0, 1, 2, 999, 9_999, 10_000, 10_001, u64::MAX] {
        let first = 10_000_u64.saturating_sub(wanted);
        let expected: String = (first..10_000).map(|n| format!("line {n}\n")).collect();
        assert_eq!(log.shown(tail(wanted)).await, expected, "{wanted}");
    }
}

#[tokio::test]
async fn since_leaves_out_what_is_older() {
    let log = Log::new(&lines(0..5));
    let since = |text: &str| LogOptions { since: Some(text.parse().unwrap()), ..all() };
    assert_eq!(log.shown(since("2026-11-21T10:00:03Z")).await, "line 3\nline 4\n");
    assert_eq!(log.shown(since("2026-11-21T12:00:04.000000001+02:00")).await, "line 4\n");
    assert_eq!(log.shown(since("2027-01-01T00:00:00Z")).await, "");
}

#[tokio::test]
async fn the_limit_cuts_within_a_line() {
    let log = Log::new(&lines(0..5));
    for (limit, expected) in [
        (0, ""),
        (3, "lin"),
        (7, "line 0\n"),
        (9, "line 0\nli"),
        (1_000, "line 0\nline 1\nline 2\nline 3\nline 4\n"),
    ] {
        let options = LogOptions { limit_bytes: Some(limit), ..all() };
        assert_eq!(log.shown(options).await, expected, "{limit}");
    }
    let stamped = LogOptions { limit_bytes: Some(33), timestamps: true, ..tail(1) };
    assert_eq!(log.shown(stamped).await, "2026-11-21T10:00:04.000000001Z li");
}

#[tokio::test]
async fn following_shows_what_is_written_and_ends_with_the_container() {
    let log = Log::new(&lines(0..2));
    let mut reader = log.followed(tail(1)).await;
    assert_eq!(next(&mut reader).await.unwrap(), "line 1\n");
    log.write(&lines(2..3));
    assert_eq!(next(&mut reader).await.unwrap(), "line 2\n");
    // Half a line is not shown before its other half is there.
    let whole = line(3, "F", "whole");
    log.write(&whole[..20]);
    log.write(&whole[20..]);
    assert_eq!(next(&mut reader).await.unwrap(), "whole\n");
    log.write(&lines(4..5));
    log.ended.send_replace(true);
    assert_eq!(next(&mut reader).await.unwrap(), "line 4\n");
    assert_eq!(next(&mut reader).await, None);
    assert_eq!(next(&mut reader).await, None);
}

#[tokio::test]
async fn following_ends_at_the_limit() {
    let log = Log::new("");
    let mut reader = log.followed(LogOptions { limit_bytes: Some(4), ..all() }).await;
    log.write(&lines(0..1));
    assert_eq!(next(&mut reader).await.unwrap(), "line");
    assert_eq!(next(&mut reader).await, None);
}

#[tokio::test]
async fn following_ends_when_nobody_will_tell_of_an_end() {
    let Log { folder, ended } = Log::new(&lines(0..1));
    let path = folder.path().join("0.log");
    let options = LogOptions { follow: true, ..all() };
    let mut reader = LogReader::open(path, options, ended.subscribe()).await.unwrap();
    drop(ended);
    assert_eq!(next(&mut reader).await.unwrap(), "line 0\n");
    assert_eq!(next(&mut reader).await, None);
}

#[tokio::test]
async fn a_file_that_conmon_replaces_is_read_to_its_end() {
    let log = Log::new(&lines(0..1));
    let mut reader = log.followed(all()).await;
    assert_eq!(next(&mut reader).await.unwrap(), "line 0\n");
    log.write(&lines(1..2));
    let fresh = log.folder.path().join("0.log.tmp");
    fs::write(&fresh, "").unwrap();
    fs::rename(&fresh, log.path()).unwrap();
    log.write(&lines(2..3));
    let mut shown = next(&mut reader).await.unwrap();
    while !shown.contains("line 2") {
        shown += &next(&mut reader).await.unwrap();
    }
    assert_eq!(shown, "line 1\nline 2\n");
    log.write(&lines(3..4));
    assert_eq!(next(&mut reader).await.unwrap(), "line 3\n");
}

#[tokio::test]
async fn files_that_were_renamed_away_are_read_in_order() {
    let log = Log::new(&lines(4..6));
    append(&log.folder.path().join("0.log.20261121-100000"), &lines(0..2));
    append(&log.folder.path().join("0.log.20261121-110000"), &lines(2..4));
    append(&log.folder.path().join("0.log.20261121-090000.gz"), "compressed");
    append(&log.folder.path().join("1.log"), &lines(50..51));
    assert_eq!(log.shown(all()).await, "line 0\nline 1\nline 2\nline 3\nline 4\nline 5\n");
    assert_eq!(log.shown(tail(3)).await, "line 3\nline 4\nline 5\n");
    let mut reader = log.followed(tail(1)).await;
    assert_eq!(next(&mut reader).await.unwrap(), "line 5\n");
    log.write(&lines(6..7));
    fs::rename(log.path(), log.folder.path().join("0.log.20261121-120000")).unwrap();
    log.write(&lines(7..8));
    fs::rename(log.path(), log.folder.path().join("0.log.20261121-130000")).unwrap();
    log.write(&lines(8..9));
    let mut shown = String::new();
    while !shown.contains("line 8") {
        shown += &next(&mut reader).await.unwrap();
    }
    assert_eq!(shown, "line 6\nline 7\nline 8\n");
}

/// As the agent does it: a second name, then a new file over the first.
fn rotate(log: &Log, number: u32) {
    fs::hard_link(log.path(), log.folder.path().join(format!("0.log.{number:010}"))).unwrap();
    let fresh = log.folder.path().join("0.log.tmp");
    fs::write(&fresh, "").unwrap();
    fs::rename(&fresh, log.path()).unwrap();
}

#[tokio::test]
async fn a_file_with_two_names_is_shown_once() {
    let log = Log::new(&lines(2..4));
    append(&log.folder.path().join("0.log.0000000001"), &lines(0..2));
    // Between the second name and the runtime's new file.
    let rotated = log.folder.path().join("0.log.0000000002");
    fs::hard_link(log.path(), &rotated).unwrap();
    assert_eq!(log.shown(all()).await, "line 0\nline 1\nline 2\nline 3\n");
    assert_eq!(log.shown(tail(3)).await, "line 1\nline 2\nline 3\n");
    let mut reader = log.followed(tail(1)).await;
    assert_eq!(next(&mut reader).await.unwrap(), "line 3\n");
    log.write(&lines(4..5));
    assert_eq!(next(&mut reader).await.unwrap(), "line 4\n");
    // The rotation is given up.
    fs::remove_file(&rotated).unwrap();
    log.write(&lines(5..6));
    assert_eq!(next(&mut reader).await.unwrap(), "line 5\n");
    rotate(&log, 2);
    log.write(&lines(6..7));
    assert_eq!(next(&mut reader).await.unwrap(), "line 6\n");
    assert_eq!(log.shown(all()).await, (0..7).map(|n| format!("line {n}\n")).collect::<String>());
}

#[tokio::test]
async fn a_line_in_parts_may_be_rotated_in_between() {
    let log = Log::new(&[line(0, "F", "a"), line(1, "P", "b")].concat());
    let times = LogOptions { timestamps: true, ..all() };
    rotate(&log, 1);
    log.write(&line(2, "F", "c"));
    assert_eq!(log.shown(all()).await, "a\nbc\n");
    assert_eq!(log.shown(tail(1)).await, "bc\n");
    assert!(log.shown(times).await.ends_with("2026-11-21T10:00:01.000000001Z bc\n"));
}

#[tokio::test]
async fn a_slow_follower_goes_on_with_the_oldest_file_that_is_left() {
    let log = Log::new(&lines(0..2));
    let mut reader = log.followed(all()).await;
    assert_eq!(next(&mut reader).await.unwrap(), "line 0\nline 1\n");
    for number in 1..4 {
        rotate(&log, number);
        log.write(&lines(2 * number..2 * number + 2));
    }
    // What it had open is gone by name only; of the next one, nothing is left.
    for number in 1..3 {
        fs::remove_file(log.folder.path().join(format!("0.log.{number:010}"))).unwrap();
    }
    log.ended.send_replace(true);
    let mut shown = String::new();
    while let Some(chunk) = next(&mut reader).await {
        shown += &chunk;
    }
    assert_eq!(shown, "line 4\nline 5\nline 6\nline 7\n");
}

#[tokio::test]
async fn between_rename_and_reopen_what_was_rotated_is_shown() {
    let log = Log::new(&lines(0..2));
    fs::rename(log.path(), log.folder.path().join("0.log.20261121-100000")).unwrap();
    assert_eq!(log.shown(all()).await, "line 0\nline 1\n");
}

#[tokio::test]
async fn chunks_are_no_longer_than_asked_for() {
    let log = Log::new(&lines(0..100));
    let (_keep, ended) = watch::channel(false);
    let mut reader = LogReader::open(log.path(), all(), ended).await.unwrap();
    let mut shown = Vec::new();
    while let Some(chunk) = reader.next_chunk(10).await.unwrap() {
        assert!((1..=10).contains(&chunk.len()));
        shown.extend_from_slice(&chunk);
    }
    assert_eq!(text(&shown), (0..100).map(|n| format!("line {n}\n")).collect::<String>());
}

/// What is shown, worked out the simple way.
fn expected(parts: &[(bool, String)], wanted: Option<u64>) -> String {
    let mut shown = vec![String::new()];
    for (full, said) in parts {
        let last = shown.last_mut().unwrap();
        last.push_str(said);
        if *full {
            last.push('\n');
            shown.push(String::new());
        }
    }
    if parts.last().is_none_or(|(full, _)| *full) {
        shown.pop();
    }
    let skip = wanted.map_or(0, |n| shown.len().saturating_sub(usize::try_from(n).unwrap()));
    shown[skip..].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_log_is_shown_line_by_line(
        parts in prop::collection::vec((any::<bool>(), "[ -~]{0,40}"), 0..200),
        wanted in prop::option::of(0_u64..250),
        max in 1_usize..200,
    ) {
        let content: String = parts
            .iter()
            .map(|(full, said)| line(0, if *full { "F" } else { "P" }, said))
            .collect();
        let log = Log::new(&content);
        let mut source = Source::open(log.path(), &LogOptions { tail_lines: wanted, ..all() }).unwrap();
        let mut shown = Vec::new();
        while let Progress::Bytes(bytes) = source.read(max).unwrap() {
            shown.extend_from_slice(&bytes);
        }
        prop_assert_eq!(text(&shown), expected(&parts, wanted));
    }

    #[test]
    fn no_content_makes_it_fail(content in prop::collection::vec(any::<u8>(), 0..4096), wanted in prop::option::of(0_u64..50)) {
        let log = Log::new("");
        fs::write(log.path(), &content).unwrap();
        let options = LogOptions { tail_lines: wanted, timestamps: true, ..all() };
        let mut source = Source::open(log.path(), &options).unwrap();
        while let Progress::Bytes(_) = source.read(100).unwrap() {}
    }
}
