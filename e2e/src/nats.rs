//! The nats-server, with TLS and the auth callout.
//!
//! Who may connect, the callout decides. The keys in the configuration are those of `fleet keys nats-init`, which
//! has them from the cluster's Secret: the callout's own, the kicker's in the system account, the issuer's and
//! the xkey. In tests only there is also an observer who sees and says everything, as the broker's operator
//! can.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::answer::Answer;
use crate::binaries::Tools;
use crate::netns::{Netns, Network};
use crate::pki::{Pki, write_private};
use crate::process::{Process, Spec};
use crate::wait::Look;

/// The client port; the only one that devices can reach.
pub const PORT: u16 = 4222;
/// Where the server shows its connections, inside the cluster's namespace.
const MONITOR: &str = "127.0.0.1:8222";

/// The server and the keys of its configuration.
#[derive(Debug)]
pub struct Nats {
    /// The server's process.
    pub server: Process,
    folder: PathBuf,
    pki: Pki,
    address: Ipv4Addr,
    netns: Netns,
}

/// One client connection as the server lists it.
#[derive(Debug, Clone, Deserialize)]
pub struct Connected {
    /// The connection's id at the server.
    pub cid: u64,
    /// The user's name: `device:pi-7`, `component:vk-nats`, ….
    #[serde(default)]
    pub authorized_user: String,
    /// What the client calls itself.
    #[serde(default)]
    pub name: String,
    /// The client's address.
    #[serde(default)]
    pub ip: String,
    /// The account.
    #[serde(default)]
    pub account: String,
    /// Number of subscriptions.
    #[serde(default)]
    pub subscriptions: u64,
}

impl Nats {
    /// Describes the server of the fleet in `fleet`; starts nothing.
    ///
    /// # Errors
    /// When nats-server is not built.
    pub fn new(fleet: &Path, network: &Network, tools: &Tools) -> Result<Self> {
        let folder = fleet.join("nats");
        fs::create_dir_all(&folder)?;
        let spec = Spec {
            name: "nats-server".into(),
            program: tools.path("nats-server")?,
            args: vec!["--config".into(), folder.join("nats.conf").display().to_string()],
            env: BTreeMap::new(),
            netns: Some(network.cluster()),
        };
        let server = Process::new(fleet, spec);
        let (pki, netns) = (Pki::open(fleet)?, network.cluster());
        Ok(Self { server, folder, pki, address: network.cluster_address(), netns })
    }

