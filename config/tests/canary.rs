//! One secret through the whole library: it stands nowhere in a file or a text, except where a person asked for it.
//!
//! A process of its own: the log is the whole process', with all its threads.

#![cfg(all(feature = "sqlite", feature = "updates"))]
#![allow(clippy::unwrap_used)]

use std::{
    fmt::Debug,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use harmony_config::{
    Actor, Change, Config, ConfigManager, Document, Environment, FieldPath, File, Key, Layer, Model, Secret,
    Source,
    chain::{Export, Secrets, TemplateFormat},
    database::{BackupFolder, Database, Filter, Options, Until, restore},
    keyring::{Keyring, Purpose},
    last_known_good::{LastKnownGood, Memory},
    seal::{open_document, seal_document},
    store::Entry,
    updates::{Draft, Item, PublicKey, UpdateSigner},
};
use jiff::{Timestamp, ToSpan as _};
use prometheus_client::registry::Registry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const CANARY: &str = "canary-7f3e-whole-library";

/// Secrets in all the ways in which a model has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Config)]
struct Access {
    /// Where.
    url: String,
    /// In a field.
    password: Secret<String>,
    /// In a list.
    #[serde(default)]
    older: Vec<Secret<String>>,
    /// Deeper.
    tls: Option<Tls>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Tls {
    key: Secret<String>,
}

/// Marked, in a type that does not hide itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, Config)]
struct Pin {
    /// Four digits, usually.
    #[config(secret)]
    pin: String,
}

fn access(url: &str) -> Access {
    let secret = || Secret::new(CANARY.to_owned());
    Access {
        url: url.to_owned(),
        password: secret(),
        older: vec![secret()],
        tls: Some(Tls { key: secret() }),
    }
}

fn document(value: &impl Serialize) -> Document {
    serde_json::to_value(value).unwrap().as_object().unwrap().clone()
}

/// What must not appear: the secret, and how it would look in what is encoded once more, at any offset.
fn forms() -> Vec<String> {
    let mut forms = vec![CANARY.to_owned(), HEXLOWER.encode(CANARY.as_bytes())];
    for (from, encoding) in (0..3).flat_map(|from| [(from, BASE64), (from, BASE64URL_NOPAD)]) {
        // Whole groups of three bytes only: what stands around it does not change them.
        let whole = (CANARY.len() - from) / 3 * 3;
        forms.push(encoding.encode(&CANARY.as_bytes()[from..from + whole]));
    }
    forms
}

/// Collects all that is shown, and all lines of the log.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl io::Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shown {
    fn text(&self, text: impl ToString) {
        self.0.lock().unwrap().extend(text.to_string().as_bytes());
        self.check("what is shown");
    }

    fn debug(&self, value: &impl Debug) {
        self.text(format!("{value:?}{value:#?}"));
    }

    fn check(&self, what: &str) {
        check(what, &self.0.lock().unwrap());
    }
}

/// Where the secret is, with what stands around it.
fn find(bytes: &[u8]) -> Option<String> {
    forms().iter().find_map(|form| {
        let at = bytes.windows(form.len()).position(|window| window == form.as_bytes())?;
        let around = &bytes[at.saturating_sub(200)..(at + 80).min(bytes.len())];
        Some(String::from_utf8_lossy(around).into_owned())
    })
}

#[track_caller]
fn check(what: &str, bytes: &[u8]) {
    assert_eq!(find(bytes), None, "{what} has the secret");
}

/// All files below.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_file_and_no_text_but_where_a_person_asks_for_it() {
    let shown = Shown::default();
    let writer = shown.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let keyring = Keyring::open(&at("keys")).unwrap();
    let signer = UpdateSigner::new(Keyring::open(&at("signer")).unwrap());
    let trusted: Vec<PublicKey> = vec![signer.public_key().unwrap()];
    let models = || vec![Model::of::<Access>().unwrap(), Model::of::<Pin>().unwrap()];
    let (model, actor) = (Model::of::<Access>().unwrap(), Actor::of_this_process());
    let options = Options {
        service: "shop".to_owned(),
        backup: Some(BackupFolder::at(&at("backup"))),
        ..Options::default()
    };
    let database = Database::open(&at("config.db"), keyring.clone(), options.clone()).unwrap();
    let last_good = LastKnownGood::open(&at("config.lkg.json"), keyring.clone()).unwrap().for_owner("shop");
    let start = |variables: Vec<(&str, &str)>| {
        let (builder, updates) = ConfigManager::builder()
            .source(Environment::new().with_variables(variables))
            .source(File::folder(at("files")))
            .updates_in(folder.path(), "shop", trusted.clone(), models())
            .unwrap();
        let builder = builder.source(database.clone()).last_known_good(last_good.clone());
        shown.debug(&builder);
        (builder.build(), updates)
    };
    let (manager, updates) = start(Vec::new());

    // Written, read, told of.
    manager.set(&access("one")).await.unwrap();
    manager.set(&access("two")).await.unwrap();
    manager.set(&Pin { pin: CANARY.to_owned() }).await.unwrap();
    let value: Access = manager.get().await.unwrap();
    assert_eq!(value.password.expose(), CANARY);
    assert_eq!(manager.get::<Pin>().await.unwrap().pin, CANARY);
    let handle = manager.handle::<Access>().await.unwrap();
    shown.debug(&value);
    shown.debug(&handle);
    shown.debug(&handle.current());
    for key in ["Access", "Pin"] {
        let explanation = manager.explain_key(key).await.unwrap();
        shown.text(&explanation);
        shown.debug(&explanation);
        for format in [TemplateFormat::Toml, TemplateFormat::Yaml, TemplateFormat::Json] {
            shown.text(manager.template_of(key, format).unwrap());
        }
    }
    let masked = manager.export(Secrets::Omitted).await.unwrap();
    shown.text(serde_json::to_string(&masked).unwrap());
    let revealed = manager.export(Secrets::Revealed).await.unwrap();
    shown.debug(&revealed);

    // What types hold it.
    let layer: Layer = database.read(&model).await.unwrap().unwrap();
    assert_eq!(layer.values["password"], CANARY);
    shown.debug(&layer);
    let values = document(&access("three"));
    shown.debug(&Change { values: &values, actor: &actor, expected: None });
    shown.debug(&Memory { source: "sqlite", model: &model, layer: Some(&layer) });
    shown.debug(&last_good.recall("sqlite", &model).unwrap().unwrap());
    shown.debug(&database.load().await.unwrap());
    let metadata = Default::default();
    let entry =
        Entry { values: values.clone(), revision: 1, version: 1, metadata, metadata_is_current: true };
    shown.debug(&entry);
    let sealed = seal_document(&keyring, "shop", &model, &values).unwrap();
    shown.text(Value::Object(sealed.clone()));
    assert_eq!(open_document(&keyring, "shop", &model, &sealed).unwrap(), values);

    // History, audit, search.
    let all = Filter { changes_only: false, ..Filter::default() };
    let history = database.history(&all).await.unwrap();
    shown.text(serde_json::to_string(&history).unwrap());
    shown.debug(&history);
    shown.debug(&database.list(None).await.unwrap());
    shown.debug(&database.snapshot("shop", 1).await.unwrap());
    let key: Key = "Access".parse().unwrap();
    shown.debug(&database.version("shop", &key, 1).await.unwrap());
    assert!(database.search(&CANARY[..6], None, 10).await.unwrap().is_empty(), "secrets are not looked into");
    database.rollback(Some(&key), 1, None, &actor).await.unwrap();
    assert_eq!(manager.get::<Access>().await.unwrap(), access("one"));

    // An update, sealed to this machine; and what signing holds.
    let recipient = updates.recipient().unwrap();
    let draft = |epoch, recipients| Draft {
        audience: "shop".to_owned(),
        epoch,
        expires: Timestamp::now() + 1.hour(),
        items: vec![Item::new(&model, document(&access("four")))],
        recipients,
    };
    shown.debug(&draft(1, vec![recipient.clone()]));
    shown.text(signer.sign(&draft(1, Vec::new())).unwrap_err());
    let update = signer.sign(&draft(1, vec![recipient])).unwrap();
    fs::write(at("update.json"), &update).unwrap();
    updates.accept(&update).unwrap();
    shown.debug(&updates);
    assert_eq!(manager.get::<Access>().await.unwrap(), access("four"));
    shown.debug(&updates.read(&model).await.unwrap());

    // What goes wrong with it.
    let password: FieldPath = ["password"].into_iter().collect();
    for wrong in [json!({ CANARY: CANARY }), json!([CANARY]), json!(7)] {
        let error = manager.set_field("Access", &password, Some(wrong)).await.unwrap_err();
        shown.text(&error);
        shown.debug(&error);
    }
    let wrong: Export = {
        let mut wrong = serde_json::to_value(&revealed).unwrap();
        wrong["items"]["Access"]["values"]["password"] = json!([CANARY]);
        wrong["items"]["Access"]["values"]["url"] = json!([CANARY]);
        serde_json::from_value(wrong).unwrap()
    };
    let error = manager.import(&wrong).await.unwrap_err();
    shown.text(&error);
    shown.debug(&error);
    let list = format!("[{CANARY:?}]");
    for variable in [
        ("HARMONY_CONFIG_Access__PASSWORD", list.as_str()),
        ("HARMONY_CONFIG_Access__TLS", CANARY),
        ("HARMONY_CONFIG_Access", CANARY),
        ("HARMONY_CONFIG_Access__URL", CANARY),
    ] {
        let (manager, _) = start(vec![variable]);
        match manager.get::<Access>().await {
            // Text is text; a plain field is not secret, and is not shown here.
            Ok(value) => drop(value),
            Err(error) => {
                shown.text(&error);
                shown.debug(&error);
            }
        }
        shown.text(serde_json::to_string(&manager.health()).unwrap());
    }
    fs::create_dir(at("files")).unwrap();
    for (name, text) in [
        ("Access.toml", format!("password = \"{CANARY}\nurl = ")),
        ("Access.json", format!("{{\"password\": \"{CANARY}\"")),
        ("Access.yaml", format!("password: {{ {CANARY}: [")),
        ("Access.toml", format!("password = [\"{CANARY}\"]")),
    ] {
        fs::write(at("files").join(name), text).unwrap();
        let error = manager.get::<Access>().await.unwrap_err();
        shown.text(&error);
        shown.debug(&error);
        fs::remove_file(at("files").join(name)).unwrap();
    }

    // Health and metrics, after all that.
    let health = manager.health();
    shown.text(serde_json::to_string(&health).unwrap());
    shown.debug(&health);
    shown.debug(&manager);
    shown.debug(&(&database, &last_good, &keyring, &signer));
    let mut registry = Registry::default();
    manager.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    shown.text(text);

    // A person asks: that is written down, and only he sees it.
    let seen = manager.reveal("Access", &password).await.unwrap().unwrap();
    assert_eq!(seen, CANARY);
    let seen = database.show("shop", &key, &password, &actor).await.unwrap();
    assert_eq!(seen["password"], CANARY);
    let text = serde_json::to_string(&revealed).unwrap();
    assert!(find(text.as_bytes()).is_some() && find(BASE64.encode(text.as_bytes()).as_bytes()).is_some());

    // Other keys, a deletion, a restored backup: what is left of it anywhere is sealed.
    keyring.rotate(Purpose::Encryption).unwrap();
    shown.debug(&database.reseal(&actor).await.unwrap());
    last_good.reseal().unwrap();
    updates.reseal().unwrap();
    assert_eq!(manager.get::<Access>().await.unwrap(), access("four"));
    manager.delete::<Pin>().await.unwrap();
    assert_eq!(database.drain_backup(Duration::from_secs(30)).unwrap().error, None);
    let restored = at("restored.db");
    shown.debug(&restore(&at("backup"), Until::Newest, &restored, &keyring, &options, &actor).unwrap());

    let found = files(folder.path());
    let names: Vec<_> =
        found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().display().to_string()).collect();
    for expected in [
        "config.db",
        "config.db-wal",
        "restored.db",
        "config.lkg.json",
        "updates.json",
        "update.json",
        "keys/encryption.json",
        "backup/",
    ] {
        assert!(names.iter().any(|name| name.starts_with(expected)), "{expected} is not among {names:?}");
    }
    for path in &found {
        check(&path.display().to_string(), &fs::read(path).unwrap());
    }
    shown.check("the log");
    let log = shown.0.lock().unwrap().len();
    assert!(log > 10_000, "the log and all that was shown have {log} bytes only");
}
