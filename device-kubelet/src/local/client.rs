//! The other end of the socket: what `device-kubelet status` and `device-kubelet pods` use. Blocking,
//! because a command line has nothing else to do.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::SOCKET;

const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No agent listens.
    #[error(
        "device-kubelet does not run with the data-dir {data_dir}: start it (`systemctl start device-kubelet`), \
         or name the data-dir that it uses with --data-dir"
    )]
    NotRunning {
        /// Where it was looked for.
        data_dir: PathBuf,
    },
    /// The socket is another user's.
    #[error("no permission to use {path}: run this as the user that runs device-kubelet, e.g. with sudo")]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The conversation broke.
    #[error("device-kubelet did not answer on {path}")]
    Conversation {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The answer is not one.
    #[error("device-kubelet's answer cannot be read: is it of another version?")]
    Answer(#[source] serde_json::Error),
    /// The agent does not know the question.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent that uses `data_dir`.
pub fn ask<T: DeserializeOwned>(data_dir: &Path, question: &str) -> Result<T, ClientError> {
    let path = data_dir.join(SOCKET);
    let mut stream = UnixStream::connect(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { data_dir: data_dir.to_owned() }
        }
        io::ErrorKind::PermissionDenied => ClientError::Permission { path: path.clone() },
        _ => ClientError::Conversation { path: path.clone(), source },
    })?;
    let answer = converse(&mut stream, question)
        .map_err(|source| ClientError::Conversation { path: path.clone(), source })?;
    if answer.is_empty() {
        // The agent hangs up on users that are not its own.
        return Err(ClientError::Permission { path });
    }
    let value: Value = serde_json::from_slice(&answer).map_err(ClientError::Answer)?;
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        return Err(ClientError::Refused(error.to_owned()));
    }
    serde_json::from_value(value).map_err(ClientError::Answer)
}

fn converse(stream: &mut UnixStream, question: &str) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{question}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.take(LARGEST).read_to_end(&mut answer)?;
    Ok(answer)
}
