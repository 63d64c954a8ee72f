//! Updates through a real nats-server: live, late, and after the server was away.
//!
//! Two accounts' worth of rights in one: the reader may subscribe to its updates and ask for the last one, and nothing
//! else of the stream.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{path::Path, process::Stdio, time::Duration};

use async_nats::{Client, ConnectOptions};
use harmony_config::{
    FieldPath, Model, SchemaVersion, Source as _,
    keyring::Keyring,
    updates::{Draft, Item, NatsFeed, Settings, UpdateSigner, Updates},
};
use jiff::{Timestamp, ToSpan as _};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

const SUBJECT: &str = "config.updates.switches";
const STREAM: &str = "CONFIG";
const WITHIN: Duration = Duration::from_secs(30);

struct Server {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free at this moment, and kept over a restart.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let get = format!("$JS.API.DIRECT.GET.{STREAM}.{SUBJECT}");
        let config = serde_json::json!({
            "listen": format!("127.0.0.1:{port}"),
            "jetstream": { "store_dir": folder.path().join("jetstream") },
            "accounts": { "CONFIG": { "jetstream": "enabled", "users": [
                { "user": "publisher", "password": "p" },
                { "user": "reader", "password": "r", "permissions": {
                    "publish": [get, "config.last"], "subscribe": [SUBJECT, "_INBOX.>"]
                } },
            ] } },
        });
        std::fs::write(folder.path().join("nats.conf"), config.to_string()).unwrap();
        let process = Self::spawn(folder.path()).await;
        Self { process, folder, port }
    }

    async fn spawn(folder: &Path) -> Child {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/tools/build.sh");
        let listed = Command::new(script).args(["where", "nats"]).output().await.unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let program = listed.lines().find_map(|line| line.strip_prefix("nats-server ")).unwrap();
        assert!(Path::new(program).is_file(), "{program} is missing; run `make tools`");
        Command::new(program)
            .arg("--config")
            .arg(folder.join("nats.conf"))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    async fn client(&self, user: &str, password: &str) -> Client {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            .reconnect_delay_callback(|_| Duration::from_millis(50));
        options.retry_on_initial_connect().connect(format!("nats://127.0.0.1:{}", self.port)).await.unwrap()
    }

    /// Keeps the last message of each subject; asked for until the server is ready.
    async fn make_stream(&self, client: &Client) {
        let stream = serde_json::json!({
            "name": STREAM, "subjects": ["config.updates.>"], "max_msgs_per_subject": 1,
            "retention": "limits", "discard": "old", "storage": "file", "num_replicas": 1, "allow_direct": true,
        });
        until("the stream", async || {
            let request =
                client.request(format!("$JS.API.STREAM.CREATE.{STREAM}"), stream.to_string().into());
            request.await.is_ok_and(|answer| !String::from_utf8_lossy(&answer.payload).contains("\"error\""))
        })
        .await;
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !holds().await {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the stream has it: a server that was killed keeps what it has acknowledged.
async fn publish(client: &Client, bytes: Vec<u8>) {
    let answer = client.request(SUBJECT, bytes.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&answer.payload).contains("\"seq\""), "{answer:?}");
}

fn model() -> Model {
    Model {
        key: "Vlan".parse().unwrap(),
        schema: schemars::Schema::default(),
        version: SchemaVersion("0123456789abcdef".to_owned()),
        secrets: vec![FieldPath::root().join("password")],
        places: Default::default(),
    }
}

struct Receiver {
    _folder: tempfile::TempDir,
    updates: Updates,
}

impl Receiver {
    fn new(signer: &UpdateSigner) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            file: folder.path().join("updates.json"),
            audience: "switches".to_owned(),
            trusted: vec![signer.public_key().unwrap()],
            models: vec![model()],
        };
        let keyring = Keyring::open(&folder.path().join("keys")).unwrap();
        Self { updates: Updates::open(settings, keyring).unwrap(), _folder: folder }
    }

    async fn id(&self) -> Option<u64> {
        self.updates.read(&model()).await.unwrap().map(|layer| layer.values["id"].as_u64().unwrap())
    }

    async fn has(&self, id: u64) {
        until(&format!("update {id}"), async || self.id().await == Some(id)).await;
    }
}

fn sign(signer: &UpdateSigner, id: u64) -> Vec<u8> {
    let values = serde_json::json!({ "id": id }).as_object().unwrap().clone();
    let draft = Draft {
        audience: "switches".to_owned(),
        epoch: id,
        expires: Timestamp::now() + 1.hour(),
        items: vec![Item::new(&model(), values)],
        recipients: Vec::new(),
    };
    signer.sign(&draft).unwrap()
}

#[tokio::test]
async fn who_listens_gets_updates_live_who_comes_late_the_last_one_and_who_was_away_too() {
    let mut server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let signer = UpdateSigner::new(Keyring::open(&folder.path().join("keys")).unwrap());
    let publisher = server.client("publisher", "p").await;
    server.make_stream(&publisher).await;

    let first = Receiver::new(&signer);
    let reader = server.client("reader", "r").await;
    let feed = NatsFeed::new(reader.clone(), SUBJECT).last_in_stream(STREAM);
    let first_feed = tokio::spawn(feed.clone().run(first.updates.clone()));
    publish(&publisher, sign(&signer, 1)).await;
    first.has(1).await;
    publish(&publisher, sign(&signer, 2)).await;
    first.has(2).await;

    let late = Receiver::new(&signer);
    let late_feed = tokio::spawn(feed.clone().run(late.updates.clone()));
    late.has(2).await;

    // What is forged or old on the subject changes nothing, and the feed goes on.
    publish(&publisher, b"not an update".to_vec()).await;
    publish(&publisher, sign(&signer, 1)).await;
    until("two refusals", async || first.updates.status().refused == 2).await;
    assert_eq!(first.updates.status().last_refusal.unwrap().0, "replayed");
    assert_eq!(first.id().await, Some(2));

    // The server goes away; an update is published while the readers are not connected to it.
    server.kill().await;
    server.process = Server::spawn(server.folder.path()).await;
    let publisher = server.client("publisher", "p").await;
    until("the server", async || publisher.request(SUBJECT, sign(&signer, 3).into()).await.is_ok()).await;
    first.has(3).await;
    late.has(3).await;
    first_feed.abort();
    late_feed.abort();
}

#[tokio::test]
async fn a_publisher_that_answers_is_as_good_as_a_stream() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let signer = UpdateSigner::new(Keyring::open(&folder.path().join("keys")).unwrap());
    let reader = server.client("reader", "r").await;
    let receiver = Receiver::new(&signer);
    let feed = NatsFeed::new(reader, SUBJECT).last_from("config.last");
    let feed = tokio::spawn(feed.run(receiver.updates.clone()));

    // It comes later than its readers.
    let publisher = server.client("publisher", "p").await;
    let mut questions = publisher.subscribe("config.last").await.unwrap();
    let update = sign(&signer, 7);
    let answers = tokio::spawn(async move {
        while let Some(question) = futures::StreamExt::next(&mut questions).await {
            publisher.publish(question.reply.unwrap(), update.clone().into()).await.unwrap();
        }
    });
    receiver.has(7).await;
    feed.abort();
    answers.abort();
}
