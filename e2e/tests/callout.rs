//! The auth callout with a real nats-server and nothing else: who gets in, and what the server then lets
//! them do. The API server is played: devices are put into the callout's memory by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Auth, Client, ConnectOptions, Event};
use callout::{
    authorize::{Authorizer, Complaints},
    claims::Issuer,
    decide::{Component, Policy},
    limits::Limits,
    metrics::{AuthorizationLabels, DropLabels, Metrics},
    registry::Registry,
    servers::Servers,
    service,
    tokens::{Oidc, ReviewError, ServiceAccounts, TokenReviews, Tokens},
};
use e2e::{
    binaries::Tools,
    wait::{Look, until},
};
use fleet_daemon::{health::Health, shutdown::Shutdown};
use fleet_wire::enrollment::{Enrollment, Record, RecordState};
use futures::{StreamExt as _, future::BoxFuture};
use nkeys::{KeyPair, XKey};
use tokio::process::{Child, Command};

/// Of account FLEET, for each connection.
const SUBSCRIPTIONS: usize = 64;
const PAYLOAD: usize = 264 * 1024;
const WITHIN: Duration = Duration::from_secs(15);
const TOKEN_OF_VK_NATS: &str = "e30.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMifQ.c2ln";

/// An API server that knows one token.
struct ApiServer;

impl TokenReviews for ApiServer {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        let user = "system:serviceaccount:harmony-fleet:vk-nats".to_owned();
        Box::pin(std::future::ready(Ok((token == TOKEN_OF_VK_NATS).then_some(user))))
    }
}

/// A nats-server that asks a callout in this process.
struct Case {
    _server: Child,
    _folder: tempfile::TempDir,
    port: u16,
    callout_key: KeyPair,
    authorizer: Arc<Authorizer>,
}

impl Case {
    async fn start() -> Result<Self> {
        Self::with_sealing(true).await
    }

    async fn with_sealing(sealing: bool) -> Result<Self> {
        let (callout_key, issuer, curve) = (KeyPair::new_user(), KeyPair::new_account(), XKey::new());
        let folder = tempfile::tempdir()?;
        let mut auth_callout = serde_json::json!({
            "issuer": issuer.public_key(),
            "auth_users": [callout_key.public_key()],
            "account": "AUTH",
        });
        if sealing {
            auth_callout["xkey"] = curve.public_key().into();
        }
        let config = serde_json::json!({
            "listen": "127.0.0.1:-1",
            "ports_file_dir": folder.path(),
            "accounts": {
                "FLEET": { "limits": { "max_subscriptions": SUBSCRIPTIONS, "max_payload": PAYLOAD } },
                "AUTH": { "users": [{ "nkey": callout_key.public_key() }] },
                "SYS": {},
            },
            "system_account": "SYS",
            "authorization": { "auth_callout": auth_callout },
        });
        let file = folder.path().join("nats.conf");
        std::fs::write(&file, format!("{config:#}\n"))?;
        let log = std::fs::File::create(folder.path().join("nats.log"))?;
        let server = Command::new(Tools::locate().await?.path("nats-server")?)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let port = until("nats-server's port", WITHIN, async || {
            let ports = std::fs::read_dir(folder.path())?
                .filter_map(|entry| entry.ok())
                .find(|entry| entry.path().extension().is_some_and(|extension| extension == "ports"));
            let Some(ports) = ports else { return Ok(Look::not_yet("no file of ports")) };
            let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(ports.path())?)?;
            let url = ports["nats"][0].as_str().context("no port for clients")?;
            Ok(Look::Done(url.rsplit(':').next().context("no port")?.parse()?))
        })
        .await?;
        let authorizer = Arc::new(Authorizer {
            issuer: Issuer::new(&issuer.seed()?, "FLEET")?,
            servers: Servers::new([curve]),
            spare_issuers: Vec::new(),
            registry: Registry::default(),
            tokens: Tokens::new(Oidc::default(), ServiceAccounts::new(ApiServer)),
            policy: Policy {
                device_requests: true,
                components: [(
                    "system:serviceaccount:harmony-fleet:vk-nats".to_owned(),
                    Component::ClusterSide,
                )]
                .into(),
                admin_role: "fleet-admin".to_owned(),
            },
            lifetime: Duration::from_secs(60),
            limits: Limits::default(),
            metrics: Arc::new(Metrics::new(&mut prometheus_client::registry::Registry::default())),
            complaints: Complaints::default(),
        });
        let case = Self { _server: server, _folder: folder, port, callout_key, authorizer };
        let client = ConnectOptions::with_nkey(case.callout_key.seed()?).connect(case.url()).await?;
        let health = Health::new();
        let check = health.check("service");
        tokio::spawn(service::serve(client.clone(), Arc::clone(&case.authorizer), check, Shutdown::new()));
        until("the service", WITHIN, async || {
            Ok(if health.is_ready() { Look::Done(()) } else { Look::not_yet("starting") })
        })
        .await?;
        client.flush().await?;
        Ok(case)
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A device with its Node.
    fn enroll(&self, device: &str) -> (KeyPair, Record) {
        let key = KeyPair::new_user();
        let enrollment = Enrollment {
            device: device.parse().unwrap(),
            identity_key: key.public_key().parse().unwrap(),
            curve_key: XKey::new().public_key().parse().unwrap(),
            subject: None,
            labels: Default::default(),
            taint: true,
            pod_cidr: None,
            report_pod_ip: false,
        };
        let record = Record::new(enrollment, format!("uid-of-{device}"));
        let mut index = self.authorizer.registry.update();
        index.put_node(device, record.node_uid.clone());
        index.put_record(record.clone());
        (key, record)
    }

