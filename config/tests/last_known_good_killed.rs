//! A process that is killed while it remembers: its file is never refused, and an older one always is.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use harmony_config::{
    FieldPath, Layer, Model, SchemaVersion,
    keyring::Keyring,
    last_known_good::{LastKnownGood, LkgError},
    witness::WitnessError,
};

const FOLDER: &str = "LKG_TEST_FOLDER";

fn model() -> Model {
    Model {
        key: "Vlan".parse().unwrap(),
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![FieldPath::root().join("password")],
        places: Default::default(),
    }
}

fn layer(id: u64) -> Layer {
    let values = serde_json::json!({"id": id, "password": "x"}).as_object().unwrap().clone();
    Layer { values, place: "here".to_owned(), fields: Default::default(), version: None, revision: None }
}

fn open(folder: &Path) -> Result<LastKnownGood, LkgError> {
    LastKnownGood::open(&folder.join("config.lkg.json"), Keyring::open(&folder.join("keys")).unwrap())
}

fn value(lkg: &LastKnownGood) -> u64 {
    lkg.recall("sqlite", &model())
        .unwrap()
        .map_or(0, |recalled| recalled.layer.values["id"].as_u64().unwrap())
}

#[test]
#[ignore = "the other test starts it"]
fn child_remembers_without_end() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let lkg = open(Path::new(&folder)).unwrap_or_else(|error| panic!("{error}"));
    for id in value(&lkg) + 1.. {
        lkg.remember("sqlite", &model(), Some(&layer(id))).unwrap();
        println!("\nremembered {id}");
    }
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_a_file_that_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.lkg.json");
    for round in 0..40_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_remembers_without_end", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        // Killed at once after some line, in the middle of whatever it does next.
        for _ in 0..=round % 4 {
            said = lines
                .by_ref()
                .find_map(|line| line.unwrap().strip_prefix("remembered ")?.parse().ok())
                .unwrap();
        }
        let older = std::fs::read(&file).unwrap();
        // Longer and longer, so that not every kill hits the same step.
        for _ in 0..round * 500 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let more: Vec<u64> =
            lines.filter_map(|line| line.ok()?.strip_prefix("remembered ")?.parse().ok()).collect();
        let said = more.last().copied().unwrap_or(said);

        let lkg = open(folder.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let found = value(&lkg);
        assert!(found == said || found == said + 1, "round {round}: it said {said}, and {found} is there");
        lkg.remember("sqlite", &model(), Some(&layer(found + 1))).unwrap();
        let good = std::fs::read(&file).unwrap();
        std::fs::write(&file, older).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error, LkgError::File(WitnessError::Older { .. })), "round {round}: {error}");
        std::fs::write(&file, good).unwrap();
    }
}
