//! A real proxy in front of a plain HTTP server, which delays, drops and redirects as a test wants it.
//!
//! Before each request a test may also do something of its own: so a second writer comes exactly between two requests
//! of the first. One request for each connection; nothing is changed in what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, ….
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names of headers, in small letters, and their values.
    pub headers: Vec<(String, String)>,
    raw: Vec<u8>,
}

/// What to do with it.
#[derive(Debug, Clone)]
pub enum Act {
    /// Forwards it at once.
    Pass,
    /// Forwards it later.
    Delay(Duration),
    /// Closes the connection; the server never sees it.
    Drop,
    /// Forwards it, and closes the connection instead of answering.
    DropAnswer,
    /// Answers 307 with this location.
    Redirect(String),
}

/// Decides for each request.
pub type Decide = Arc<dyn Fn(Request) -> BoxFuture<'static, Act> + Send + Sync>;

/// The proxy; it ends with the value.
#[derive(Debug)]
pub struct Meddler {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Meddler {
    /// Listens on a free port of this machine, in front of `server` (`host:port`).
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(server: String, decide: Decide) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, decide) = (server.clone(), Arc::clone(&decide));
                tokio::spawn(async move {
                    // A client that gave up is no fault of the proxy.
                    if let Err(error) = exchange(client, &server, decide).await {
                        tracing::debug!("{error:#}");
                    }
                });
            }
        });
        Ok(Self { address, task })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn exchange(mut client: TcpStream, server: &str, decide: Decide) -> Result<()> {
    let request = read(&mut client).await?;
    let answer = match decide(request.clone()).await {
        Act::Pass => forward(&request, server).await?,
        Act::Delay(time) => {
            tokio::time::sleep(time).await;
            forward(&request, server).await?
        }
        Act::Drop => return Ok(()),
        Act::DropAnswer => {
            forward(&request, server).await?;
            return Ok(());
        }
        Act::Redirect(to) => {
            format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .into_bytes()
        }
    };
    client.write_all(&answer).await?;
    Ok(client.shutdown().await?)
}

async fn read(client: &mut TcpStream) -> Result<Request> {
    let mut raw = Vec::new();
    let end = loop {
        if let Some(at) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut raw).await? == 0 {
            bail!("the client closed");
        }
    };
    let head = String::from_utf8(raw[..end].to_vec())?;
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().context("no first line")?.split(' ');
    let (method, path) = (first.next().context("no method")?, first.next().context("no path")?);
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let (method, path) = (method.to_owned(), path.to_owned());
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(Ok(0), |(_, length)| length.parse())?;
    while raw.len() < end + length {
        if client.read_buf(&mut raw).await? == 0 {
            bail!("the client closed");
        }
    }
    // One request for each connection, so that each one is seen.
    let line_end = head.find("\r\n").context("no first line")?;
    let mut whole = raw[..line_end].to_vec();
    whole.extend_from_slice(b"\r\nConnection: close");
    whole.extend_from_slice(&raw[line_end..]);
    Ok(Request { method, path, headers, raw: whole })
}

async fn forward(request: &Request, server: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&request.raw).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}
