//! The database as several processes, a user who may not write, a full disk and `kill -9` find it: this test starts
//! itself again.

#![cfg(feature = "sqlite")]
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use harmony_config::{
    Actor, Change, Model, SchemaVersion, Source as _, SourceError,
    database::{Database, Filter, Options},
    keyring::Keyring,
};
use serde_json::json;

const FOLDER: &str = "DATABASE_TEST_FOLDER";
const ROLE: &str = "DATABASE_TEST_ROLE";
/// Seconds for which two processes write; without it they write a fixed number of times.
const LONG: &str = "HARMONY_LONG_WRITES";
/// Nobody in particular: not root, whom no mode stops.
const NOBODY: u32 = 65534;

fn open(folder: &Path) -> Database {
    let keyring = Keyring::open(&folder.join("keys")).unwrap_or_else(|error| panic!("{error}"));
    let options = Options { service: "service".to_owned(), ..Options::default() };
    Database::lazy(&folder.join("data/config.db"), keyring, options).unwrap()
}

fn model(key: &str) -> Model {
    Model {
        key: key.parse().unwrap(),
        schema: Default::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![["password"].into_iter().collect()],
        places: Default::default(),
    }
}

async fn set(
    database: &Database,
    key: &str,
    n: u64,
    expected: Option<u64>,
    size: usize,
) -> Result<u64, SourceError> {
    let values = json!({ "n": n, "password": format!("p{n}"), "text": "x".repeat(size) });
    let actor = Actor { who: "child".to_owned(), from: "test".to_owned(), request_id: n.to_string() };
    let change = Change { values: values.as_object().unwrap(), actor: &actor, expected };
    database.write(&model(key), change).await
}

async fn get(database: &Database, key: &str) -> Result<Option<(u64, u64)>, SourceError> {
    let layer = database.read(&model(key)).await?;
    Ok(layer.map(|layer| {
        let n = layer.values["n"].as_u64().unwrap();
        assert_eq!(layer.values["password"], format!("p{n}"), "values of two writes are mixed");
        (n, layer.revision.unwrap())
    }))
}

/// What a child does; `DATABASE_TEST_ROLE` says which.
#[tokio::test]
#[ignore = "the other tests start it"]
async fn child() {
    let (Some(folder), Ok(role)) = (std::env::var_os(FOLDER), std::env::var(ROLE)) else { return };
    let database = open(Path::new(&folder));
    let mut role = role.split(' ');
    let (task, rest): (_, Vec<&str>) = (role.next().unwrap(), role.collect());
    match task {
        "write-until-killed" => write_until_killed(&database, rest[0].parse().unwrap()).await,
        "count" => count(&database, rest[0], rest[1].parse().unwrap()).await,
        "look" => look(&database).await,
        "fill" => fill(&database, Path::new(&folder)).await,
        other => panic!("{other}"),
    }
}

async fn write_until_killed(database: &Database, from: u64) {
    for n in from.. {
        let revision = set(database, "Counter", n, None, 100).await.unwrap();
        println!("ack {n} {revision}");
    }
}

/// Adds to a shared number, and to one of its own, so many times or for so long.
async fn count(database: &Database, name: &str, times: u64) {
    let seconds = std::env::var(LONG).ok().map(|seconds| Duration::from_secs(seconds.parse().unwrap()));
    let (start, mut done, mut conflicts) = (Instant::now(), 0, 0);
    while seconds.map_or(done < times, |seconds| start.elapsed() < seconds) {
        let (shared, revision) = get(database, "Shared").await.unwrap().unwrap_or_default();
        match set(database, "Shared", shared + 1, Some(revision), 0).await {
            Ok(_) => done += 1,
            Err(SourceError::Conflict { .. }) => {
                conflicts += 1;
                continue;
            }
            Err(error) => panic!("{error}"),
        }
        set(database, name, done, None, 0).await.unwrap();
    }
    println!("done {done} {conflicts}");
}

