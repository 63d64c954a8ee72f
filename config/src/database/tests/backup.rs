//! The backup and restoring from it, also when its folder fails or hangs.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use super::*;
use crate::database::{
    Act, BackupError, BackupFolder, BackupState, DatabaseError, Filter, Restored, Retention, Until,
    chain::Hash, restore,
};

const WITHIN: Duration = Duration::from_secs(30);

struct Kept {
    fixture: Fixture,
    backup: TempDir,
}

impl Kept {
    /// With a continuous backup that has its first copy: whatever is written from now on can be restored alone.
    fn new(change: impl FnOnce(&mut BackupFolder)) -> Self {
        let backup = tempfile::tempdir().unwrap();
        let mut folder = BackupFolder::at(&backup.path().join("deep/backup"));
        change(&mut folder);
        let fixture = Fixture::with(Options { backup: Some(folder), ..Options::default() });
        let kept = Self { fixture, backup };
        kept.state();
        kept
    }

    fn folder(&self) -> PathBuf {
        self.backup.path().join("deep/backup")
    }

    /// How it stands when it had the time to follow.
    fn state(&self) -> BackupState {
        self.fixture.database.drain_backup(WITHIN).unwrap()
    }

    fn restored(&self, until: Until, name: &str) -> Result<(Database, Restored), DatabaseError> {
        self.state();
        restored(&self.fixture, &self.folder(), until, name)
    }

    fn files(&self, end: &str) -> Vec<PathBuf> {
        self.state();
        let mut files: Vec<_> =
            fs::read_dir(self.folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.to_str().unwrap().ends_with(end));
        files.sort();
        files
    }
}

fn restored(
    fixture: &Fixture,
    from: &Path,
    until: Until,
    name: &str,
) -> Result<(Database, Restored), DatabaseError> {
    let into = fixture.folder.path().join(name);
    let keyring = Keyring::open(&fixture.folder.path().join("keys")).unwrap();
    let options = Options { service: "switches".to_owned(), ..Options::default() };
    let restored = restore(from, until, &into, &keyring, &options, &actor())?;
    Ok((Database::open(&into, keyring, options).unwrap(), restored))
}

async fn state(database: &Database) -> Vec<(String, Value)> {
    let loaded = database.load().await.unwrap();
    loaded.into_iter().map(|(key, layer)| (key.to_string(), Value::Object(layer.values))).collect()
}

#[tokio::test]
async fn every_line_and_every_time_can_be_restored() {
    let kept = Kept::new(|folder| folder.log_limit = 3000);
    let database = &kept.fixture.database;
    let mut states = vec![Vec::new()];
    for n in 0..20 {
        match n % 4 {
            3 => drop(database.delete(&model("B"), &actor()).await.unwrap()),
            2 => drop(kept.fixture.set("B", json!({ "n": n, "login": { "token": CANARY } })).await),
            _ => drop(kept.fixture.set("A", json!({ "n": n, "password": format!("{CANARY}{n}") })).await),
        }
        states.push(state(database).await);
        // One line at a time for the most part, and sometimes several.
        if n % 4 != 3 {
            kept.state();
        }
    }
    assert!(kept.files("log.jsonl").len() > 2, "several copies: {:?}", kept.files(""));
    for (line, expected) in (0..).zip(&states) {
        let (database, restored) = kept.restored(Until::Line(line), &format!("{line}.db")).unwrap();
        assert_eq!(restored.line, line);
        assert_eq!(&state(&database).await, expected, "line {line}");
        let result = database.verify().await.unwrap();
        assert!(result.is_sound() && result.lines == line + 1, "{result:?}");
        let last =
            database.history(&Filter { changes_only: false, ..Filter::default() }).await.unwrap().remove(0);
        assert_eq!(last.line.act, Act::Restore);
    }
    let lines = database.history(&Filter::default()).await.unwrap();
    for (number, line) in lines.iter().map(|entry| &entry.line).enumerate() {
        let (database, restored) = kept.restored(Until::Time(line.at), &format!("at{number}.db")).unwrap();
        let expected =
            lines.iter().filter(|other| other.line.at <= line.at).map(|other| other.line.line).max();
        assert_eq!(Some(restored.line), expected);
        assert_eq!(state(&database).await, states[usize::try_from(restored.line).unwrap()]);
    }
    let (database, _) = kept.restored(Until::Newest, "newest.db").unwrap();
    assert_eq!(Some(&state(&database).await), states.last());
    assert_eq!(files_with(kept.backup.path(), CANARY), Vec::<PathBuf>::new(), "secrets are sealed in it");
}

