//! One struct from a TOML file and the environment, with defaults of its own: by this library, by `figment` and by
//! `config`, in turns.
//!
//! All three read the same file and the same variables, and get the same value. It happens in a process of its own,
//! whose environment is the same on every machine.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use figment::providers::{Format as _, Toml};
use harmony_config::{ConfigManager, Environment, File};
use serde::{Deserialize, Serialize};

use crate::{
    Options, itself,
    model::{FILE, Service, VARIABLES, expected},
    times::Times,
};

/// Other variables, as a process has them.
const OTHERS: usize = 30;
/// Processes that read once.
const FIRSTS: usize = 21;
/// Reads at once of a cached value.
const CACHED: u32 = 1_000_000;

/// What was measured, in microseconds if not said otherwise.
#[derive(Debug, Serialize, Deserialize)]
pub struct Layered {
    /// Read from a chain that the program has.
    pub ours: Times,
    /// The same with a chain made for that one read, as the others do it.
    pub ours_anew: Times,
    pub figment: Times,
    pub config: Times,
    /// The first read of a process, with all that happens once.
    #[serde(default)]
    pub first: First,
    /// `Handle::current`, nanoseconds.
    pub current_ns: f64,
    /// `Handle::peek`, nanoseconds.
    pub peek_ns: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct First {
    pub ours: Times,
    pub figment: Times,
    pub config: Times,
}

pub fn measure(options: &Options) -> Layered {
    let folder = tempfile::tempdir_in(&options.folder).unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("Service.toml"), FILE).unwrap();
    let mut layered: Layered =
        serde_json::from_slice(&run(folder, &format!("layered {}", options.rounds))).unwrap();

    let mut taken: [Vec<Duration>; 3] = Default::default();
    for _ in 0..FIRSTS {
        for (library, taken) in ["ours", "figment", "config"].iter().zip(&mut taken) {
            let nanoseconds = run(folder, &format!("first {library}"));
            let nanoseconds = String::from_utf8(nanoseconds).unwrap().trim().parse().unwrap();
            taken.push(Duration::from_nanos(nanoseconds));
        }
    }
    let [ours, figment, config] = taken.map(Times::of);
    layered.first = First { ours, figment, config };
    layered
}

/// A process with a known environment; gives what it prints.
fn run(folder: &Path, role: &str) -> Vec<u8> {
    let mut command = itself(role, folder);
    // Emptied, and what says its part put back.
    let own: Vec<_> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    command.env_clear().envs(own).envs(VARIABLES);
    command.envs((0..OTHERS).map(|number| (format!("OTHER_{number}"), "x".repeat(number * 4))));
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{role}");
    output.stdout
}

fn by_figment(file: &Path) -> Service {
    figment::Figment::new()
        .merge(Toml::file_exact(file))
        .merge(figment::providers::Env::prefixed("HARMONY_CONFIG_Service__").split("__"))
        .extract()
        .unwrap()
}

fn by_config(file: &Path) -> Service {
    let environment = config::Environment::with_prefix("HARMONY_CONFIG_Service")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true);
    config::Config::builder()
        .add_source(config::File::from(file))
        .add_source(environment)
        .build()
        .unwrap()
        .try_deserialize()
        .unwrap()
}

fn chain(file: &Path) -> ConfigManager {
    ConfigManager::builder().source(Environment::new()).source(File::named(file)).build()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The part that reads in turns, and prints what it took.
pub fn child(folder: &Path, rounds: usize) {
    let file = folder.join("Service.toml");
    let runtime = runtime();
    let ours = chain(&file);
    let mut taken: [Vec<Duration>; 4] = Default::default();
    // Everything once before it counts: what happens once is a figure of its own.
    for round in 0..rounds + rounds / 10 {
        for turn in 0..4 {
            let who = (round + turn) % 4;
            let begun = Instant::now();
            let value: Service = match who {
                0 => runtime.block_on(ours.get()).unwrap(),
                1 => runtime.block_on(async { chain(&file).get().await }).unwrap(),
                2 => by_figment(&file),
                _ => by_config(&file),
            };
            let time = begun.elapsed();
            assert_eq!(value, expected(), "all read the same");
            if round >= rounds / 10 {
                taken[who].push(time);
            }
        }
    }
    let handle = runtime.block_on(ours.handle::<Service>()).unwrap();
    let each = |what: &mut dyn FnMut()| {
        let begun = Instant::now();
        (0..CACHED).for_each(|_| what());
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(CACHED)
    };
    let current_ns = each(&mut || drop(std::hint::black_box(handle.current())));
    let peek_ns = each(&mut || drop(std::hint::black_box(handle.peek())));
    let [ours, ours_anew, figment, config] = taken.map(Times::of);
    let layered = Layered { ours, ours_anew, figment, config, first: First::default(), current_ns, peek_ns };
    println!("{}", serde_json::to_string(&layered).unwrap());
}

/// One read in a new process; prints nanoseconds. The runtime is the program's, which has one anyway.
pub fn first(folder: &Path, library: &str) {
    let file = folder.join("Service.toml");
    let runtime = runtime();
    let begun = Instant::now();
    let value: Service = match library {
        "ours" => runtime.block_on(async { chain(&file).get().await }).unwrap(),
        "figment" => by_figment(&file),
        _ => by_config(&file),
    };
    let time = begun.elapsed();
    assert_eq!(value, expected());
    println!("{}", time.as_nanos());
}
