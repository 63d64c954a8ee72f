//! A service whose settings change under it: the example as a process, asked over the wire, with the real database.

#![cfg(all(feature = "sqlite", feature = "updates"))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use harmony_config::{
    Config, Model, Secret,
    keyring::Keyring,
    updates::{Draft, Item, PublicKey, Recipient, UpdateSigner},
};
use jiff::{Timestamp, ToSpan as _};
use rustix::fs::{CWD, RenameFlags};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

const WITHIN: Duration = Duration::from_secs(60);
const CANARY: &str = "canary-service-8c1d";

/// As in the example: who signs updates has the same model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Shop {
    name: String,
    #[serde(default)]
    #[schemars(range(max = 100))]
    discount: u8,
    #[serde(default)]
    token: Secret<String>,
}

/// The example, which `cargo test` builds beside the tests.
fn command(folder: &Path) -> Command {
    let deps = std::env::current_exe().unwrap();
    let path: PathBuf = deps.parent().unwrap().parent().unwrap().join("examples/service");
    assert!(path.exists(), "{} is not there: build it with `cargo build --examples`", path.display());
    let mut command = Command::new(path);
    command.env_clear().env("FOLDER", folder).env("LISTEN", "127.0.0.1:0").env("USER", "tester");
    command.kill_on_drop(true);
    command
}