#[tokio::test]
async fn a_restored_database_takes_the_place_of_the_old_one_and_goes_on() {
    let kept = Kept::new(|_| ());
    let database = &kept.fixture.database;
    kept.fixture.set("A", json!({ "n": 1 })).await;
    kept.fixture.set("A", json!({ "n": 2 })).await;
    let (other, _) = kept.restored(Until::Line(1), "restored.db").unwrap();
    other.close().await.unwrap();
    database.close().await.unwrap();
    fs::rename(kept.fixture.folder.path().join("restored.db"), kept.fixture.path()).unwrap();
    assert_eq!(kept.fixture.get("A").await, Some(json!({ "n": 1 })));
    assert_eq!(kept.fixture.set("A", json!({ "n": 3 })).await, 3);
    assert!(database.verify().await.unwrap().is_sound());
    // A folder takes one database; a write does not fail for it.
    let told = kept.state().error.unwrap();
    assert!(told.contains("another database") && told.contains("empty folder"), "{told}");
}

#[tokio::test]
async fn the_parts_of_one_change_are_restored_together() {
    let kept = Kept::new(|_| ());
    for key in ["A", "B", "C"] {
        kept.fixture.set(key, json!({ "n": 1 })).await;
    }
    for key in ["A", "B", "C"] {
        kept.fixture.set(key, json!({ "n": 2 })).await;
    }
    kept.fixture.database.rollback(None, 3, None, &actor()).await.unwrap();
    for (line, found) in [(6, 6), (7, 6), (8, 6), (9, 9)] {
        let (_, restored) = kept.restored(Until::Line(line), &format!("{line}.db")).unwrap();
        assert_eq!(restored.line, found);
    }
}

#[tokio::test]
async fn old_copies_go_and_what_is_before_the_oldest_is_refused() {
    let kept = Kept::new(|folder| (folder.log_limit, folder.copies) = (2000, 2));
    for n in 0..40 {
        kept.fixture.set("A", json!({ "n": n, "text": "x".repeat(300) })).await;
        kept.state();
    }
    assert_eq!((kept.files("base.db").len(), kept.files("log.jsonl").len()), (2, 2));
    let refused = kept.restored(Until::Line(3), "3.db").map(|_| ()).unwrap_err();
    let DatabaseError::Backup(BackupError::TooEarly { line, .. }) = refused else { panic!("{refused}") };
    assert!(!kept.fixture.folder.path().join("3.db").exists());
    for line in [line, 39, 40] {
        let (database, _) = kept.restored(Until::Line(line), &format!("{line}.db")).unwrap();
        assert_eq!(state(&database).await[0].1["n"], line - 1);
    }
}

#[tokio::test]
async fn what_a_killed_process_left_half_written_is_no_part_of_the_backup() {
    let kept = Kept::new(|_| ());
    for n in 1..=3 {
        kept.fixture.set("A", json!({ "n": n })).await;
    }
    let log = kept.files("log.jsonl").remove(0);
    let whole = fs::read(&log).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in [last + 1, last + 100, whole.len() - 1] {
        fs::write(&log, &whole[..cut]).unwrap();
        let (_, restored) = kept.restored(Until::Newest, &format!("{cut}.db")).unwrap();
        assert_eq!(restored.line, 2);
        // What is missing is added again.
        let added = kept.fixture.database.backup(&BackupFolder::at(&kept.folder())).await.unwrap();
        assert_eq!(added.line, 3);
        assert_eq!(fs::read(&log).unwrap().len(), whole.len());
    }
}

