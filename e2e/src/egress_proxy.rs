//! An HTTP CONNECT proxy with the rules of k3s' tunnel.
//!
//! k3s sends what its API server says to nodes through a proxy that takes every address listed as
//! `InternalIP` or `ExternalIP` of a Node for the address of an agent with a tunnel. Devices have no such
//! agent, so a connection to one of those addresses never arrives; all others are dialled as they are.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct EgressProxy {
    accept: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

/// What went through the proxy, and what it refused: `host:port`.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Dialled.
    pub passed: BTreeSet<String>,
    /// Addresses of Nodes.
    pub refused: BTreeSet<String>,
}

impl EgressProxy {
    /// Listens on a unix socket; `client` lists the Nodes at each connection.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, client: kube::Client) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, seen) = (client.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Err(error) = tunnel(stream, client, &seen).await {
                        tracing::debug!("egress proxy: {error:#}");
                    }
                });
            }
        });
        Ok(Self { accept, seen })
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for EgressProxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn tunnel(stream: UnixStream, client: kube::Client, seen: &Mutex<Seen>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let target = request
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("not a CONNECT: {request:?}"))?
        .to_owned();
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let host = target.rsplit_once(':').map_or(target.as_str(), |(host, _)| host);
    let refuse = tunnelled(client).await?.contains(host);
    {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if refuse {
            seen.refused.insert(target.clone())
        } else {
            seen.passed.insert(target.clone())
        };
    }
    if refuse {
        stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\nno tunnel to this node\n").await?;
        return Ok(());
    }
    let mut upstream = TcpStream::connect(&target).await?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut stream, &mut upstream).await?;
    Ok(())
}

/// The addresses that k3s would send into a tunnel.
async fn tunnelled(client: kube::Client) -> Result<BTreeSet<String>> {
    let nodes = Api::<Node>::all(client).list(&ListParams::default()).await?;
    Ok(nodes
        .into_iter()
        .filter_map(|node| node.status?.addresses)
        .flatten()
        .filter(|address| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .map(|address| address.address)
        .collect())
}
