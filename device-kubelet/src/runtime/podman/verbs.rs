//! The verbs that `podman-api` sends for us, and the only place that names it.
//!
//! Not all verbs are its: it writes the grace of a stop as `Timeout`, which Podman does not read (it takes its
//! default of 10 s); it misspells `no_new_privileges`; it cannot read a container's inspect of
//! Podman 5's own API, nor the list of reasons in the answer of a pod that failed to start; it does not know the pull
//! that tells its progress. Those are sent by [`super::libpod`] on the same socket. `podman_api::Error::clone()`
//! recurses for ever: never clone.

use std::{path::Path, time::Duration};

use podman_api::{ApiVersion, Error, Podman, opts::ContainerDeleteOpts};

use super::libpod::{Fault, chain};

/// Verbs without a body.
#[derive(Debug, Clone)]
pub(super) struct Verbs {
    podman: Podman,
}

impl Verbs {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            // The same version as `libpod::API`.
            podman: Podman::unix_versioned(socket, ApiVersion::new(4, Some(0), Some(0))),
        }
    }

    pub(super) async fn start_container(&self, id: &str, limit: Duration) -> Result<(), Fault> {
        within(limit, self.podman.containers().get(id).start(None)).await
    }

    pub(super) async fn kill_container(&self, id: &str, limit: Duration) -> Result<(), Fault> {
        within(limit, self.podman.containers().get(id).send_signal("KILL")).await
    }

    /// Kills at once, and removes with anonymous volumes.
    pub(super) async fn delete_container(&self, id: &str, limit: Duration) -> Result<(), Fault> {
        let opts = ContainerDeleteOpts::builder().force(true).volumes(true).timeout(0).build();
        within(limit, self.podman.containers().get(id).delete(&opts)).await
    }

    /// Removes a pod whose containers have ended; stops others with their own grace.
    pub(super) async fn delete_pod(&self, id: &str, limit: Duration) -> Result<(), Fault> {
        within(limit, self.podman.pods().get(id).remove()).await.map(|_| ())
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = podman_api::Result<T>>) -> Result<T, Fault> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(fault),
        Err(_) => Err(Fault::Unreachable(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn fault(error: Error) -> Fault {
    match error {
        Error::Fault { code, message } => Fault::Status {
            // podman-api stands on http 0.2.
            status: http::StatusCode::from_u16(code.as_u16())
                .unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR),
            message: without_repeated_cause(&message).to_owned(),
        },
        error @ (Error::Error(_) | Error::IO(_)) => Fault::Unreachable(chain(&error)),
        error => Fault::Malformed(chain(&error)),
    }
}

/// podman-api writes `message: cause`, and libpod's message ends with its cause already.
fn without_repeated_cause(message: &str) -> &str {
    let mut at = 0;
    while let Some(colon) = message[at..].find(": ") {
        let (head, cause) = (&message[..at + colon], &message[at + colon + 2..]);
        if !cause.is_empty() && head.ends_with(cause) {
            return head;
        }
        at += colon + 2;
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        assert_eq!(
            without_repeated_cause("runc: exec: \"x\": not found: cause: cause"),
            "runc: exec: \"x\": not found: cause"
        );
        assert_eq!(without_repeated_cause("a: b: a: b"), "a: b");
        assert_eq!(without_repeated_cause("message: other"), "message: other");
        assert_eq!(without_repeated_cause(""), "");
    }
}