#[tokio::test]
async fn a_backup_that_was_changed_is_refused_and_nothing_is_left() {
    let kept = Kept::new(|_| ());
    for n in 1..=4 {
        kept.fixture.set("A", json!({ "n": n, "password": "p" })).await;
    }
    let log = kept.files("log.jsonl").remove(0);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let without = |number: usize| {
        let kept: Vec<&str> =
            lines.iter().enumerate().filter(|(at, _)| *at != number).map(|(_, line)| *line).collect();
        kept.join("\n") + "\n"
    };
    let mut forged: Value = serde_json::from_str(lines[3]).unwrap();
    forged["line"]["actor"]["who"] = json!("eve");
    let mut line: crate::database::Line = serde_json::from_value(forged["line"].clone()).unwrap();
    let before: crate::database::Line =
        serde_json::from_value(serde_json::from_str::<Value>(lines[2]).unwrap()["line"].clone()).unwrap();
    line.hash = line.expected_hash(before.hash);
    forged["line"]["hash"] = json!(line.hash);
    // A chain that is right, made by somebody who has not the keys.
    let forged = lines[..3].join("\n") + "\n" + &forged.to_string() + "\n";
    for changed in [
        text.replace("\"ada\"", "\"eve\""),
        text.replace("\\\"n\\\":4", "\\\"n\\\":9"),
        text.replace("\"line\":4", "\"line\":5"),
        without(2),
        without(0),
        forged,
    ] {
        assert_ne!(changed, text);
        fs::write(&log, changed).unwrap();
        let refused = kept.restored(Until::Newest, "x.db").map(|_| ()).unwrap_err();
        assert!(matches!(refused, DatabaseError::Backup(BackupError::Damaged { .. })), "{refused}");
    }
    fs::write(&log, &text).unwrap();
    kept.restored(Until::Newest, "good.db").unwrap();

    let other = BackupFolder::at(&kept.backup.path().join("other"));
    kept.fixture.database.backup(&other).await.unwrap();
    let base = other.path.join("00000001-base.db");
    let good = fs::read(&base).unwrap();
    let mut bad = good.clone();
    let at = bad.windows(3).position(|window| window == b"ada").unwrap();
    bad[at] = b'i';
    fs::write(&base, bad).unwrap();
    restored(&kept.fixture, &other.path, Until::Newest, "x.db").map(|_| ()).unwrap_err();
    let left = fs::read_dir(kept.fixture.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().starts_with('x')).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
    fs::write(&base, good).unwrap();
    restored(&kept.fixture, &other.path, Until::Newest, "x.db").unwrap();
}

#[tokio::test]
async fn a_restore_replaces_nothing() {
    let kept = Kept::new(|_| ());
    kept.fixture.set("A", json!({ "n": 1 })).await;
    let refused = kept.restored(Until::Newest, "config.db").map(|_| ()).unwrap_err();
    assert!(matches!(refused, DatabaseError::Backup(BackupError::Exists { .. })), "{refused}");
    assert_eq!(kept.fixture.get("A").await, Some(json!({ "n": 1 })));
    let nothing = restored(&kept.fixture, kept.backup.path(), Until::Newest, "x.db").map(|_| ()).unwrap_err();
    assert!(matches!(nothing, DatabaseError::Backup(BackupError::Empty { .. })), "{nothing}");
}

