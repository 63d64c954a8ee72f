//! The identity provider of a fleet: `e2e/tools/oidc`, Zitadel's own engine.
//!
//! Accounts, keys and misbehaviour are told to its admin port while it runs.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use fleet::login::{self, LoginError, Session, Settings, Verification};
use fleet_daemon::oidc::http::HttpClient;
use fleet_daemon::oidc::{MachineLogin, MachineLoginSettings};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::binaries::Tools;
use crate::jwt::PublicKey;
use crate::netns::Netns;
use crate::pki::{Pki, write_private};
use crate::process::{Process, Spec};
use crate::wait::Look;

/// The public client of the device flow.
pub const CLIENT: &str = "fleet";
/// The claim with the roles.
pub const ROLES_CLAIM: &str = "urn:zitadel:iam:org:project:roles";

/// A person or a machine at the provider.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// What tokens have as `sub`.
    pub id: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Its secret, for client credentials.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// Audiences of its tokens, beside those that scopes ask for.
    pub audience: Vec<String>,
    /// How long its tokens are good; below zero they are expired when made. Zero is the provider's default.
    pub lifetime_seconds: i64,
    /// By how much its tokens begin in the future (client credentials only).
    pub ahead_seconds: i64,
}

/// Where it listens.
#[derive(Debug, Clone)]
pub struct Place {
    /// The namespace; `None` is the one of this program.
    pub netns: Option<Netns>,
    /// The address in it.
    pub address: Ipv4Addr,
    /// The public port (HTTPS).
    pub port: u16,
    /// The admin port.
    pub admin_port: u16,
}

impl Place {
    /// Two free ports on this machine's loopback.
    ///
    /// # Errors
    /// When there are none.
    pub async fn on_loopback() -> Result<Self> {
        let address = Ipv4Addr::LOCALHOST;
        let (one, other) = (TcpListener::bind((address, 0)).await?, TcpListener::bind((address, 0)).await?);
        let (port, admin_port) = (one.local_addr()?.port(), other.local_addr()?.port());
        Ok(Self { netns: None, address, port, admin_port })
    }
}

/// The provider.
#[derive(Debug)]
pub struct IdentityProvider {
    /// Its process.
    pub process: Process,
    folder: PathBuf,
    ca_file: PathBuf,
    place: Place,
}

impl IdentityProvider {
    /// Describes it and makes its certificate; starts nothing. `name` tells it from others of the fleet.
    ///
    /// # Errors
    /// When it is not built or a file cannot be written.
    pub fn new(fleet: &Path, name: &str, place: Place, tools: &Tools) -> Result<Self> {
        let pki = Pki::open(fleet)?;
        let authority = format!("{name}-ca");
        if !pki.cert(name).exists() {
            pki.authority(&authority)?;
            pki.server(&authority, name, &[name], &[place.address])?;
        }
        let folder = fleet.join(name);
        fs::create_dir_all(&folder)?;
        let text = |path: PathBuf| path.display().to_string();
        let spec = Spec {
            name: name.into(),
            program: tools.path("oidc-provider")?,
            args: vec![
                format!("--issuer={}", issuer(&place)),
                format!("--listen={}:{}", place.address, place.port),
                format!("--admin={}:{}", place.address, place.admin_port),
                format!("--tls-cert={}", text(pki.cert(name))),
                format!("--tls-key={}", text(pki.key(name))),
                format!("--client={CLIENT}"),
            ],
            env: BTreeMap::new(),
            netns: place.netns.clone(),
        };
        let ca_file = pki.cert(&authority);
        Ok(Self { process: Process::new(fleet, spec), folder, ca_file, place })
    }