/// Reads and tries to write.
async fn look(database: &Database) {
    println!("read {:?}", get(database, "Counter").await);
    match set(database, "Counter", 2, None, 0).await {
        Ok(revision) => println!("written {revision}"),
        Err(error) => println!("refused {} {error}", error.is_absence()),
    }
    println!("read again {:?}", get(database, "Counter").await);
}

/// Writes until the disk is full, and goes on when it is not any more.
async fn fill(database: &Database, folder: &Path) {
    let mut written = 0;
    let refused = loop {
        match set(database, &format!("Item{written}"), written, None, 20_000).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the disk does not fill up");
    };
    println!("refused {} {refused}", refused.is_absence() || matches!(refused, SourceError::Audit { .. }));
    for _ in 0..3 {
        assert!(set(database, "Other", 0, None, 20_000).await.is_err(), "it stays full");
    }
    for n in 0..written {
        assert_eq!(get(database, &format!("Item{n}")).await.unwrap().unwrap().0, n, "nothing is lost");
    }
    assert!(database.verify().await.unwrap().is_sound());
    std::fs::remove_file(folder.join("data/ballast")).unwrap();
    set(database, "Other", 1, None, 20_000).await.unwrap();
    let result = database.verify().await.unwrap();
    println!("recovered {written} {} {}", result.items, result.is_sound());
}

fn child_of(folder: &Path, role: &str, program: &OsStr, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).args(["--ignored", "--exact", "child", "--nocapture"]);
    command.env(FOLDER, folder).env(ROLE, role).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(folder: &Path, role: &str) -> Child {
    child_of(folder, role, std::env::current_exe().unwrap().as_os_str(), &[]).spawn().unwrap()
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

/// The words after this one, in the line that has it.
fn after<'a>(said: &'a str, word: &str) -> &'a str {
    said.lines()
        .find_map(|line| line.split_once(word))
        .unwrap_or_else(|| panic!("no {word:?} in {said}"))
        .1
        .trim()
}

#[tokio::test]
async fn what_was_acknowledged_survives_two_hundred_kills() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..200_u64 {
        let from = acknowledged.last_key_value().map_or(0, |(n, _)| n + 1000);
        let mut child = start(folder.path(), &format!("write-until-killed {from}"));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wanted = round % 5;
        // The child writes without a pause, so whatever the moment is, it is in the middle of a write.
        while let Some(Ok(line)) = lines.next() {
            if let Some((_, ack)) = line.split_once("ack ") {
                let (n, revision) = ack.split_once(' ').unwrap();
                acknowledged.insert(n.parse().unwrap(), revision.parse().unwrap());
                if wanted == 0 {
                    break;
                }
                wanted -= 1;
            }
        }
        for _ in 0..(round * 7919 % 100_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some((n, revision)) = line.strip_prefix("ack ").and_then(|ack| ack.split_once(' ')) {
                acknowledged.insert(n.parse().unwrap(), revision.parse().unwrap());
            }
        }

        let database = open(folder.path());
        let result = database.verify().await.unwrap();
        assert!(result.is_sound(), "round {round}: {result:?}");
        let (last, _) = acknowledged.last_key_value().unwrap();
        assert!(get(&database, "Counter").await.unwrap().unwrap().0 >= *last, "round {round}");
        let history = database.history(&Filter { limit: usize::MAX, ..Filter::default() }).await.unwrap();
        let written: BTreeMap<u64, u64> = history
            .into_iter()
            .map(|entry| (entry.line.actor.request_id.parse().unwrap(), entry.line.revision.unwrap()))
            .collect();
        let lost: Vec<_> =
            acknowledged.iter().filter(|(n, revision)| written.get(n) != Some(revision)).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}");
        database.close().await.unwrap();
    }
    println!("{} acknowledged writes", acknowledged.len());
}