#[tokio::test]
async fn a_backup_that_fails_fails_no_write_and_catches_up() {
    let kept = Kept::new(|_| ());
    kept.fixture.set("A", json!({ "n": 1 })).await;
    kept.state();
    let away = kept.backup.path().join("away");
    fs::rename(kept.folder(), &away).unwrap();
    fs::write(kept.folder(), "a file, where a folder should be").unwrap();
    kept.fixture.set("A", json!({ "n": 2 })).await;
    kept.fixture.set("A", json!({ "n": 3 })).await;
    let told = kept.state();
    assert!(told.line == 1 && told.error.is_some(), "{told:?}");
    let condition = kept.fixture.database.condition();
    assert!(condition.problem.is_some_and(|problem| problem.reason == "backup"), "health needs a person");
    fs::remove_file(kept.folder()).unwrap();
    fs::rename(away, kept.folder()).unwrap();
    kept.fixture.set("A", json!({ "n": 4 })).await;
    let told = kept.state();
    assert!(told.line == 4 && told.error.is_none(), "{told:?}");
    let condition = kept.fixture.database.condition();
    assert_eq!((condition.problem, condition.facts["backup_line"].as_str()), (None, "4"));
    let (database, _) = kept.restored(Until::Line(2), "2.db").unwrap();
    assert_eq!(state(&database).await[0].1["n"], 2);
}

/// A log in whose place there is a pipe: who opens it waits, as on a mount that is gone.
struct Hanging {
    log: PathBuf,
    away: PathBuf,
}

