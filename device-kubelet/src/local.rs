//! What the device tells on itself, without any network: a socket that only its owner may use.
//!
//! A client writes one line, the agent answers with one JSON document and closes:
//!
//! ```text
//! → pods
//! ← [{"namespace":"default","name":"web-x7k2p",…}]
//! ```

pub mod client;
pub mod table;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fleet_wire::message::DesiredVersion;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::enroll::membership::Revocation;

/// The socket's name in the data folder.
pub const SOCKET: &str = "agent.sock";
/// Longest question, in bytes.
const LONGEST: u64 = 1024;
/// Clients at a time.
const CLIENTS: usize = 8;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why the socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It cannot be made.
    #[error("cannot listen on {path}")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another agent answers on it.
    #[error("another device-kubelet runs with the same data-dir: it answers on {path}")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
}

/// Answer to `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The device.
    pub name: String,
    /// Version of the agent.
    pub version: String,
    /// Why and since when it is out of the fleet, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
    /// Since when it runs.
    pub started: Timestamp,
    /// Process id.
    pub pid: u32,
    /// NATS.
    pub nats: NatsStatus,
    /// The session with the cluster side.
    pub session: SessionStatus,
    /// Newest desired state on this device.
    pub desired: DesiredVersion,
    /// How many pods it holds.
    pub pods: usize,
    /// Version of the container runtime.
    pub runtime: Option<String>,
    /// Conditions of the device.
    pub conditions: Vec<ConditionStatus>,
}

/// The connection to NATS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NatsStatus {
    /// Where it is.
    pub url: String,
    /// Whether it can be reached.
    pub connected: bool,
}

/// The session with the cluster side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// Whether it is open.
    pub open: bool,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Version of the cluster side.
    pub cluster_version: Option<String>,
    /// What went wrong last.
    pub problem: Option<String>,
}

/// A condition of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionStatus {
    /// Type.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why.
    pub message: String,
}

/// What the agent answers from.
pub trait Answers: Send + Sync + 'static {
    /// `status`
    fn status(&self) -> AgentStatus;
    /// `pods`
    fn pods(&self) -> Vec<crate::pods::PodSummary>;
    /// `rotate-keys`: what was begun, or why not.
    fn rotate_keys(&self) -> Result<String, String>;
}

/// A bound socket; removed when dropped.
#[derive(Debug)]
pub struct LocalServer {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalServer {
    /// Binds the socket. One that a crashed agent left is replaced, one that answers is not.
    pub async fn bind(data_dir: &Path) -> Result<Self, LocalError> {
        let path = data_dir.join(SOCKET);
        let listen = |source| LocalError::Listen { path: path.clone(), source };
        if UnixStream::connect(&path).await.is_ok() {
            return Err(LocalError::Taken { path });
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(listen)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(listen)?;
        Ok(Self { listener, path })
    }

    /// Answers for ever.
    pub async fn run(&self, answers: Arc<dyn Answers>) {
        let clients = Arc::new(Semaphore::new(CLIENTS));
        let own = rustix::process::geteuid().as_raw();
        loop {
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local client");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            };
            // Between bind and chmod the socket was open to others.
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
                _ => continue,
            }
            let answers = Arc::clone(&answers);
            // Ends within PATIENCE, and holds nothing that has to be drained.
            tokio::spawn(async move {
                let _permit = permit;
                match tokio::time::timeout(PATIENCE, serve(stream, &*answers)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a local client went away"),
                    Err(_) => tracing::debug!("a local client was too slow"),
                }
            });
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        // If it stays, the next start replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, answers: &dyn Answers) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut question = String::new();
    BufReader::new(read.take(LONGEST)).read_line(&mut question).await?;
    let answer = match question.trim() {
        "status" => serde_json::to_vec(&answers.status()),
        "pods" => serde_json::to_vec(&answers.pods()),
        "rotate-keys" => serde_json::to_vec(&match answers.rotate_keys() {
            Ok(begun) => serde_json::json!({ "begun": begun }),
            Err(error) => serde_json::json!({ "error": error }),
        }),
        other => serde_json::to_vec(&serde_json::json!({
            "error": format!("this agent does not know {other:?}: expected status, pods or rotate-keys")
        })),
    };
    write.write_all(&answer.map_err(io::Error::other)?).await?;
    write.write_all(b"\n").await?;
    write.shutdown().await
}

#[cfg(test)]
#[path = "local/tests/socket.rs"]
mod tests;