    async fn connect(&self, key: &KeyPair) -> Result<User> {
        User::connect(ConnectOptions::with_nkey(key.seed()?), self).await
    }

    async fn cluster_side(&self) -> Result<User> {
        let key = Arc::new(KeyPair::new_user());
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let key = Arc::clone(&key);
            async move {
                let mut auth = signed(&key, &nonce);
                auth.token = Some(TOKEN_OF_VK_NATS.to_owned());
                Ok(auth)
            }
        });
        User::connect(options, self).await
    }

    fn decided(&self, login: &'static str, decision: &'static str, reason: &'static str) -> u64 {
        let labels = AuthorizationLabels { login, decision, reason };
        self.authorizer.metrics.authorizations.get_or_create(&labels).get()
    }
}

fn signed(key: &KeyPair, nonce: &[u8]) -> Auth {
    let mut auth = Auth::new();
    auth.nkey = Some(key.public_key());
    auth.signature = key.sign(nonce).ok();
    auth
}

/// A connection, and what the server complained of.
struct User {
    client: Client,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl User {
    async fn connect(options: ConnectOptions, case: &Case) -> Result<Self> {
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&complaints);
        let client = options
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    heard.lock().unwrap().push(error.to_string());
                }
                std::future::ready(())
            })
            .connect(case.url())
            .await?;
        Ok(Self { client, complaints })
    }

    /// Waits until the server has refused something about this subject, and with that has seen all before.
    async fn is_refused(&self, subject: &str) -> Result<()> {
        self.hears(&format!("\"{subject}\"")).await
    }

    /// Waits until the server has dealt with all that was sent.
    async fn settled(&self) -> Result<()> {
        self.client.publish("barrier", "".into()).await?;
        self.is_refused("barrier").await
    }

    /// Waits for a complaint.
    async fn hears(&self, words: &str) -> Result<()> {
        until(format!("the server's complaint {words}"), WITHIN, async || {
            let complaints = self.complaints.lock().unwrap();
            Ok(
                if complaints.iter().any(|complaint| complaint.to_lowercase().contains(&words.to_lowercase()))
                {
                    Look::Done(())
                } else {
                    Look::not_yet(format!("{complaints:?}"))
                },
            )
        })
        .await
    }
}

