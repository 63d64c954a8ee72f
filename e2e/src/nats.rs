//! The nats-server, with TLS and a list of nkey users.
//!
//! Until the auth callout decides who may connect, the users stand in the server's
//! configuration: it is written anew and reloaded when one is added or removed.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet_wire::permissions::Permissions;
use nkeys::KeyPair;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::binaries::Tools;
use crate::netns::Network;
use crate::pki::{Pki, write_private};
use crate::process::{Process, Spec, read_json, write_json};
use crate::wait::Look;

/// The client port; the only one that devices can reach.
pub const PORT: u16 = 4222;

/// Public nkey (`U…`) and what its holder may do.
type Users = BTreeMap<String, Permissions>;

/// The server and its users.
#[derive(Debug)]
pub struct Nats {
    /// The server's process.
    pub server: Process,
    folder: PathBuf,
    pki: Pki,
    address: Ipv4Addr,
}

/// The user of scenarios that look at everything: may publish and subscribe all.
#[derive(Debug, Serialize, Deserialize)]
struct Observer {
    seed: String,
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
        Ok(Self { server, folder, pki: Pki::open(fleet)?, address: network.cluster_address() })
    }

    /// Makes keys where there are none, writes the configuration, starts the server
    /// and waits until it greets.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub async fn start(&self) -> Result<()> {
        if !self.pki.cert("nats").exists() {
            self.pki.authority("nats-ca")?;
            self.pki.server("nats-ca", "nats", &["nats"], &[self.address])?;
            let observer = KeyPair::new_user();
            write_json(&self.folder.join("observer.json"), &Observer { seed: observer.seed()? })?;
            let everything = vec![">".to_owned()];
            let all =
                Permissions { publish: everything.clone(), subscribe: everything, ..Permissions::default() };
            self.write_users(&Users::from([(observer.public_key(), all)]))?;
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

    /// The certificate authority that clients pin.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.pki.cert("nats-ca")
    }

    /// Adds users, or changes what they may do, and reloads the server.
    ///
    /// # Errors
    /// When the server does not take the new configuration.
    pub async fn allow(&self, users: impl IntoIterator<Item = (String, Permissions)>) -> Result<()> {
        let mut all = self.users()?;
        all.extend(users);
        self.write_users(&all)?;
        self.reload().await
    }

    /// Removes a user; the server ends its connections.
    ///
    /// # Errors
    /// When the server does not take the new configuration.
    pub async fn deny(&self, public_key: &str) -> Result<()> {
        let mut all = self.users()?;
        all.remove(public_key);
        self.write_users(&all)?;
        self.reload().await
    }

    /// Connects as a user with this seed (`SU…`).
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self, seed: &str) -> Result<async_nats::Client> {
        async_nats::ConnectOptions::with_nkey(seed.to_owned())
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
        let Observer { seed } = read_json(&self.folder.join("observer.json"))?;
        self.connect(&seed).await
    }

    async fn reload(&self) -> Result<()> {
        if !self.server.is_running() {
            return Ok(());
        }
        let reloads = || self.server.log_text().matches("Reloaded server configuration").count();
        let before = reloads();
        self.server.signal(Signal::HUP);
        self.server
            .ready(Duration::from_secs(10), async || {
                Ok(if reloads() > before { Look::Done(()) } else { Look::not_yet("no line about a reload") })
            })
            .await
    }

    fn users(&self) -> Result<Users> {
        read_json(&self.folder.join("users.json"))
    }

    fn write_users(&self, users: &Users) -> Result<()> {
        write_json(&self.folder.join("users.json"), users)?;
        let tls = (self.pki.cert("nats"), self.pki.key("nats"));
        let text = configuration(self.address, (&tls.0, &tls.1), users);
        write_private(&self.folder.join("nats.conf"), &text)
    }
}

/// The server's configuration: its own syntax takes JSON values.
fn configuration(address: Ipv4Addr, (cert, key): (&Path, &Path), users: &Users) -> String {
    let users: Vec<_> = users
        .iter()
        .map(|(nkey, permissions)| {
            serde_json::json!({
                "nkey": nkey,
                "permissions": {
                    "publish": { "allow": permissions.publish },
                    "subscribe": { "allow": permissions.subscribe },
                },
            })
        })
        .collect();
    let config = serde_json::json!({
        "listen": format!("{address}:{PORT}"),
        // Only for looking at: connections, subscriptions, permissions.
        "http": "127.0.0.1:8222",
        "max_payload": 1024 * 1024,
        "max_pending": 64 * 1024 * 1024,
        "ping_interval": "10s",
        "tls": { "cert_file": cert, "key_file": key, "timeout": 5 },
        "accounts": { "FLEET": { "users": users } },
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_gets_its_own_permissions_and_no_other() {
        let only = |subject: &str| Permissions {
            publish: vec![subject.to_owned()],
            subscribe: vec![format!("{subject}.in")],
            ..Permissions::default()
        };
        let users = Users::from([("UA".to_owned(), only("a")), ("UB".to_owned(), only("b"))]);
        let files = (Path::new("/crt"), Path::new("/key"));
        let text = configuration([10, 0, 0, 1].into(), files, &users);
        let config: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let users = &config["accounts"]["FLEET"]["users"];
        assert_eq!(users[0]["nkey"], "UA");
        assert_eq!(users[0]["permissions"]["publish"]["allow"], serde_json::json!(["a"]));
        assert_eq!(users[1]["permissions"]["subscribe"]["allow"], serde_json::json!(["b.in"]));
        assert!(!text.contains("allow_responses"));
    }
}
