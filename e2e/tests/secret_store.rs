//! Settings in a secret store: OpenBao where it is installed, else the Vault that it forked from. Which of them ran
//! stands in the output.
//!
//! Each test has a server of its own, and real failures: the process is killed, its storage is swapped, a proxy in
//! front of it delays, drops and redirects.

#![allow(clippy::unwrap_used)]

#[path = "secret_store/example.rs"]
mod example;
#[path = "secret_store/faults.rs"]
mod faults;
#[path = "secret_store/keeping.rs"]
mod keeping;
#[path = "secret_store/logins.rs"]
mod logins;
#[path = "secret_store/writers.rs"]
mod writers;

use std::ops::Deref;
use std::sync::Arc;

use anyhow::Result;
use e2e::binaries::Tools;
use e2e::http_meddler::{Act, Meddler, Request};
use e2e::secret_store::{KV_MOUNT, SecretStore};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use harmony_config::openbao::{OpenBao, OpenBaoSettings, Secret};
use harmony_config::{Document, StorePath};
use serde_json::{Value, json};

/// What a service may do, as the book says it (docs/src/configuration/openbao.md).
const POLICY: &str = r#"
path "kv/data/harmony/*"     { capabilities = ["create", "read", "update", "delete"] }
path "kv/metadata/harmony/*" { capabilities = ["create", "read", "update", "patch", "delete", "list"] }
"#;
/// Requests above it are refused by the server.
const MAX_REQUEST: u64 = 1024 * 1024;

/// A store of its own for one test; its process ends with it.
struct Running {
    store: SecretStore,
    folder: tempfile::TempDir,
}

impl Deref for Running {
    type Target = SecretStore;

    fn deref(&self) -> &SecretStore {
        &self.store
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.store.kill();
    }
}

impl Running {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = SecretStore::new(folder.path(), &Tools::locate().await?, MAX_REQUEST).await?;
        let running = Self { store, folder };
        running.store.start().await?;
        running.policy("harmony", POLICY).await?;
        Ok(running)
    }

    /// With the operator's token.
    fn settings(&self) -> Result<OpenBaoSettings> {
        Ok(OpenBaoSettings { token: Some(Secret::new(self.root_token()?)), ..self.without_login() })
    }

    fn without_login(&self) -> OpenBaoSettings {
        OpenBaoSettings {
            url: Some(self.url()),
            kv_mount: Some(KV_MOUNT.into()),
            ..OpenBaoSettings::default()
        }
    }

    fn client(&self) -> Result<OpenBao> {
        Ok(OpenBao::new(&self.settings()?)?)
    }

    /// A proxy that decides for each request.
    async fn behind<F>(&self, decide: F) -> Result<Meddler>
    where
        F: Fn(Request) -> BoxFuture<'static, Act> + Send + Sync + 'static,
    {
        Meddler::start(self.address(), Arc::new(decide)).await
    }

    /// A client behind it, with the operator's token.
    fn client_behind(&self, proxy: &Meddler) -> Result<OpenBao> {
        Ok(OpenBao::new(&OpenBaoSettings { url: Some(proxy.url()), ..self.settings()? })?)
    }
}

fn always(act: Act) -> BoxFuture<'static, Act> {
    async move { act }.boxed()
}

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

fn values(value: Value) -> Document {
    value.as_object().unwrap().clone()
}

fn vlan(id: u64) -> Document {
    values(json!({ "id": id, "name": "cameras" }))
}
