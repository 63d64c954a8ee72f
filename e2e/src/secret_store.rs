//! The secret store: OpenBao where it is installed, else `e2e/tools/secret-store` (Vault 1.14.0).
//!
//! Which of the two runs is said once for each start, also when the test passes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::binaries::Tools;
use crate::pki::Pki;
use crate::process::{Process, Spec};
use crate::wait::Look;

/// Where clients keep their values: a KV engine of version 2.
pub const KV_MOUNT: &str = "kv";

/// Which program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Product {
    /// `$BAO_BIN`, or `bao` on PATH.
    OpenBao(PathBuf),
    /// The one of `e2e/tools`.
    Vault(PathBuf),
}

impl Product {
    /// What there is on this machine.
    ///
    /// # Errors
    /// When there is neither.
    pub fn find(tools: &Tools) -> Result<Self> {
        let named = std::env::var_os("BAO_BIN").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path =
            std::env::split_paths(&path).map(|folder| folder.join("bao")).find(|file| file.is_file());
        match named.or(on_path) {
            Some(program) => Ok(Self::OpenBao(program)),
            None => Ok(Self::Vault(tools.path("secret-store")?)),
        }
    }

    /// For the output of tests.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::OpenBao(program) => format!("OpenBao, {}", program.display()),
            Self::Vault(_) => {
                "Vault 1.14.0 of e2e/tools/secret-store, since no `bao` is installed".to_owned()
            }
        }
    }
}

/// A store with its storage in a folder, so that it survives its process.
#[derive(Debug)]
pub struct SecretStore {
    /// Its process.
    pub process: Process,
    /// Which program it is.
    pub product: Product,
    folder: PathBuf,
    pki: Pki,
    port: u16,
    tls_port: u16,
    keys: Mutex<Option<Keys>>,
}

#[derive(Debug, Clone)]
struct Keys {
    unseal: String,
    root: String,
}

impl SecretStore {
    /// Describes it and makes its certificate; starts nothing. Requests above `max_request` bytes are refused.
    ///
    /// # Errors
    /// When it is not built or a file cannot be written.
    pub async fn new(fleet: &Path, tools: &Tools, max_request: u64) -> Result<Self> {
        let product = Product::find(tools)?;
        let address = Ipv4Addr::LOCALHOST;
        let (one, other) = (TcpListener::bind((address, 0)).await?, TcpListener::bind((address, 0)).await?);
        let (port, tls_port) = (one.local_addr()?.port(), other.local_addr()?.port());
        let pki = Pki::open(fleet)?;
        pki.authority("store-ca")?;
        pki.server("store-ca", "store", &["store"], &[address])?;
        let folder = fleet.join("secret-store");
        fs::create_dir_all(&folder)?;
        let text = |path: PathBuf| path.display().to_string();
        let (program, args) = match &product {
            Product::Vault(program) => (
                program,
                vec![
                    format!("--listen={address}:{port}"),
                    format!("--tls-listen={address}:{tls_port}"),
                    format!("--tls-cert={}", text(pki.cert("store"))),
                    format!("--tls-key={}", text(pki.key("store"))),
                    format!("--file={}", text(folder.join("data"))),
                    format!("--max-request-size={max_request}"),
                ],
            ),
            Product::OpenBao(program) => {
                let listener = |port: u16| json!({ "address": format!("{address}:{port}"), "max_request_size": max_request });
                let mut plain = listener(port);
                plain["tls_disable"] = json!(true);
                let mut over_tls = listener(tls_port);
                over_tls["tls_cert_file"] = json!(pki.cert("store"));
                over_tls["tls_key_file"] = json!(pki.key("store"));
                let config = json!({
                    "storage": { "file": { "path": folder.join("data") } },
                    "listener": [{ "tcp": plain }, { "tcp": over_tls }],
                    "api_addr": format!("http://{address}:{port}"),
                    "disable_mlock": true,
                });
                let file = folder.join("config.json");
                fs::write(&file, config.to_string())?;
                (program, vec!["server".into(), format!("-config={}", text(file))])
            }
        };
        let spec = Spec {
            name: "secret-store".into(),
            program: program.clone(),
            args,
            env: BTreeMap::new(),
            netns: None,
        };
        Ok(Self {
            process: Process::new(fleet, spec),
            product,
            folder,
            pki,
            port,
            tls_port,
            keys: Mutex::default(),
        })
    }