async fn set(folder: &Path, field: &str, value: &str) {
    let done = command(folder).args(["set", field, value]).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

struct Service {
    process: Child,
    address: String,
}

impl Service {
    async fn start(folder: &Path, trusted: Option<&PublicKey>) -> Self {
        let mut command = command(folder);
        if let Some(key) = trusted {
            command.env("TRUSTED", key.to_string());
        }
        let log = std::fs::File::create(folder.join("service.log")).unwrap();
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::from(log)).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next_line().await.unwrap();
        let Some(first) = first else {
            panic!("it ended: {}", std::fs::read_to_string(folder.join("service.log")).unwrap())
        };
        let address = first.strip_prefix("listening on ").unwrap().to_owned();
        // Who prints into a pipe that nobody reads any more would be ended by that.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { process, address }
    }

    /// Ends as a supervisor ends it.
    async fn end(mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let status = tokio::time::timeout(WITHIN, self.process.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}");
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get(&self.address, path).await.unwrap()
    }

    async fn config(&self) -> Value {
        serde_json::from_str(&self.get("/config").await.1).unwrap()
    }

    async fn health(&self) -> Value {
        serde_json::from_str(&self.get("/readyz").await.1).unwrap()
    }

    async fn wait_for(&self, what: &str, path: &str, is: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + WITHIN;
        loop {
            let (code, text) = self.get(path).await;
            if code == 200 && is(&text) {
                return text;
            }
            assert!(Instant::now() < end, "{what} does not come about: {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert!(!answer.contains(CANARY), "a secret on the wire: {answer}");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    code.zip(body).ok_or_else(|| std::io::Error::other(format!("no answer: {answer:?}")))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn source<'v>(health: &'v Value, name: &str) -> &'v Value {
    let sources = health["sources"].as_array().unwrap();
    sources.iter().find(|source| source["name"] == name).unwrap()
}

#[tokio::test]
async fn what_another_process_sets_arrives_on_the_wire_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let missing = command(folder.path()).output().await.unwrap();
    assert!(!missing.status.success());
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(text.contains("name") && text.contains("HARMONY_CONFIG_Shop"), "it says what is missing: {text}");

    set(folder.path(), "name", "\"Corner shop\"").await;
    set(folder.path(), "token", &format!("{CANARY:?}")).await;
    let service = Service::start(folder.path(), None).await;
    let before = service.config().await;
    assert_eq!(before, json!({ "name": "Corner shop", "discount": 0, "token": "[secret]" }));
    let (code, health) = service.get("/readyz").await;
    assert_eq!((code, &parsed(&health)["status"]), (200, &json!("ok")), "{health}");

    set(folder.path(), "discount", "20").await;
    service.wait_for("the change", "/config", |text| parsed(text)["discount"] == 20).await;
    assert_eq!(service.health().await["epoch"], 1);
    assert_eq!(service.get("/healthz").await, (200, "ok\n".to_owned()));
    let (_, metrics) = service.get("/metrics").await;
    assert!(metrics.contains("harmony_config_reads_total{source=\"sqlite\",outcome=\"Gave\"}"), "{metrics}");

    // A file wins over the database, also one that comes later.
    std::fs::write(folder.path().join("Shop.toml"), "discount = 30\n").unwrap();
    service.wait_for("the file", "/config", |text| parsed(text)["discount"] == 30).await;
    // One that is no good changes nothing, and says so.
    std::fs::write(folder.path().join("Shop.toml"), "discount = 'many'\n").unwrap();
    let end = Instant::now() + WITHIN;
    loop {
        let (code, health) = service.get("/readyz").await;
        if code == 503 {
            assert!(health.contains("Shop.toml"), "{health}");
            break;
        }
        assert!(Instant::now() < end, "{health}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.config().await["discount"], 30, "the last good value stays");
    std::fs::remove_file(folder.path().join("Shop.toml")).unwrap();
    service.wait_for("the database", "/config", |text| parsed(text)["discount"] == 20).await;
    service.end().await;
    let log = std::fs::read_to_string(folder.path().join("service.log")).unwrap();
    assert!(log.contains("settings changed") && !log.contains(CANARY), "{log}");
}

#[tokio::test]
async fn a_signed_update_is_taken_and_a_forged_one_refused_with_its_reason_for_all_to_see() {
    let folder = tempfile::tempdir().unwrap();
    let keyring = |name: &str| Keyring::open(&folder.path().join(name)).unwrap();
    let signer = UpdateSigner::new(keyring("signer"));
    let update = |signer: &UpdateSigner, epoch: u64, values: Value, to: Vec<Recipient>| {
        let model = Model::of::<Shop>().unwrap();
        let draft = Draft {
            audience: "shop".to_owned(),
            epoch,
            expires: Timestamp::now() + 1.hour(),
            items: vec![Item::new(&model, values.as_object().unwrap().clone())],
            recipients: to,
        };
        signer.sign(&draft).unwrap()
    };
    let path = folder.path().join("update.json");
    let deliver = |bytes: Vec<u8>| {
        std::fs::write(folder.path().join("update.new"), bytes).unwrap();
        std::fs::rename(folder.path().join("update.new"), &path).unwrap();
    };
    set(folder.path(), "name", "\"Corner shop\"").await;
    set(folder.path(), "discount", "5").await;
    let trusted = signer.public_key().unwrap();
    let service = Service::start(folder.path(), Some(&trusted)).await;
    assert_eq!(service.config().await["discount"], 5);

    deliver(update(&signer, 1, json!({ "discount": 10 }), Vec::new()));
    let config = service.wait_for("the update", "/config", |text| parsed(text)["discount"] == 10).await;
    assert_eq!(parsed(&config)["name"], "Corner shop", "what it does not have is the database's");
    let health = service.health().await;
    let facts = &source(&health, "updates")["condition"]["facts"];
    assert_eq!((&facts["epoch"], &health["status"]), (&json!("1"), &json!("ok")), "{health}");

    deliver(update(&UpdateSigner::new(keyring("forger")), 2, json!({ "discount": 100 }), Vec::new()));
    let degraded = |text: &str| parsed(text)["status"] == "degraded";
    let health = parsed(&service.wait_for("the refusal", "/readyz", degraded).await);
    let problem = &source(&health, "updates")["condition"]["problem"];
    assert_eq!(problem["reason"], "unknown_key", "{health}");
    assert!(problem["text"].as_str().unwrap().contains("trusted"), "{health}");
    assert_eq!(service.config().await["discount"], 10);

    // Signed by the right person, with a value that the model cannot have.
    deliver(update(&signer, 3, json!({ "discount": "much" }), Vec::new()));
    let unfit = |text: &str| source(&parsed(text), "updates")["condition"]["problem"]["reason"] == "unfit";
    let health = service.wait_for("the refusal", "/readyz", unfit).await;
    assert!(health.contains("discount") && !health.contains("much"), "{health}");
    deliver(update(&signer, 1, json!({ "discount": 11 }), Vec::new()));
    let replayed =
        |text: &str| source(&parsed(text), "updates")["condition"]["problem"]["reason"] == "replayed";
    service.wait_for("the refusal", "/readyz", replayed).await;

    let (_, metrics) = service.get("/metrics").await;
    for line in [
        "harmony_config_signature_failures_total{source=\"updates\",reason=\"unknown_key\"} 1",
        "harmony_config_updates_refused_total{reason=\"unknown_key\"} 1",
        "harmony_config_updates_refused_total{reason=\"unfit\"} 1",
        "harmony_config_updates_refused_total{reason=\"replayed\"} 1",
        "harmony_config_updates_applied_total 1",
        "harmony_config_update_epoch 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert_eq!(metrics.matches("harmony_config_signature_failures_total{").count(), 1, "{metrics}");

    // One with a secret, sealed to this machine, and then a restart: it stays in effect.
    let receiver = harmony_config::updates::Updates::open(
        harmony_config::updates::Settings {
            file: folder.path().join("state/updates.json"),
            audience: "shop".to_owned(),
            trusted: vec![trusted],
            models: Vec::new(),
        },
        keyring("state/keys"),
    );
    let recipient = receiver.unwrap().recipient().unwrap();
    deliver(update(&signer, 4, json!({ "discount": 12, "token": CANARY }), vec![recipient]));
    service.wait_for("the update", "/config", |text| parsed(text)["discount"] == 12).await;
    assert_eq!(service.health().await["status"], "ok");
    service.end().await;
    std::fs::remove_file(&path).unwrap();
    let service = Service::start(folder.path(), Some(&trusted)).await;
    assert_eq!(service.config().await["discount"], 12);
    service.end().await;
    // Who signed it is trusted no more.
    let service = Service::start(folder.path(), None).await;
    assert_eq!(service.config().await["discount"], 5);
    assert_eq!(service.health().await["status"], "degraded");
    service.end().await;
}

/// The database and what stands in the other place change theirs, in one step: a service that looks never finds
/// nothing there, and makes no new database.
fn exchange_databases(one: &Path, other: &Path) {
    let (one, other) = (one.join("config.db"), other.join("config.db"));
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// What SQLite keeps beside a database.
fn move_journal(from: &Path, to: &Path) {
    for name in ["config.db-wal", "config.db-shm"] {
        if from.join(name).exists() {
            std::fs::rename(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_read_is_stood_in_for_and_the_service_never_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (state, aside) = (folder.path().join("state"), folder.path().join("aside"));
    // A folder is no database.
    std::fs::create_dir_all(aside.join("config.db")).unwrap();
    set(folder.path(), "name", "\"Corner shop\"").await;
    set(folder.path(), "token", &format!("{CANARY:?}")).await;
    let service = Service::start(folder.path(), None).await;
    let good = service.config().await;

    // Somebody who asks all the time gets a good answer each time.
    let (done, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let customer = tokio::spawn({
        let (done, answers, address, good) =
            (done.clone(), answers.clone(), service.address.clone(), good.clone());
        async move {
            while !done.load(Ordering::SeqCst) {
                let (code, text) = get(&address, "/config").await.unwrap();
                assert_eq!((code, &parsed(&text)), (200, &good));
                assert_eq!(get(&address, "/readyz").await.unwrap().0, 200);
                answers.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });

    exchange_databases(&state, &aside);
    move_journal(&state, &aside);
    let in_use = |text: &str| parsed(text)["last_known_good_in_use"] == true;
    let health = parsed(&service.wait_for("the fallback", "/readyz", in_use).await);
    assert_eq!(health["status"], "degraded");
    assert_eq!(source(&health, "sqlite")["answers"], false);
    assert!(health["models"][0]["last_known_good_for"].as_array().unwrap().contains(&json!("sqlite")));
    let (_, metrics) = service.get("/metrics").await;
    assert!(metrics.contains("harmony_config_fallbacks_total{source=\"sqlite\"}"), "{metrics}");

    // A second one that starts in this moment has good settings, too.
    let second = Service::start(folder.path(), None).await;
    assert_eq!(second.config().await, good);
    assert_eq!(second.health().await["last_known_good_in_use"], true);
    second.end().await;

    move_journal(&aside, &state);
    exchange_databases(&aside, &state);
    service.wait_for("the database", "/readyz", |text| parsed(text)["status"] == "ok").await;
    done.store(true, Ordering::SeqCst);
    customer.await.unwrap();
    assert!(answers.load(Ordering::SeqCst) > 3);
    set(folder.path(), "discount", "7").await;
    service.wait_for("the change", "/config", |text| parsed(text)["discount"] == 7).await;
    service.end().await;
}
