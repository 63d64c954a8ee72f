//! The database: many items with many versions, read and written, alone and while others write.

use std::{
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use harmony_config::{
    Actor, Change, ConfigManager, Model, Source as _,
    database::{Database, Options as DatabaseOptions},
    keyring::Keyring,
};
use serde::Serialize;

use crate::{
    Options, itself,
    model::{Service, expected, item, values},
    times::Times,
};

const READS: usize = 2000;
const STARTS: usize = 21;
const SEARCHES: usize = 50;
/// Writes of which the bytes are counted.
const COUNTED: u64 = 200;

/// Microseconds if not said otherwise.
#[derive(Debug, Serialize)]
pub struct Stored {
    pub items: usize,
    pub versions: usize,
    /// `set` of the database: one write after the other.
    pub write: Times,
    /// Bytes that the kernel counted for one of them; 0 where the file system is none on a disk.
    pub bytes_per_write: f64,
    /// A write that changes nothing.
    pub same: Times,
    pub bytes_per_same: f64,
    /// `ConfigManager::get` with the database as its only source.
    pub get: Times,
    /// The same while another process writes without a pause, and how often that wrote meanwhile.
    pub get_beside_process: Times,
    pub writes_of_process: u64,
    /// The same while a task of this process writes without a pause.
    pub get_beside_task: Times,
    pub writes_of_task: u64,
    /// Keys, database, all items opened and checked.
    pub start: Times,
    pub search: Times,
    pub found: usize,
    /// The file, after everything is closed.
    pub size: u64,
}

pub fn open(folder: &Path) -> Database {
    let keyring = Keyring::open(&folder.join("keys")).unwrap();
    let options = DatabaseOptions { service: "bench".to_owned(), ..DatabaseOptions::default() };
    Database::open(&folder.join("config.db"), keyring, options).unwrap()
}

async fn set(database: &Database, model: &Model, number: usize, version: usize) {
    let (values, actor) = (values(number, version), Actor::of_this_process());
    database.write(model, Change { values: &values, actor: &actor, expected: None }).await.unwrap();
}

/// What this process had written to disks.
pub fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    bytes.parse().unwrap()
}

/// The part that writes items of its own until it is killed, and says how many it has written.
pub fn write_until_killed(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (database, model) = (open(folder), item(0));
    let count = folder.join("written");
    for version in 1_000_000.. {
        runtime.block_on(set(&database, &model, 0, version));
        std::fs::write(&count, (version - 999_999).to_string()).unwrap();
    }
}

struct Writer {
    child: Child,
    count: std::path::PathBuf,
}

impl Writer {
    /// Started, and writing.
    fn start(folder: &Path) -> Self {
        let child = itself("write", folder).stdout(Stdio::null()).spawn().unwrap();
        let writer = Self { child, count: folder.join("written") };
        let deadline = Instant::now() + Duration::from_secs(30);
        while writer.written() == 0 {
            assert!(Instant::now() < deadline, "the other process does not write");
            std::thread::sleep(Duration::from_millis(5));
        }
        writer
    }

    fn written(&self) -> u64 {
        std::fs::read_to_string(&self.count).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn gets(manager: &ConfigManager) -> Times {
    let mut taken = Vec::with_capacity(READS);
    for _ in 0..READS {
        let begun = Instant::now();
        let value: Service = manager.get().await.unwrap();
        taken.push(begun.elapsed());
        assert_eq!(value, expected());
    }
    Times::of(taken)
}

pub fn measure(options: &Options) -> Stored {
    let folder = tempfile::tempdir_in(&options.folder).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure_in(folder.path(), options))
}

async fn measure_in(folder: &Path, options: &Options) -> Stored {
    let database = open(folder);
    let models: Vec<_> = (0..options.items).map(item).collect();
    let mut taken = Vec::new();
    for version in 1..=options.versions {
        for (number, model) in models.iter().enumerate() {
            let begun = Instant::now();
            set(&database, model, number, version).await;
            taken.push(begun.elapsed());
        }
    }
    let write = Times::of(taken);

    let before = written();
    for number in 0..COUNTED as usize {
        set(&database, &models[number % models.len()], number, 500 + number).await;
    }
    let bytes_per_write = (written() - before) as f64 / COUNTED as f64;
    set(&database, &models[0], 0, 0).await;
    let (before, mut taken) = (written(), Vec::new());
    for _ in 0..COUNTED {
        let begun = Instant::now();
        set(&database, &models[0], 0, 0).await;
        taken.push(begun.elapsed());
    }
    let same = Times::of(taken);
    let bytes_per_same = (written() - before) as f64 / COUNTED as f64;

    let manager = ConfigManager::builder().source(database.clone()).build();
    manager.set(&expected()).await.unwrap();
    let get = gets(&manager).await;

    let writer = Writer::start(folder);
    let before = writer.written();
    let get_beside_process = gets(&manager).await;
    let writes_of_process = writer.written() - before;
    drop(writer);

    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let task = tokio::spawn({
        let (database, stop, count, model) =
            (database.clone(), Arc::clone(&stop), Arc::clone(&count), models[0].clone());
        async move {
            for version in 2_000_000.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                set(&database, &model, 0, version).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // On a thread of its own, not beside the writing task's.
    let before = count.load(Ordering::Relaxed);
    let reading = manager.clone();
    let get_beside_task = tokio::spawn(async move { gets(&reading).await }).await.unwrap();
    let writes_of_task = count.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    task.await.unwrap();

    let mut found = 0;
    let mut taken = Vec::new();
    for _ in 0..SEARCHES {
        let begun = Instant::now();
        found = database.search("AGENT-4", Some("bench"), 1000).await.unwrap().len();
        taken.push(begun.elapsed());
    }
    let search = Times::of(taken);

    database.close().await.unwrap();
    drop((manager, database));
    let size = std::fs::metadata(folder.join("config.db")).unwrap().len();
    let mut taken = Vec::new();
    for _ in 0..STARTS {
        let begun = Instant::now();
        let database = open(folder);
        let loaded = database.load().await.unwrap();
        taken.push(begun.elapsed());
        assert_eq!(loaded.len(), options.items + 1, "with the one that was read");
        database.close().await.unwrap();
    }
    Stored {
        items: options.items,
        versions: options.versions,
        write,
        bytes_per_write,
        same,
        bytes_per_same,
        get,
        get_beside_process,
        writes_of_process,
        get_beside_task,
        writes_of_task,
        start: Times::of(taken),
        search,
        found,
        size,
    }
}
