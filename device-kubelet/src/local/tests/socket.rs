//! Both ends of the socket.

#![allow(clippy::unwrap_used)]

use super::{client::ClientError, *};
use crate::pods::PodSummary;

struct Fixed;

impl Answers for Fixed {
    fn status(&self) -> AgentStatus {
        AgentStatus {
            name: "pi-7".into(),
            version: "0.1.0".into(),
            revoked: None,
            started: Timestamp::UNIX_EPOCH,
            pid: 1,
            nats: NatsStatus { url: "nats://x".into(), connected: false },
            session: SessionStatus { open: false, since: None, cluster_version: None, problem: None },
            desired: DesiredVersion::default(),
            pods: 0,
            runtime: None,
            conditions: Vec::new(),
        }
    }

    fn pods(&self) -> Vec<PodSummary> {
        Vec::new()
    }

    fn rotate_keys(&self) -> Result<String, String> {
        Err("NATS cannot be reached".into())
    }
}

async fn ask<T: serde::de::DeserializeOwned + Send + 'static>(
    dir: &Path,
    question: &'static str,
) -> Result<T, ClientError> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || client::ask(&dir, question)).await.unwrap()
}

#[tokio::test]
async fn questions_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = LocalServer::bind(dir.path()).await.unwrap();
    let mode = fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let server = tokio::spawn(async move { server.run(Arc::new(Fixed)).await });
    let status: AgentStatus = ask(dir.path(), "status").await.unwrap();
    assert_eq!(status, Fixed.status());
    assert!(table::status(&status, Timestamp::UNIX_EPOCH).contains("not reachable"));
    let pods: Vec<table::PodRow> = ask(dir.path(), "pods").await.unwrap();
    assert!(pods.is_empty());
    let error = ask::<serde_json::Value>(dir.path(), "rotate-keys").await.unwrap_err();
    assert!(error.to_string().contains("NATS cannot be reached"), "{error}");
    let error = ask::<AgentStatus>(dir.path(), "coffee").await.unwrap_err();
    assert!(error.to_string().contains("coffee"), "{error}");
    server.abort();
}

#[tokio::test]
async fn an_agent_that_does_not_run_is_said_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let error = ask::<AgentStatus>(dir.path(), "status").await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    // The socket of a crashed agent.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET)).unwrap());
    let error = ask::<AgentStatus>(dir.path(), "status").await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
    LocalServer::bind(dir.path()).await.unwrap();
    assert!(!dir.path().join(SOCKET).exists(), "an agent that ends removes its socket");
}

#[tokio::test]
async fn two_agents_cannot_share_a_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    let _first = LocalServer::bind(dir.path()).await.unwrap();
    assert!(matches!(LocalServer::bind(dir.path()).await, Err(LocalError::Taken { .. })));
}