    /// Starts it and waits until it answers. Accounts and keys do not outlive the process.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.process.start().await?;
        let client = self.client()?;
        let discovery = format!("{}/.well-known/openid-configuration", self.issuer());
        self.process
            .ready(Duration::from_secs(20), async || {
                let answer = client.send(http::Request::get(&discovery).body(Vec::new())?).await?;
                Ok(match answer.status().as_u16() {
                    200 => Look::Done(()),
                    other => Look::not_yet(other),
                })
            })
            .await
    }

    /// What its tokens have as `iss`.
    #[must_use]
    pub fn issuer(&self) -> String {
        issuer(&self.place)
    }

    /// The certificate authority that clients pin.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.ca_file.clone()
    }

    /// Adds or changes an account; a change drops its keys.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn put(&self, account: &Account) -> Result<()> {
        self.admin("/accounts", &serde_json::to_string(account)?).await.map(drop)
    }

    /// Registers a new key of a machine; gives the path of its JSON key file.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn register_key(&self, account: &str) -> Result<PathBuf> {
        let json = self.admin(&format!("/keys?account={account}"), "").await?;
        let file = self.folder.join(format!("{account}.json"));
        write_private(&file, &json)?;
        Ok(file)
    }

    /// Signs claims, whatever they say, with the key of now; `key_id` names another one than that in the header.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn sign(&self, claims: &Value, key_id: Option<&str>) -> Result<String> {
        let key_id = key_id.map(|id| format!("?kid={id}")).unwrap_or_default();
        self.admin(&format!("/sign{key_id}"), &claims.to_string()).await
    }

    /// A token of a machine, by client credentials; `scopes` ask for the audience.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn token_of(&self, account: Account, scopes: &[&str]) -> Result<String> {
        let account = Account { secret: "s3cr&t: 1".into(), ..account };
        self.put(&account).await?;
        let secret = self.folder.join(format!("{}.secret", account.id));
        write_private(&secret, &account.secret)?;
        let settings = MachineLoginSettings {
            client_id: Some(account.id),
            client_secret_file: Some(secret),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            ..self.machine_login()
        };
        Ok(MachineLogin::new(settings)?.token().await?.secret().to_owned())
    }

    /// What every machine's login here has; key or secret are to be added.
    #[must_use]
    pub fn machine_login(&self) -> MachineLoginSettings {
        MachineLoginSettings {
            issuer: self.issuer(),
            client_id: None,
            audience: None,
            scopes: vec!["openid".into()],
            key_file: None,
            client_secret_file: None,
            ca_file: Some(self.ca_file()),
        }
    }

    /// Logs a person in by the device flow, and decides for it at once.
    ///
    /// # Errors
    /// The outer one when the provider does not answer, the inner one is what the login came to.
    pub async fn log_in(
        &self,
        (account, approve): (&str, bool),
        scopes: &[&str],
    ) -> Result<Result<Session, LoginError>> {
        let (shown, seen) = tokio::sync::oneshot::channel();
        let mut shown = Some(shown);
        let settings = Settings {
            issuer: self.issuer(),
            client_id: CLIENT.into(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            audience: None,
            ca_file: Some(self.ca_file()),
        };
        let mut prompt = |verification: &Verification| {
            // Shown once; who waits for it may have given up.
            let _ = shown.take().map(|shown| shown.send(verification.clone()));
        };
        let decide = async {
            let verification = seen.await?;
            ensure!(verification.uri == format!("{}/device", self.issuer()), "{verification:?}");
            self.decide(&verification.code, account, approve).await
        };
        let (session, decided) = tokio::join!(login::device_flow(&settings, &mut prompt), decide);
        decided?;
        Ok(session)
    }

    /// Signs with a new key from now on; `forget` takes the old ones out of the key set.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn rotate(&self, algorithm: &str, forget: bool) -> Result<()> {
        self.admin(&format!("/rotate?algorithm={algorithm}&forget={forget}"), "").await.map(drop)
    }

    /// Lets requests for the key set hang, or no longer.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn hang_keys(&self, hang: bool) -> Result<()> {
        self.admin(&format!("/hang?keys={hang}"), "").await.map(drop)
    }

    /// Closes all connections without an answer, or no longer.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn away(&self, away: bool) -> Result<()> {
        self.admin(&format!("/away?on={away}"), "").await.map(drop)
    }

    /// Fills in the form of the device flow, as the person in front of it would.
    ///
    /// # Errors
    /// When the code or the account is unknown.
    pub async fn decide(&self, code: &str, account: &str, approve: bool) -> Result<()> {
        let decision = if approve { "approve" } else { "deny" };
        let request = http::Request::post(format!("{}/device", self.issuer()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("user_code={code}&account={account}&decision={decision}").into_bytes())?;
        let answer = self.client()?.send(request).await?;
        ensure!(answer.status().is_success(), "{}", String::from_utf8_lossy(answer.body()));
        Ok(())
    }

    /// The first of its public keys, which everybody may know. RSA only.
    ///
    /// # Errors
    /// When it is another kind of key, or nobody answers.
    pub async fn public_key(&self) -> Result<PublicKey> {
        let keys = http::Request::get(format!("{}/keys", self.issuer())).body(Vec::new())?;
        PublicKey::first_of(self.client()?.send(keys).await?.body())
    }

    /// A client that trusts it.
    ///
    /// # Errors
    /// When the authority's file is gone.
    pub fn client(&self) -> Result<HttpClient> {
        Ok(HttpClient::new(Some(&self.ca_file()), Duration::from_secs(5))?)
    }

    /// Kills it at once; for the end of a test.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    /// Plain HTTP, which our own client would not speak to another machine.
    async fn admin(&self, path: &str, body: &str) -> Result<String> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect((self.place.address, self.place.admin_port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), exchange).await.context("no answer")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer broke off")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("POST {path}: {status} {body}");
        }
        Ok(body.to_owned())
    }
}

fn issuer(place: &Place) -> String {
    format!("https://{}:{}", place.address, place.port)
}
