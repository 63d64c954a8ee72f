//! The database on a real disk, in one process.

mod backup;
mod bytes;
mod faults;
mod history;
mod items;
mod rotation;
mod schemas;
mod tampering;

use std::path::PathBuf;

use schemars::Schema;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Database, Options};
use crate::{
    key::{Actor, FieldPath},
    keyring::Keyring,
    model::{Model, SchemaVersion},
    source::{Change, Document, Source as _},
};

const CANARY: &str = "canary-7f3a91";

struct Fixture {
    folder: TempDir,
    database: Database,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = open(&folder, Options { service: "switches".to_owned(), ..options });
        Self { folder, database }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("config.db")
    }

    /// As another process would.
    fn again(&self) -> Database {
        open(&self.folder, Options { service: "switches".to_owned(), ..Options::default() })
    }

    async fn set(&self, key: &str, values: Value) -> u64 {
        let values = document(values);
        let change = Change { values: &values, actor: &actor(), expected: None };
        self.database.write(&model(key), change).await.unwrap()
    }

    async fn get(&self, key: &str) -> Option<Value> {
        self.database.read(&model(key)).await.unwrap().map(|layer| Value::Object(layer.values))
    }

    /// What somebody does with the file who does not use this library.
    async fn by_hand(&self, sql: &str) {
        self.database.close().await.unwrap();
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection.execute_batch(sql).unwrap();
    }
}

fn open(folder: &TempDir, options: Options) -> Database {
    let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
    Database::open(&folder.path().join("config.db"), keyring, options).unwrap()
}

fn model(key: &str) -> Model {
    Model {
        key: key.parse().unwrap(),
        schema: Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![place("password"), ["login", "token"].into_iter().collect()],
        places: Default::default(),
    }
}

fn place(name: &str) -> FieldPath {
    FieldPath::root().join(name)
}

fn document(value: Value) -> Document {
    value.as_object().unwrap().clone()
}

fn actor() -> Actor {
    Actor { who: "ada".to_owned(), from: "test on desk".to_owned(), request_id: "r-1".to_owned() }
}

/// Every file below the folder that has these bytes.
fn files_with(folder: &std::path::Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test]
async fn a_canary_is_found_where_it_stands() {
    let fixture = Fixture::new();
    fixture.set("Vlan", json!({ "name": CANARY })).await;
    assert!(!files_with(fixture.folder.path(), CANARY).is_empty(), "what is not secret stands in the files");
}