#[tokio::test]
async fn two_processes_that_write_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let children = ["One", "Two"].map(|name| start(folder.path(), &format!("count {name} 1000")));
    let told: Vec<(u64, u64)> = children
        .into_iter()
        .map(|child| {
            let said = said(child);
            let (done, conflicts) = after(&said, "done ").split_once(' ').unwrap();
            (done.parse().unwrap(), conflicts.parse().unwrap())
        })
        .collect();
    let database = open(folder.path());
    let (shared, _) = get(&database, "Shared").await.unwrap().unwrap();
    assert_eq!(shared, told[0].0 + told[1].0, "every addition counts");
    for (name, (done, _)) in ["One", "Two"].into_iter().zip(&told) {
        assert_eq!(get(&database, name).await.unwrap().unwrap().0, *done);
    }
    let result = database.verify().await.unwrap();
    assert!(result.is_sound(), "{result:?}");
    assert_eq!(result.lines, 2 * shared);
    println!("{} writes, {} conflicts", 2 * shared, told[0].1 + told[1].1);
}

#[test]
fn processes_that_make_the_database_at_once_share_it() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let names = ["A", "B", "C", "D", "E"];
        let children = names.map(|name| start(folder.path(), &format!("count {name} 2")));
        for child in children {
            said(child);
        }
        let heads = std::fs::read_dir(folder.path().join("keys")).unwrap();
        let heads =
            heads.filter(|entry| entry.as_ref().unwrap().path().extension() == Some(OsStr::new("head")));
        assert_eq!(heads.count(), 1);
    }
}

#[tokio::test]
async fn a_user_who_may_not_write_reads_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let database = open(folder.path());
    set(&database, "Counter", 1, None, 0).await.unwrap();
    database.close().await.unwrap();
    let own = |path: &Path, mode| {
        if is_root() {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    own(folder.path(), 0o700);
    let keys = folder.path().join("keys");
    own(&keys, 0o700);
    for entry in std::fs::read_dir(&keys).unwrap() {
        own(&entry.unwrap().path(), 0o600);
    }
    let (data, file) = (folder.path().join("data"), folder.path().join("data/config.db"));
    let elsewhere = tempfile::tempdir().unwrap();
    let program = for_everybody(elsewhere.path());
    let look = || {
        let mut command = child_of(folder.path(), "look", program.as_os_str(), &[]);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        said(command.spawn().unwrap())
    };
    // A folder, a file, and both.
    for (folder_mode, file_mode) in [(0o500, 0o600), (0o700, 0o400), (0o500, 0o400)] {
        own(&data, folder_mode);
        own(&file, file_mode);
        let said = look();
        for word in ["read ", "read again "] {
            assert_eq!(after(&said, word), "Ok(Some((1, 1)))", "{folder_mode:o} {file_mode:o}: {said}");
        }
        let refused = after(&said, "refused ");
        assert!(refused.starts_with("true") && refused.contains("belong to the user"), "{said}");
    }
    own(&data, 0o700);
    own(&file, 0o600);
    let said = look();
    assert_eq!(after(&said, "read again "), "Ok(Some((2, 2)))", "{said}");
}

#[test]
fn a_full_disk_loses_nothing_and_ends_with_the_first_free_space() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    // A small disk that only this child sees.
    let script = "mount -t tmpfs -o size=2m,mode=0700 none \"$1\" && head -c 600000 /dev/zero > \"$1/ballast\" && shift \
                  && exec \"$@\"";
    let this = std::env::current_exe().unwrap();
    let arguments = ["--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let arguments = [&arguments[..], &[data.to_str().unwrap(), this.to_str().unwrap()]].concat();
    let said = said(child_of(folder.path(), "fill", OsStr::new("unshare"), &arguments).spawn().unwrap());
    let refused = after(&said, "refused ");
    assert!(refused.starts_with("true") && refused.contains("no space"), "{said}");
    let recovered: Vec<_> = after(&said, "recovered ").split(' ').collect();
    let written: u64 = recovered[0].parse().unwrap();
    assert!(written > 5, "{said}");
    assert_eq!(recovered[1..], [(written + 1).to_string().as_str(), "true"], "{said}");
}

/// This program where everybody may start it: what cargo builds may lie in a folder that is its user's alone. Copied by
/// another process, since a file that is open for writing here, or in a child of another test, cannot be started.
fn for_everybody(folder: &Path) -> PathBuf {
    let copy = folder.join("program");
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
    assert!(copied.success());
    for (path, mode) in [(folder, 0o755), (&copy, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    copy
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}
