//! NATS' client protocol over TLS, without a library that would stop one from misusing it.

use std::fs::File;
use std::io::BufReader as FileReader;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf,
};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::nats::{Nats, PORT};

/// How long the server may take for an answer: an authorization has 2 s, on a busy machine more.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Message),
    /// `-ERR`.
    Error(String),
    /// It closed the connection.
    Closed,
}

/// A message of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// Where an answer is awaited.
    pub reply: Option<String>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// One connection, not logged in yet.
#[derive(Debug)]
pub struct RawClient {
    reader: BufReader<ReadHalf<TlsStream<TcpStream>>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    nonce: String,
}

/// The fields of a CONNECT that log in.
#[derive(Debug, Clone)]
pub struct Login(pub Value);

impl Login {
    /// An nkey, and its signature over the connection's nonce.
    ///
    /// # Errors
    /// When the key has no private half.
    pub fn key(key: &KeyPair, nonce: &str) -> Result<Self> {
        Ok(Self(json!({ "nkey": key.public_key(), "sig": sign(key, nonce)? })))
    }

    /// The same with a token beside it.
    ///
    /// # Errors
    /// When the key has no private half.
    pub fn key_and_token(key: &KeyPair, nonce: &str, token: &str) -> Result<Self> {
        Ok(Self(json!({ "nkey": key.public_key(), "sig": sign(key, nonce)?, "auth_token": token })))
    }

    /// The id of an enrollment token, or anything that is put in its place.
    #[must_use]
    pub fn enrollment(id: &str) -> Self {
        Self(json!({ "user": format!("enrollment:{id}"), "pass": "" }))
    }

    /// A key that asks to become a device's.
    ///
    /// # Errors
    /// When the key has no private half.
    pub fn applicant(key: &KeyPair, nonce: &str) -> Result<Self> {
        Ok(Self(json!({ "nkey": key.public_key(), "sig": sign(key, nonce)?, "user": "request" })))
    }
}

/// The signature that logs in with a key.
///
/// # Errors
/// When the key has no private half.
pub fn sign(key: &KeyPair, nonce: &str) -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes())?))
}

impl RawClient {
    /// Connects as far as TLS.
    ///
    /// # Errors
    /// When there is no server.
    pub async fn open(nats: &Nats) -> Result<Self> {
        let tcp = TcpStream::connect((nats.address(), PORT)).await.context("connecting to nats-server")?;
        tcp.set_nodelay(true)?;
        // The greeting comes before TLS, and not a byte after it.
        let mut greeting = BufReader::with_capacity(1, tcp);
        let mut line = String::new();
        greeting.read_line(&mut line).await?;
        let info = line.strip_prefix("INFO ").with_context(|| format!("no NATS server: {line}"))?;
        let info: Value = serde_json::from_str(info)?;
        let nonce = info["nonce"].as_str().context("the server sent no nonce")?.to_owned();

        let mut roots = RootCertStore::empty();
        let mut pem = FileReader::new(File::open(nats.ca_file())?);
        for certificate in rustls_pemfile::certs(&mut pem) {
            roots.add(certificate?)?;
        }
        fleet_daemon::install_crypto_provider();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::IpAddress(IpAddr::V4(nats.address()).into());
        let tls = TlsConnector::from(Arc::new(config)).connect(name, greeting.into_inner()).await?;
        let (reader, writer) = tokio::io::split(tls);
        Ok(Self { reader: BufReader::new(reader), writer, nonce })
    }