#[tokio::test]
async fn a_device_gets_its_own_subjects_and_no_others() -> Result<()> {
    let case = Case::start().await?;
    let (key, _) = case.enroll("pi-7");
    case.enroll("pi-8");
    let device = case.connect(&key).await?;
    let cluster = case.cluster_side().await?;
    let mut up = cluster.client.subscribe("fleet.v1.*.*.up.>").await?;
    cluster.settled().await?;

    let own = fleet_wire::subject::device_root(&"pi-7".parse()?);
    let other = fleet_wire::subject::device_root(&"pi-8".parse()?);
    let foreign = [
        format!("{other}.up.hello"),
        format!("{own}.down.changed"),
        format!("{own}.upper"),
        "fleet.enroll.v1.device.pi-8".to_owned(),
        "_INBOX.pi-8.1".to_owned(),
        "_INBOX._key.x".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
        "$SYS.REQ.USER.AUTH".to_owned(),
        "$JS.API.INFO".to_owned(),
    ];
    for subject in &foreign {
        device.client.publish(subject.clone(), "x".into()).await?;
        device.is_refused(subject).await?;
    }
    for subject in [
        ">",
        "*.>",
        "fleet.>",
        "fleet.v1.*.*.up.>",
        &format!("{other}.down.>"),
        &format!("{own}.up.>"),
        "_INBOX.>",
        "_INBOX.*.>",
        "_INBOX.pi-8.>",
        "$SYS.>",
        "$JS.>",
        "fleet.enroll.v1.>",
    ] {
        let _refused = device.client.subscribe(subject.to_owned()).await?;
        device.is_refused(subject).await?;
    }
    // What is its own goes both ways. It is also the first message that the cluster side sees.
    let mut down = device.client.subscribe(fleet_wire::subject::down_wildcard(&"pi-7".parse()?)).await?;
    let mut inbox = device.client.subscribe("_INBOX.pi-7.>").await?;
    device.client.publish(format!("{own}.up.hello"), "hello".into()).await?;
    device.client.flush().await?;
    let first = tokio::time::timeout(WITHIN, up.next()).await?.context("the subscription ended")?;
    ensure!(first.subject.as_str() == format!("{own}.up.hello"), "{first:?}");
    cluster.client.publish(format!("{own}.down.changed"), "changed".into()).await?;
    cluster.client.publish("_INBOX.pi-7.1", "answer".into()).await?;
    ensure!(tokio::time::timeout(WITHIN, down.next()).await?.is_some());
    ensure!(tokio::time::timeout(WITHIN, inbox.next()).await?.is_some());
    ensure!(case.decided("registry", "admit", "") == 1);
    ensure!(case.decided("service-account", "admit", "") == 1);
    Ok(())
}

#[tokio::test]
async fn a_question_is_no_right_to_answer_elsewhere() -> Result<()> {
    let case = Case::start().await?;
    let (key, _) = case.enroll("pi-7");
    let device = case.connect(&key).await?;
    let cluster = case.cluster_side().await?;
    let mut down = device.client.subscribe(fleet_wire::subject::down_wildcard(&"pi-7".parse()?)).await?;
    device.settled().await?;
    let own = fleet_wire::subject::device_root(&"pi-7".parse()?);
    cluster.client.publish_with_reply(format!("{own}.down.stats"), "elsewhere.1", "?".into()).await?;
    let asked = tokio::time::timeout(WITHIN, down.next()).await?.context("the subscription ended")?;
    device.client.publish(asked.reply.context("no reply subject")?, "!".into()).await?;
    device.is_refused("elsewhere.1").await
}

#[tokio::test]
async fn who_cannot_show_the_key_of_a_device_stays_out() -> Result<()> {
    let case = Case::start().await?;
    let (key, record) = case.enroll("pi-7");
    let key = Arc::new(key);
    case.connect(&KeyPair::new_user()).await.err().context("a stranger was let in")?;
    ensure!(case.decided("registry", "refuse", "unknown-key") == 1);

    // The device's key, signed with another one.
    let public = key.public_key();
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let mut auth = signed(&KeyPair::new_user(), &nonce);
        auth.nkey = Some(public.clone());
        async move { Ok(auth) }
    });
    User::connect(options, &case).await.err().context("a wrong signature was believed")?;
    ensure!(case.decided("registry", "refuse", "signature") == 1);

    // A good signature of one connection, on the next one.
    let seen = Arc::new(Mutex::new(None));
    let keep = |seen: &Arc<Mutex<Option<Vec<u8>>>>| {
        let (seen, key) = (Arc::clone(seen), Arc::clone(&key));
        ConnectOptions::with_auth_callback(move |nonce| {
            let fresh = signed(&key, &nonce);
            let mut seen = seen.lock().unwrap();
            let signature = seen.get_or_insert_with(|| fresh.signature.clone().unwrap()).clone();
            let mut auth = Auth::new();
            auth.nkey = fresh.nkey;
            auth.signature = Some(signature);
            async move { Ok(auth) }
        })
    };
    User::connect(keep(&seen), &case).await.context("the first time it is good")?;
    User::connect(keep(&seen), &case).await.err().context("a signature was believed twice")?;
    ensure!(case.decided("registry", "refuse", "signature") == 2);

    let revoked = Record { state: RecordState::Revoked(jiff::Timestamp::now()), ..record };
    case.authorizer.registry.update().put_record(revoked);
    case.connect(&key).await.err().context("a revoked device was let in")?;
    ensure!(case.decided("registry", "refuse", "revoked") == 1);
    Ok(())
}