impl Hanging {
    fn new(kept: &Kept) -> Self {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let log = kept.files("log.jsonl").pop().unwrap();
        let away = kept.backup.path().join("away.jsonl");
        fs::rename(&log, &away).unwrap();
        mknodat(CWD, &log, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        Self { log, away }
    }

    /// The mount is there again: who waited reads the file.
    fn ends(self) {
        let mut pipe = fs::OpenOptions::new().write(true).open(&self.log).unwrap();
        fs::rename(&self.away, &self.log).unwrap();
        std::io::copy(&mut fs::File::open(&self.log).unwrap(), &mut pipe).unwrap();
    }
}

#[tokio::test]
async fn a_backup_that_hangs_holds_up_no_write_and_catches_up() {
    a_backup_hangs(1 << 20).await;
}

#[tokio::test]
async fn a_copy_that_is_due_after_several_writes_leaves_none_of_them_out() {
    a_backup_hangs(1).await;
}

async fn a_backup_hangs(log_limit: u64) {
    // Few versions: what the backup has not got is kept for it all the same.
    let retention = Retention { versions: 2, ..Retention::default() };
    let backup = tempfile::tempdir().unwrap();
    let folder = BackupFolder { log_limit, ..BackupFolder::at(&backup.path().join("deep/backup")) };
    let fixture = Fixture::with(Options { retention, backup: Some(folder), ..Options::default() });
    let kept = Kept { fixture, backup };
    kept.fixture.set("A", json!({ "n": 1 })).await;
    assert_eq!(kept.state().line, 1);
    let hanging = Hanging::new(&kept);
    for n in 2..=9 {
        assert_eq!(kept.fixture.set("A", json!({ "n": n })).await, n);
    }
    assert_eq!(kept.fixture.get("A").await, Some(json!({ "n": 9 })));
    let told = kept.fixture.database.drain_backup(Duration::ZERO).unwrap();
    assert_eq!((told.line, &told.error), (1, &None), "{told:?}");
    // To close it waits for a moment only.
    kept.fixture.database.close().await.unwrap();
    assert_eq!(kept.fixture.set("A", json!({ "n": 10 })).await, 10);
    hanging.ends();
    let told = kept.state();
    assert_eq!((told.line, &told.error, told.busy_since), (10, &None, None), "{told:?}");
    for line in 1..=10 {
        let (database, restored) = kept.restored(Until::Line(line), &format!("{line}.db")).unwrap();
        assert_eq!((restored.line, &state(&database).await[0].1["n"]), (line, &json!(line)));
    }
    // Now that the backup has them, they are forgotten.
    kept.fixture.set("A", json!({ "n": 11 })).await;
    assert_eq!(contents(&kept).await, 2);
}

async fn contents(kept: &Kept) -> u64 {
    kept.fixture.database.close().await.unwrap();
    let connection = rusqlite::Connection::open(kept.fixture.path()).unwrap();
    connection.query_row("SELECT count(*) FROM contents", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_backup_that_does_not_answer_is_told_with_what_to_look_at() {
    let since: jiff::Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let state = BackupState { line: 7, error: None, busy_since: Some(since) };
    assert_eq!(state.problem(since + jiff::SignedDuration::from_secs(9)), None);
    let told = state.problem(since + jiff::SignedDuration::from_secs(10)).unwrap();
    assert!(told.contains("since 2026-11-21T12:00:00Z") && told.contains("line 7") && told.contains("mount"));
    let failed = BackupState { error: Some("no space".to_owned()), busy_since: None, ..state };
    assert_eq!(failed.problem(since).as_deref(), Some("no space"));
}

#[tokio::test]
async fn values_that_were_gone_before_the_backup_came_are_told_and_not_made_up() {
    let retention = Retention { versions: 2, ..Retention::default() };
    let fixture = Fixture::with(Options { retention, ..Options::default() });
    let backup = tempfile::tempdir().unwrap();
    let folder = BackupFolder::at(&backup.path().join("backup"));
    fixture.set("A", json!({ "n": 1 })).await;
    fixture.database.backup(&folder).await.unwrap();
    for n in 2..=6 {
        fixture.set("A", json!({ "n": n })).await;
    }
    fixture.database.backup(&folder).await.unwrap();
    for (line, is_kept) in [(1, true), (2, false), (4, false), (5, true), (6, true)] {
        match restored(&fixture, &folder.path, Until::Line(line), &format!("{line}.db")) {
            Ok((database, _)) => {
                assert!(is_kept, "line {line}");
                assert_eq!(state(&database).await[0].1["n"], line);
            }
            Err(DatabaseError::Backup(BackupError::Gap { line: gap, .. })) => {
                assert!(!is_kept && gap == line)
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_database_that_went_another_way_begins_a_new_copy_and_loses_none() {
    let kept = Kept::new(|_| ());
    let database = &kept.fixture.database;
    kept.fixture.set("A", json!({ "n": 1 })).await;
    database.close().await.unwrap();
    let old = fs::read(kept.fixture.path()).unwrap();
    kept.fixture.set("A", json!({ "n": 2 })).await;
    database.close().await.unwrap();
    fs::write(kept.fixture.path(), old).unwrap();
    database.accept(&actor()).await.unwrap();
    kept.fixture.set("A", json!({ "n": 3 })).await;
    assert_eq!(kept.state().error, None);
    assert_eq!(kept.files("log.jsonl").len(), 2);
    let (newest, _) = kept.restored(Until::Newest, "newest.db").unwrap();
    assert_eq!(state(&newest).await[0].1["n"], 3);
    fs::remove_file(kept.files("log.jsonl").remove(1)).unwrap();
    let (lost, _) = kept.restored(Until::Newest, "lost.db").unwrap();
    assert_eq!(state(&lost).await[0].1["n"], 2);
}

#[tokio::test]
async fn a_backup_is_its_owners_only() {
    let kept = Kept::new(|_| ());
    kept.fixture.set("A", json!({ "n": 1 })).await;
    kept.state();
    assert_eq!(fs::metadata(kept.folder()).unwrap().permissions().mode() & 0o777, 0o700);
    for file in kept.files("") {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "{}", file.display());
    }
}

#[test]
fn a_hash_is_written_as_it_is_read() {
    let hash = Hash([0xab; 32]);
    assert_eq!(serde_json::from_value::<Hash>(json!(hash)).unwrap(), hash);
    assert!(serde_json::from_value::<Hash>(json!("ab")).is_err());
}