    /// Connects and logs in with a key, as a device does.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn as_device(nats: &Nats, key: &KeyPair) -> Result<Self> {
        let mut client = Self::open(nats).await?;
        let login = Login::key(key, &client.nonce)?;
        client.login(&login).await?.map_err(|refusal| anyhow::anyhow!("not let in: {refusal}"))?;
        Ok(client)
    }

    /// The nonce of this connection.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// Logs in; the inner error is what the server said against it.
    ///
    /// # Errors
    /// When the server says nothing at all.
    pub async fn login(&mut self, login: &Login) -> Result<Result<(), String>> {
        let mut connect = json!({
            "verbose": false, "pedantic": false, "tls_required": true, "lang": "raw", "version": "1",
            "protocol": 1, "headers": true, "no_responders": true, "name": "raw",
        });
        for (key, value) in login.0.as_object().into_iter().flatten() {
            connect[key] = value.clone();
        }
        let heard = self.exchange(format!("CONNECT {connect}\r\n").as_bytes()).await?;
        let errors: Vec<String> = heard.iter().filter_map(Heard::error).collect();
        if errors.is_empty() && !heard.contains(&Heard::Closed) {
            return Ok(Ok(()));
        }
        Ok(Err(if errors.is_empty() { "closed without a word".to_owned() } else { errors.join("; ") }))
    }

    /// Sends bytes as they are, and gives all that the server said until it had looked at them.
    ///
    /// # Errors
    /// When the server neither answers nor closes.
    pub async fn exchange(&mut self, bytes: &[u8]) -> Result<Vec<Heard>> {
        // A server that has had enough closes in the middle: what it said first is still to be read.
        let written = async {
            self.writer.write_all(bytes).await?;
            self.writer.write_all(b"PING\r\n").await?;
            self.writer.flush().await
        };
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        if timeout_at(deadline, written).await.context("the server does not take the bytes")?.is_err() {
            heard.push(Heard::Closed);
        }
        loop {
            let next = timeout_at(deadline, read(&mut self.reader, &mut self.writer)).await;
            match next.with_context(|| format!("no answer; heard so far: {heard:?}"))? {
                Ok(Said::Heard(Heard::Closed)) | Err(_) => {
                    heard.push(Heard::Closed);
                    return Ok(heard);
                }
                Ok(Said::Heard(one)) => heard.push(one),
                Ok(Said::Pong) => return Ok(heard),
                Ok(Said::Nothing) => {}
            }
        }
    }

    /// Waits for the next thing that the server says by itself; `None` after `within`.
    pub async fn hear(&mut self, within: Duration) -> Option<Heard> {
        let deadline = Instant::now() + within;
        loop {
            match timeout_at(deadline, read(&mut self.reader, &mut self.writer)).await {
                Ok(Ok(Said::Heard(heard))) => return Some(heard),
                Ok(Ok(Said::Pong | Said::Nothing)) => {}
                Ok(Err(_)) => return Some(Heard::Closed),
                Err(_) => return None,
            }
        }
    }

    /// Waits for a message on `subject`, whatever else arrives.
    ///
    /// # Errors
    /// When none came within `within`, or the connection ended.
    pub async fn message_on(&mut self, subject: &str, within: Duration) -> Result<Message> {
        let deadline = Instant::now() + within;
        loop {
            match self.hear(deadline.saturating_duration_since(Instant::now())).await {
                Some(Heard::Message(message)) if message.subject == subject => return Ok(message),
                Some(Heard::Message(_)) => {}
                Some(other) => bail!("waiting for a message on {subject}: {other:?}"),
                None => bail!("no message on {subject} within {} s", within.as_secs()),
            }
        }
    }

    /// Subscribes, and gives what the server said to that.
    ///
    /// # Errors
    /// When the server neither answers nor closes.
    pub async fn subscribe(&mut self, subject: &str, sid: u32) -> Result<Vec<Heard>> {
        self.exchange(format!("SUB {subject} {sid}\r\n").as_bytes()).await
    }

    /// Publishes, and gives what the server said to that.
    ///
    /// # Errors
    /// When the server neither answers nor closes.
    pub async fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) -> Result<Vec<Heard>> {
        self.exchange(&publication(subject, reply, payload)).await
    }

    /// Sends bytes and waits for nothing.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).await?;
        Ok(self.writer.flush().await?)
    }
}

/// A PUB with its payload.
#[must_use]
pub fn publication(subject: &str, reply: &str, payload: &[u8]) -> Vec<u8> {
    let space = if reply.is_empty() { "" } else { " " };
    let mut bytes = format!("PUB {subject}{space}{reply} {}\r\n", payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

impl Heard {
    /// The text of an error.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Error(text) => Some(text.clone()),
            _ => None,
        }
    }
}

enum Said {
    Heard(Heard),
    Pong,
    Nothing,
}

/// Cancellation loses at most a part of a line, and whoever gives up here gives up the connection's order.
async fn read(
    reader: &mut BufReader<ReadHalf<TlsStream<TcpStream>>>,
    writer: &mut WriteHalf<TlsStream<TcpStream>>,
) -> Result<Said> {
    let mut line = String::new();
    if reader.read_line(&mut line).await? == 0 {
        return Ok(Said::Heard(Heard::Closed));
    }
    let line = line.trim_end();
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let fields: Vec<&str> = rest.split(' ').collect();
    Ok(match word {
        "PONG" => Said::Pong,
        "PING" => {
            writer.write_all(b"PONG\r\n").await?;
            writer.flush().await?;
            Said::Nothing
        }
        "-ERR" => Said::Heard(Heard::Error(rest.trim_matches('\'').to_owned())),
        "MSG" | "HMSG" => {
            // MSG subject sid [reply] total; HMSG subject sid [reply] header total.
            let numbers = if word == "MSG" { 1 } else { 2 };
            let total: usize = fields.last().context("no length")?.parse()?;
            let header: usize = match numbers {
                1 => 0,
                _ => fields[fields.len() - 2].parse()?,
            };
            let mut bytes = vec![0; total + 2];
            reader.read_exact(&mut bytes).await?;
            bytes.truncate(total);
            let reply = (fields.len() == numbers + 3).then(|| fields[2].to_owned());
            let payload = bytes.split_off(header);
            Said::Heard(Heard::Message(Message { subject: fields[0].to_owned(), reply, payload }))
        }
        // INFO and +OK.
        _ => Said::Nothing,
    })
}
