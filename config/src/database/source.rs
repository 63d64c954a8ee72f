//! The database as a source of the chain.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::{Act, Database, items, schemas, unaudited};
use crate::{
    health::{Condition, Problem},
    key::{Actor, FieldPath},
    keyring::Purpose,
    model::Model,
    source::{Change, Layer, Source, SourceError},
};

const NAME: &str = "sqlite";

#[async_trait]
impl Source for Database {
    fn name(&self) -> &str {
        NAME
    }

    fn how_to_set(&self, model: &Model) -> String {
        format!(
            "`harmony-config set {}`, which keeps it in the database {}",
            model.key,
            self.path().display()
        )
    }

    fn should_persist(&self) -> bool {
        true
    }

    fn keep_last_known_good(&self) -> bool {
        true
    }

    fn encryption(&self) -> Option<String> {
        let version = self.place.keyring.newest(Purpose::Encryption).ok()?;
        Some(format!("AES-256-GCM, key {}", version.0))
    }

    /// For so long another process may keep it locked.
    fn answers_within(&self) -> Option<Duration> {
        Some(self.place.options.patience)
    }

    fn condition(&self) -> Condition {
        let Some(state) = self.backup_state() else { return Condition::default() };
        let problem = state.problem(Timestamp::now());
        let problem = problem.map(|text| Problem { reason: "backup".to_owned(), text });
        Condition { problem, facts: [("backup_line", state.line.to_string())].into() }
    }

    async fn reveal(&self, model: &Model, places: &[FieldPath], actor: &Actor) -> Result<(), SourceError> {
        let details: Vec<_> = places.iter().map(|place| Some(place.to_string())).collect();
        let details = if details.is_empty() { vec![None] } else { details };
        let (service, key, actor) = (self.service().to_owned(), model.key.clone(), actor.clone());
        let reveal = self.thread.run(move |opened, place| {
            let written = opened.write(place, &actor, |writing| {
                for detail in details {
                    writing.line(Act::Reveal, Some((&service, &key)), detail, None)?;
                }
                Ok(())
            });
            written.map_err(|fault| unaudited(fault, place))
        });
        reveal.await.map_err(|error| error.into_source_error(NAME))
    }

    async fn read(&self, model: &Model) -> Result<Option<Layer>, SourceError> {
        let (service, key) = (self.service().to_owned(), model.key.clone());
        let read = self.reader.run(move |opened, place| {
            opened.read(place, |view| {
                let Some(stored) = items::get(view, &service, &key)? else { return Ok(None) };
                let values = stored.open(&place.keyring)?;
                Ok(Some((values, stored.content.version, stored.revision)))
            })
        });
        let found = read.await.map_err(|error| error.into_source_error(NAME))?;
        Ok(found.map(|(values, version, revision)| Layer {
            values,
            place: format!("database {}, item {} of {}", self.path().display(), model.key, self.service()),
            fields: Default::default(),
            version: Some(version),
            revision: Some(revision),
        }))
    }

    async fn write(&self, model: &Model, change: Change<'_>) -> Result<u64, SourceError> {
        let (service, model) = (self.service().to_owned(), model.clone());
        let (values, actor, expected) = (change.values.clone(), change.actor.clone(), change.expected);
        let write = self.thread.run(move |opened, place| {
            let revision = opened
                .write(place, &actor, |writing| items::set(writing, &service, &model, &values, expected))?;
            schemas::keep(place, &service, &model);
            Ok(revision)
        });
        write.await.map_err(|error| error.into_source_error(NAME))
    }

    async fn delete(&self, model: &Model, actor: &Actor) -> Result<bool, SourceError> {
        let (service, key, actor) = (self.service().to_owned(), model.key.clone(), actor.clone());
        let delete = self.thread.run(move |opened, place| {
            opened.write(place, &actor, |writing| items::delete(writing, &service, &key))
        });
        delete.await.map_err(|error| error.into_source_error(NAME))
    }

    fn changes(&self, model: &Model) -> Option<BoxStream<'static, ()>> {
        Some(self.changes_of(&model.key))
    }
}
