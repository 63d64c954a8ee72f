//! The nats-server, with TLS and the auth callout.
//!
//! Who may connect, the callout decides. Four nkeys stand in the configuration: the callout's own, the
//! kicker's in the system account, and, in tests only, that of an observer who sees and says everything, as
//! the broker's operator can.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::permissions::{MAX_PAYLOAD, MAX_SUBSCRIPTIONS};
use nkeys::{KeyPair, XKey};
use serde::Deserialize;
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

    /// Makes keys where there are none, writes the configuration, starts the server
    /// and waits until it greets.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        if !self.pki.cert("nats").exists() {
            self.make_keys()?;
        }
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

    fn make_keys(&self) -> Result<()> {
        let make = |whose: &str, key: KeyPair| -> Result<String> {
            write_private(&self.seed_file(whose), &key.seed()?)?;
            Ok(key.public_key())
        };
        let xkey = XKey::new();
        write_private(&self.seed_file("xkey"), &xkey.seed()?)?;
        let keys = Keys {
            callout: make("callout", KeyPair::new_user())?,
            kicker: make("kicker", KeyPair::new_user())?,
            observer: make("observer", KeyPair::new_user())?,
            issuer: make("issuer", KeyPair::new_account())?,
            xkey: xkey.public_key(),
        };
        let tls = (self.pki.cert("nats"), self.pki.key("nats"));
        let text = configuration(self.address, (&tls.0, &tls.1), &keys);
        write_private(&self.folder.join("nats.conf"), &text)?;
        self.pki.authority("nats-ca")?;
        // The last one: its file says that all the others are there.
        self.pki.server("nats-ca", "nats", &["nats"], &[self.address])
    }
}

/// The public keys of the configuration.
struct Keys {
    callout: String,
    kicker: String,
    observer: String,
    issuer: String,
    xkey: String,
}

/// The server's configuration: its own syntax takes JSON values.
fn configuration(address: Ipv4Addr, (cert, key): (&Path, &Path), keys: &Keys) -> String {
    let config = serde_json::json!({
        "listen": format!("{address}:{PORT}"),
        // Only for looking at: connections, subscriptions, permissions.
        "http": MONITOR,
        "max_payload": 1024 * 1024,
        "max_pending": 64 * 1024 * 1024,
        "ping_interval": "10s",
        "tls": { "cert_file": cert, "key_file": key, "timeout": 5 },
        "accounts": {
            // The observer belongs to the tests; a real server has no user here.
            // The server takes no limits from what the callout answers (not in config mode, 2.15.2), so they
            // stand here, for every connection: a message of ours and what sealing adds; and a subscription for
            // each device that a vk-nats speaks for.
            "FLEET": {
                "users": [{ "nkey": keys.observer }],
                "limits": { "max_payload": MAX_PAYLOAD, "max_subscriptions": MAX_SUBSCRIPTIONS },
            },
            "AUTH": { "users": [{ "nkey": keys.callout }] },
            "SYS": { "users": [{ "nkey": keys.kicker }] },
        },
        "system_account": "SYS",
        "authorization": {
            "auth_callout": {
                "issuer": keys.issuer,
                "account": "AUTH",
                // Whose logins the server decides itself.
                "auth_users": [keys.callout, keys.kicker, keys.observer],
                "xkey": keys.xkey,
            },
        },
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_knows_nobody_but_callout_kicker_and_the_tests_observer() {
        let keys = Keys {
            callout: "UC".to_owned(),
            kicker: "UK".to_owned(),
            observer: "UO".to_owned(),
            issuer: "AI".to_owned(),
            xkey: "XC".to_owned(),
        };
        let files = (Path::new("/crt"), Path::new("/key"));
        let text = configuration([10, 0, 0, 1].into(), files, &keys);
        let config: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let accounts: BTreeMap<String, serde_json::Value> =
            serde_json::from_value(config["accounts"].clone()).expect("accounts");
        let users: Vec<_> = accounts.values().map(|account| &account["users"][0]["nkey"]).collect();
        assert_eq!(users, ["UC", "UO", "UK"]);
        assert!(accounts.values().all(|account| account["users"].as_array().map(Vec::len) == Some(1)));
        assert!(!text.contains("allow_responses") && !text.contains("jetstream"));
    }
}