    /// Writes the configuration; it holds from the next start on. `auth` is what `fleet keys nats-init -o
    /// nats-conf` printed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn configure(&self, auth: &str, observer: bool) -> Result<()> {
        if !self.pki.cert("nats").exists() {
            self.pki.authority("nats-ca")?;
            self.pki.server("nats-ca", "nats", &["nats"], &[self.address])?;
        }
        let auth = if observer { with_observer(auth, &self.observer_key()?)? } else { auth.to_owned() };
        write_private(&self.folder.join("auth.conf"), &auth)?;
        let text = configuration(self.address, &self.pki.cert("nats"), &self.pki.key("nats"));
        write_private(&self.folder.join("nats.conf"), &text)
    }

    /// The folder with the seeds of the static keys: as `fleet keys nats-init --seed-folder` writes them.
    #[must_use]
    pub fn seed_folder(&self) -> &Path {
        &self.folder
    }

    /// Starts the server and waits until it greets.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        self.server.start().await?;
        self.server
            .ready(Duration::from_secs(20), async || {
                // The server speaks first, before TLS: `INFO {…}`.
                let greets = async {
                    let mut greeting = [0; 4];
                    let mut stream = TcpStream::connect((self.address, PORT)).await?;
                    stream.read_exact(&mut greeting).await?;
                    anyhow::Ok(&greeting == b"INFO")
                };
                // A lost first packet is sent again only after a second: a fresh connection is quicker.
                Ok(match tokio::time::timeout(Duration::from_secs(2), greets).await {
                    Ok(Ok(true)) => Look::Done(()),
                    Ok(Ok(false)) => Look::not_yet("no NATS server"),
                    Ok(Err(error)) => return Err(error),
                    Err(_) => Look::not_yet("no greeting within 2 s"),
                })
            })
            .await
    }

    /// Kills the server as a crash would, and starts it again.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub async fn restart(&self) -> Result<()> {
        self.server.kill().await?;
        self.start().await
    }

    /// What clients are configured with: `tls://…`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("tls://{}:{PORT}", self.address)
    }

    /// The server's address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The certificate authority that clients pin.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.pki.cert("nats-ca")
    }

    /// The file with one of the seeds of the configuration: `callout`, `kicker`, `observer` (nkeys),
    /// `issuer` (signs users) and `xkey` (the callout's curve key).
    #[must_use]
    pub fn seed_file(&self, whose: &str) -> PathBuf {
        self.folder.join(format!("{whose}.nk"))
    }

    /// Connects with an nkey of this seed (`SU…`) and nothing else, as a device does.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self, seed: &str) -> Result<async_nats::Client> {
        self.dial(async_nats::ConnectOptions::with_nkey(seed.to_owned())).await
    }

    /// Connects with any login.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn dial(&self, login: async_nats::ConnectOptions) -> Result<async_nats::Client> {
        login
            .add_root_certificates(self.ca_file())
            .require_tls(true)
            .connect(self.url())
            .await
            .context("connecting to nats-server")
    }

    /// Connects as somebody who may see and say everything, as the broker's operator can.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn observer(&self) -> Result<async_nats::Client> {
        self.connect(&self.seed("observer")?).await
    }

    /// The clients that are connected right now, as the server lists them.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connections(&self) -> Result<Vec<Connected>> {
        #[derive(Deserialize)]
        struct Connz {
            connections: Vec<Connected>,
        }
        let mut curl = self.netns.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "5"]);
        curl.arg(format!("http://{MONITOR}/connz?auth=1&limit=10000"));
        let text = Answer::of(&mut curl).await?.success()?;
        let connz: Connz = serde_json::from_str(&text).with_context(|| format!("connz said {text}"))?;
        Ok(connz.connections)
    }

    /// The connections of one user: `device:pi-7`, `component:vk-nats`, ….
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connections_of(&self, user: &str) -> Result<Vec<Connected>> {
        Ok(self.connections().await?.into_iter().filter(|client| client.authorized_user == user).collect())
    }

    fn seed(&self, whose: &str) -> Result<String> {
        let file = self.seed_file(whose);
        let seed = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(seed.trim().to_owned())
    }

    /// The observer's public key; made at the first call.
    fn observer_key(&self) -> Result<String> {
        if let Ok(seed) = self.seed("observer") {
            return Ok(KeyPair::from_seed(&seed)?.public_key());
        }
        let key = KeyPair::new_user();
        write_private(&self.seed_file("observer"), &key.seed()?)?;
        Ok(key.public_key())
    }
}

/// What the server needs beside its users: its own syntax takes JSON values.
fn configuration(address: Ipv4Addr, cert: &Path, key: &Path) -> String {
    let settings = [
        ("listen", json!(format!("{address}:{PORT}"))),
        // Only for looking at: connections, subscriptions, permissions.
        ("http", json!(MONITOR)),
        ("max_payload", json!(1024 * 1024)),
        ("max_pending", json!(64 * 1024 * 1024)),
        ("ping_interval", json!("10s")),
        ("tls", json!({ "cert_file": cert, "key_file": key, "timeout": 5 })),
    ];
    let lines: String = settings.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    format!("{lines}include auth.conf\n")
}

/// Lets the tests' observer into the account of the devices, past the callout.
fn with_observer(auth: &str, observer: &str) -> Result<String> {
    let mut text = auth.to_owned();
    for (place, more) in [
        ("FLEET { ", format!("FLEET {{ users: [ {{ nkey: {observer} }} ], ")),
        ("auth_users: [ ", format!("auth_users: [ {observer}, ")),
    ] {
        ensure!(text.matches(place).count() == 1, "the configuration has no single `{place}`:\n{auth}");
        text = text.replace(place, &more);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet::keys::nats::NatsAuth;

    #[test]
    fn the_configuration_knows_nobody_but_callout_kicker_and_the_tests_observer() {
        let (keys, _) = NatsAuth::default().complete().expect("keys");
        let public = keys.public().expect("public keys");
        let auth = public.server_config();
        assert!(auth.contains(&format!("AUTH {{ users: [ {{ nkey: {} }} ] }}", public.callout)), "{auth}");
        assert!(auth.contains(&format!("SYS {{ users: [ {{ nkey: {} }} ] }}", public.kicker)), "{auth}");
        assert!(!auth.contains("allow_responses") && !auth.contains("jetstream"));
        let observed = with_observer(&auth, "UO").expect("two places for the observer");
        assert_eq!(observed.matches("nkey: ").count(), auth.matches("nkey: ").count() + 1);
        assert!(observed.contains(&format!("auth_users: [ UO, {}, {} ]", public.callout, public.kicker)));
    }
}
