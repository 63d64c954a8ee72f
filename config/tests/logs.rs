//! What stands in logs: each change of state once, joined by ids, and never a value.
//!
//! A process of its own: which lines are of interest to anybody is known to `tracing` for the process.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "sources/kept.rs"]
#[allow(dead_code)]
mod kept;

use std::{
    io,
    sync::{Arc, Mutex, atomic::Ordering},
};

use harmony_config::{Actor, Config, ConfigManager, Environment, Secret};
use kept::Kept;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Vlan {
    id: u16,
    password: Secret<String>,
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn about(&self, text: &str) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap().clone();
        let lines = String::from_utf8(bytes).unwrap();
        assert!(!lines.contains("canary"), "{lines}");
        lines
            .lines()
            .filter(|line| line.contains(text))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

// One thread: the subscriber is this thread's.
#[tokio::test(flavor = "current_thread")]
async fn a_change_of_state_is_logged_once_with_ids_and_without_values() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let folder = tempfile::tempdir().unwrap();
    let variables = [("HARMONY_CONFIG_Vlan__NAME", "canary-6")];
    let kept = Kept::new(folder.path());
    let manager = ConfigManager::builder()
        .source(Environment::new().with_variables(variables))
        .source(kept.clone())
        .build();
    let actor =
        Actor { who: "ada".to_owned(), from: "a test".to_owned(), request_id: "request-4711".to_owned() };
    let manager = manager.acting_as(actor);
    manager.set(&Vlan { id: 1, password: "canary-5".to_owned().into() }).await.unwrap();
    let set = lines.about("settings were set");
    assert_eq!(set.len(), 1);
    assert_eq!(set[0]["fields"]["request_id"], "request-4711");
    assert_eq!(set[0]["fields"]["who"], "ada");
    assert_eq!(set[0]["fields"]["config_epoch"], 0);

    for _ in 0..3 {
        manager.get::<Vlan>().await.unwrap();
    }
    assert_eq!(lines.about("no such field").len(), 1);
    kept.away.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        manager.get::<Vlan>().await.unwrap_err();
    }
    let away = lines.about("\"kept cannot be reached");
    assert_eq!(away.len(), 1, "once, not with each read");
    assert_eq!(away[0]["span"]["request_id"], "request-4711");
    assert_eq!(away[0]["span"]["key"], "Vlan");
    assert_eq!(away[0]["span"]["config_epoch"], 0);
    assert_eq!(lines.about("no good settings").len(), 1);
    kept.away.store(false, Ordering::SeqCst);
    manager.get::<Vlan>().await.unwrap();
    assert_eq!(lines.about("the source answers again").len(), 1);
    assert_eq!(lines.about("the settings are good again").len(), 1);
    // Nothing that can be printed has a value either.
    let shown = format!("{manager:?} {:?} {:?}", kept, manager.health());
    assert!(!shown.contains("canary"), "{shown}");
}
