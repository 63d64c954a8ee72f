//! A source that keeps values in a folder, one JSON file for each model, with revisions. It can be told to be away.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use harmony_config::{Actor, Change, Document, Layer, Model, SchemaVersion, Source, SourceError};
use serde::{Deserialize, Serialize};

/// Values in a folder.
#[derive(Debug, Clone)]
pub struct Kept {
    pub folder: PathBuf,
    pub away: Arc<AtomicBool>,
    /// Does not answer at all.
    pub hangs: Arc<AtomicBool>,
    pub reads: Arc<AtomicUsize>,
}

#[derive(Serialize, Deserialize)]
pub struct Item {
    pub version: String,
    pub revision: u64,
    pub values: Document,
}

impl Kept {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), away: Arc::default(), hangs: Arc::default(), reads: Arc::default() }
    }

    pub fn path(&self, model: &Model) -> PathBuf {
        self.folder.join(format!("{}.item", model.key))
    }

    pub fn item(&self, model: &Model) -> Option<Item> {
        let text = std::fs::read_to_string(self.path(model)).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    pub fn store(&self, model: &Model, item: &Item) {
        std::fs::create_dir_all(&self.folder).unwrap();
        std::fs::write(self.path(model), serde_json::to_string(item).unwrap()).unwrap();
    }

    async fn reachable(&self) -> Result<(), SourceError> {
        if self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        match self.away.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(SourceError::Unavailable {
                name: "kept".to_owned(),
                why: "the folder is not mounted".to_owned(),
                hint: "Mount it".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Source for Kept {
    fn name(&self) -> &str {
        "kept"
    }

    fn how_to_set(&self, model: &Model) -> String {
        format!("keeping {}", model.key)
    }

    fn should_persist(&self) -> bool {
        true
    }

    fn keep_last_known_good(&self) -> bool {
        true
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.reachable().await?;
        Ok(self.item(model).map(|item| Layer {
            values: item.values,
            place: format!("item {}", model.key),
            fields: Default::default(),
            version: Some(SchemaVersion(item.version)),
            revision: Some(item.revision),
        }))
    }

    async fn write(&self, model: &Model, change: Change<'_>) -> Result<u64, SourceError> {
        self.reachable().await?;
        let found = self.item(model).map_or(0, |item| item.revision);
        if let Some(expected) = change.expected.filter(|expected| *expected != found) {
            return Err(SourceError::Conflict { place: format!("item {}", model.key), expected, found });
        }
        let item =
            Item { version: model.version.0.clone(), revision: found + 1, values: change.values.clone() };
        self.store(model, &item);
        Ok(item.revision)
    }

    async fn delete(&self, model: &Model, _actor: &Actor) -> Result<bool, SourceError> {
        self.reachable().await?;
        Ok(std::fs::remove_file(self.path(model)).is_ok())
    }
}
