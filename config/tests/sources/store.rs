//! A store behind HTTP whose server goes away, with the real last-known-good file.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::{Path as Place, State},
    http::StatusCode,
    routing::get,
};
use harmony_config::{
    ConfigManager, Document, Environment, Secret, SourceError, Store, StorePath, StoreSource,
    chain::Answer,
    health::Status,
    keyring::Keyring,
    last_known_good::LastKnownGood,
    store::{Entry, EntryVersion, Metadata, StoreHealth, StoreState},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{Switch, Vlan};

const WITHIN: Duration = Duration::from_secs(30);

type Entries = Arc<Mutex<BTreeMap<String, (u64, Document)>>>;

/// What it has outlives its server.
#[derive(Default)]
struct Server {
    entries: Entries,
    port: u16,
    task: Option<JoinHandle<()>>,
}

async fn give(
    State(entries): State<Entries>,
    Place(path): Place<String>,
) -> Result<Json<(u64, Document)>, StatusCode> {
    entries.lock().unwrap().get(&path).cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn take(
    State(entries): State<Entries>,
    Place(path): Place<String>,
    Json(values): Json<Document>,
) -> Json<u64> {
    let mut entries = entries.lock().unwrap();
    let revision = entries.get(&path).map_or(0, |(revision, _)| *revision) + 1;
    entries.insert(path, (revision, values));
    Json(revision)
}

impl Server {
    async fn start(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let routes =
            Router::new().route("/{*path}", get(give).put(take)).with_state(Arc::clone(&self.entries));
        self.task = Some(tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }));
    }

    /// Nobody listens there any more.
    async fn stop(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

/// Its client.
#[derive(Debug)]
struct Remote {
    port: u16,
}

impl Remote {
    async fn ask(&self, method: &str, path: &StorePath, body: &str) -> Result<(u16, String), SourceError> {
        let asked = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let length = body.len();
            let request = format!(
                "{method} /{path} HTTP/1.1\r\nHost: store\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
            code.zip(body).ok_or_else(|| std::io::Error::other("it broke off"))
        };
        asked.await.map_err(|error| SourceError::Unavailable {
            name: "remote".to_owned(),
            why: error.to_string(),
            hint: "Start it".to_owned(),
        })
    }
}

#[async_trait]
impl Store for Remote {
    fn name(&self) -> &str {
        "remote"
    }

    fn place(&self, path: &StorePath) -> String {
        format!("remote {path}")
    }

    fn how_to_set(&self, path: &StorePath) -> String {
        format!("PUT {path}")
    }

    async fn get(&self, path: &StorePath) -> Result<Option<Entry>, SourceError> {
        let (code, body) = self.ask("GET", path, "").await?;
        if code == 404 {
            return Ok(None);
        }
        let (revision, values): (u64, Document) = serde_json::from_str(&body).unwrap();
        let metadata = Metadata::new();
        Ok(Some(Entry { values, revision, version: revision, metadata, metadata_is_current: true }))
    }

    async fn get_version(&self, path: &StorePath, version: u64) -> Result<Option<Entry>, SourceError> {
        Ok(self.get(path).await?.filter(|entry| entry.version == version))
    }

    async fn put(
        &self,
        path: &StorePath,
        values: &Document,
        _expected: Option<u64>,
        _metadata: &Metadata,
    ) -> Result<u64, SourceError> {
        let (_, body) = self.ask("PUT", path, &serde_json::to_string(values).unwrap()).await?;
        Ok(serde_json::from_str(&body).unwrap())
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, SourceError> {
        Ok(self.ask("DELETE", path, "").await?.0 == 200)
    }

    async fn forget(&self, path: &StorePath) -> Result<(), SourceError> {
        self.delete(path).await.map(|_| ())
    }

    async fn history(&self, _path: &StorePath) -> Result<Vec<EntryVersion>, SourceError> {
        Ok(Vec::new())
    }

    async fn health(&self) -> StoreHealth {
        StoreHealth { product: None, state: StoreState::Ready, login_ends_in: None, login_error: None }
    }
}

fn vlan(id: u16) -> Vlan {
    let switch = Some(Switch { host: "h".to_owned(), password: Secret::new("canary-9".to_owned()) });
    Vlan { id, name: "n".to_owned(), mtu: 1400, tags: Vec::new(), switch }
}

fn chain(folder: &Path, port: u16, variables: &[(&str, &str)]) -> ConfigManager {
    let keyring = Keyring::open(&folder.join("keys")).unwrap();
    let source = StoreSource::new(Arc::new(Remote { port }), "shop".parse().unwrap());
    ConfigManager::builder()
        .source(Environment::new().with_variables(variables.iter().copied()))
        .source(source.poll_every(Duration::from_millis(20)))
        .last_known_good(LastKnownGood::open(&folder.join("config.lkg.json"), keyring).unwrap())
        .look_again(Duration::from_millis(20))
        .build()
}

async fn wait_for(what: &str, is: impl Fn() -> bool) {
    let waited = tokio::time::timeout(WITHIN, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} does not come about");
}

#[tokio::test]
async fn a_store_whose_server_goes_away_is_stood_in_for_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::default();
    server.start().await;
    let manager = chain(folder.path(), server.port, &[]);
    manager.set(&vlan(1)).await.unwrap();
    let handle = manager.handle::<Vlan>().await.unwrap();

    server.stop().await;
    wait_for("the fallback", || manager.health().last_known_good_in_use).await;
    assert_eq!(*handle.current(), vlan(1));
    assert_eq!(manager.get::<Vlan>().await.unwrap(), vlan(1));
    assert_eq!(manager.health().status, Status::Degraded);
    let error = manager.set(&vlan(2)).await.unwrap_err().to_string();
    assert!(error.contains("remote cannot be reached") && !error.contains("canary"), "{error}");

    // A program that starts in this moment; what is nearer still wins.
    let late = chain(folder.path(), server.port, &[("HARMONY_CONFIG_Vlan__ID", "9")]);
    late.require_all().of::<Vlan>().check().await.unwrap();
    assert_eq!(late.get::<Vlan>().await.unwrap(), vlan(9));
    let explanation = late.explain::<Vlan>().await.unwrap();
    assert!(matches!(explanation.sources[1].1, Answer::LastKnownGood { .. }), "{explanation}");
    // One that has never seen it has nothing, and says why.
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = chain(elsewhere.path(), server.port, &[]);
    let error = stranger.get::<Vlan>().await.unwrap_err().to_string();
    assert!(error.contains("required") && error.contains("remote cannot be reached"), "{error}");

    // Back, with something new in the meantime.
    let new = serde_json::to_value(vlan(3)).unwrap().as_object().unwrap().clone();
    server.entries.lock().unwrap().insert("shop/Vlan".to_owned(), (2, new));
    server.start().await;
    wait_for("the new value", || *handle.current() == vlan(3)).await;
    wait_for("good health", || manager.health().status == Status::Ok).await;
    let file = std::fs::read_to_string(folder.path().join("config.lkg.json")).unwrap();
    assert!(file.contains("remote") && !file.contains("canary"), "{file}");

    // Restored from an older state: used, and said.
    let old = serde_json::to_value(vlan(1)).unwrap().as_object().unwrap().clone();
    server.entries.lock().unwrap().insert("shop/Vlan".to_owned(), (1, old));
    wait_for("the older value", || *handle.current() == vlan(1)).await;
    let health = manager.health();
    assert_eq!(health.sources[1].condition.facts["went_back"], "shop/Vlan from 2 to 1");
    assert_eq!(health.status, Status::Degraded);
    let problem = health.sources[1].condition.problem.as_ref().unwrap();
    assert!(problem.reason == "went_back" && problem.text.contains("shop/Vlan from 2 to 1"), "{problem:?}");
    assert!(
        problem.text.contains("in use") && problem.text.contains("write anew"),
        "what to do: {problem:?}"
    );
    // Written past what was seen: nobody has to look any more.
    manager.set(&vlan(4)).await.unwrap();
    manager.set(&vlan(5)).await.unwrap();
    assert_eq!((manager.health().status, manager.get::<Vlan>().await.unwrap()), (Status::Ok, vlan(5)));
}