#[tokio::test]
async fn a_token_holder_and_an_applicant_reach_their_own_door_only() -> Result<()> {
    let case = Case::start().await?;
    let user = "enrollment:0123456789abcdef0123".to_owned();
    let holder = User::connect(ConnectOptions::with_user_and_password(user, String::new()), &case).await?;
    let key = Arc::new(KeyPair::new_user());
    let public = key.public_key();
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let key = Arc::clone(&key);
        async move {
            let mut auth = signed(&key, &nonce);
            auth.username = Some("request".to_owned());
            Ok(auth)
        }
    });
    let applicant = User::connect(options, &case).await?;
    for (user, own, other) in [
        (&holder, "token.0123456789abcdef0123".to_owned(), format!("key.{public}")),
        (&applicant, format!("key.{public}"), "token.0123456789abcdef0123".to_owned()),
    ] {
        let foreign = format!("fleet.enroll.v1.{other}");
        user.client.publish(foreign.clone(), "x".into()).await?;
        user.is_refused(&foreign).await?;
        let foreign = format!("_INBOX._{other}.>");
        let _refused = user.client.subscribe(foreign.clone()).await?;
        user.is_refused(&foreign).await?;
        user.client.publish("fleet.v1.0.pi-7.up.hello", "x".into()).await?;
        user.is_refused("fleet.v1.0.pi-7.up.hello").await?;
        let mut inbox = user.client.subscribe(format!("_INBOX._{own}.>")).await?;
        user.client.publish(format!("fleet.enroll.v1.{own}"), "x".into()).await?;
        user.settled().await?;
        let complaints = user.complaints.lock().unwrap().clone();
        ensure!(complaints.iter().all(|complaint| !complaint.contains(&own)), "{complaints:?}");
        inbox.unsubscribe().await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_connection_is_authorized_anew() -> Result<()> {
    let case = Case::start().await?;
    let (key, record) = case.enroll("pi-7");
    let device = case.connect(&key).await?;
    ensure!(case.decided("registry", "admit", "") == 1);
    case.authorizer.registry.update().remove_node("pi-7", &record.node_uid);
    device.client.force_reconnect().await?;
    until("the refusal", WITHIN, async || {
        Ok(match case.decided("registry", "refuse", "without-node") {
            0 => Look::not_yet("not asked"),
            _ => Look::Done(()),
        })
    })
    .await
}

/// nats-server 2.15.2 takes no limits from a callout's users (it looks for them in a JWT that the client
/// sent); those of the account hold for each of its connections.
#[tokio::test]
async fn the_limits_of_the_account_hold_for_each_device() -> Result<()> {
    let case = Case::start().await?;
    let (key, _) = case.enroll("pi-7");
    let device = case.connect(&key).await?;
    let mut open = Vec::new();
    for n in 0..=SUBSCRIPTIONS {
        open.push(device.client.subscribe(format!("_INBOX.pi-7.{n}.>")).await?);
    }
    device.hears("maximum subscriptions exceeded").await?;
    let device = case.connect(&key).await?;
    let own = fleet_wire::subject::device_root(&"pi-7".parse()?);
    device.client.publish(format!("{own}.up.hello"), vec![0; PAYLOAD + 1].into()).await?;
    device.hears("maximum payload").await
}

#[tokio::test]
async fn a_request_that_is_not_sealed_is_not_answered() -> Result<()> {
    let case = Case::with_sealing(false).await?;
    let (key, _) = case.enroll("pi-7");
    if case.connect(&key).await.is_ok() {
        bail!("an authorization that everybody could read was answered");
    }
    let plain = DropLabels { reason: "plain" };
    ensure!(case.authorizer.metrics.unanswered.get_or_create(&plain).get() > 0);
    ensure!(case.decided("registry", "admit", "") == 0);
    Ok(())
}