    /// Starts it; the first time it is initialized and gets a KV engine at [`KV_MOUNT`]. It is unsealed afterwards.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.start_sealed().await?;
        if self.keys().is_none() {
            // Tests capture what is printed; this is for whoever reads their output.
            writeln!(std::io::stderr(), "secret store: {}", self.product.describe())?;
            let made = self
                .send("PUT", "sys/init", None, &json!({ "secret_shares": 1, "secret_threshold": 1 }))
                .await?;
            let text = |value: &Value| value.as_str().map(str::to_owned).context("it gave no keys");
            let keys = Keys { unseal: text(&made["keys"][0])?, root: text(&made["root_token"])? };
            *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
            self.unseal().await?;
            self.admin(
                "POST",
                &format!("sys/mounts/{KV_MOUNT}"),
                json!({ "type": "kv", "options": { "version": "2" } }),
            )
            .await?;
            // It makes its engine ready a moment after it was mounted.
            return self
                .process
                .ready(Duration::from_secs(20), async || {
                    self.admin("GET", &format!("{KV_MOUNT}/config"), Value::Null)
                        .await
                        .map(|_| Look::Done(()))
                })
                .await;
        }
        self.unseal().await
    }

    /// Starts it and leaves it as it is after a start: sealed.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start_sealed(&self) -> Result<()> {
        self.process.start().await?;
        self.process
            .ready(Duration::from_secs(30), async || {
                self.send("GET", "sys/seal-status", None, &Value::Null).await.map(|_| Look::Done(()))
            })
            .await
    }

    /// Unseals it, and waits until it is active.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn unseal(&self) -> Result<()> {
        let keys = self.keys().context("it was not initialized yet")?;
        self.send("PUT", "sys/unseal", None, &json!({ "key": keys.unseal })).await?;
        self.process
            .ready(Duration::from_secs(20), async || {
                // Any status but 200 is an error here.
                self.send("GET", "sys/health", None, &Value::Null).await.map(|_| Look::Done(()))
            })
            .await
    }

    /// Seals it.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn seal(&self) -> Result<()> {
        self.admin("PUT", "sys/seal", json!({})).await.map(drop)
    }

    /// A copy of its storage, taken while it is stopped; it runs again afterwards.
    ///
    /// # Errors
    /// When files cannot be copied, or it does not come up again.
    pub async fn back_up(&self) -> Result<PathBuf> {
        let backup = self.folder.join("backup");
        self.process.kill().await?;
        copy(&self.folder.join("data"), &backup)?;
        self.start().await?;
        Ok(backup)
    }

    /// Puts a copy in the place of its storage.
    ///
    /// # Errors
    /// As [`SecretStore::back_up`].
    pub async fn restore(&self, backup: &Path) -> Result<()> {
        let data = self.folder.join("data");
        self.process.kill().await?;
        fs::remove_dir_all(&data)?;
        copy(backup, &data)?;
        self.start().await
    }

    /// Plain HTTP, on loopback.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Host and port of plain HTTP.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// HTTPS, with a certificate of [`SecretStore::ca_file`].
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("https://{}:{}", Ipv4Addr::LOCALHOST, self.tls_port)
    }

    /// The authority of its certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.pki.cert("store-ca")
    }

    /// Does something as its operator.
    ///
    /// # Errors
    /// Any answer that is no success, with what it says.
    pub async fn admin(&self, method: &str, path: &str, body: Value) -> Result<Value> {
        let root = self.keys().context("it was not initialized yet")?.root;
        self.send(method, path, Some(&root), &body).await
    }

    /// Does something with a token, or without.
    ///
    /// # Errors
    /// Any answer that is no success, with what it says.
    pub async fn send(&self, method: &str, path: &str, token: Option<&str>, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let token = token.map_or(String::new(), |token| format!("X-Vault-Token: {token}\r\n"));
        // HTTP/1.0: the answer ends with the connection.
        let request = format!(
            "{method} /v1/{path} HTTP/1.0\r\nHost: store\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(self.address()).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), exchange).await.context("no answer")??;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer broke off")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if !status.starts_with('2') {
            bail!("{method} {path}: {status} {body}");
        }
        Ok(if body.trim().is_empty() { Value::Null } else { serde_json::from_str(body)? })
    }

    /// Writes a policy; `rules` as in a policy file.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn policy(&self, name: &str, rules: &str) -> Result<()> {
        self.admin("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": rules })).await.map(drop)
    }

    /// A token with one policy.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn token(&self, policy: &str, more: Value) -> Result<String> {
        let mut request = json!({ "policies": [policy], "no_parent": true });
        let (Some(all), Some(more)) = (request.as_object_mut(), more.as_object()) else { bail!("no object") };
        all.extend(more.clone());
        let made = self.admin("POST", "auth/token/create", request).await?;
        made["auth"]["client_token"].as_str().map(str::to_owned).context("it gave no token")
    }

    /// Its operator's token.
    ///
    /// # Errors
    /// Before the first start.
    pub fn root_token(&self) -> Result<String> {
        Ok(self.keys().context("it was not initialized yet")?.root)
    }

    /// Kills it at once; for the end of a test.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    fn keys(&self) -> Option<Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        ensure!(kind.is_dir() || kind.is_file(), "{} is neither file nor folder", entry.path().display());
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
