//! Follows one object each: by a watch while there are few, by jittered reads beyond the cap.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fleet_wire::{
    message::{BundleConfigMap, BundleSecret},
    name::DeviceName,
};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    runtime::{watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
};

use super::{
    count::{Action, RefKey, RefState, Resolved},
    which::Kind,
};
use crate::{
    identity::{ApiError, Call, Lane, NodeClient},
    metrics::Metrics,
};

/// Most watches at a time. kube's client speaks HTTP/1.1, so each is a connection.
const MAX_WATCHES: usize = 256;
/// How often an object is read that is not watched; ± a half.
const READ_EVERY: Duration = Duration::from_secs(60);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How many refusals in a row are put down to the authorizer's graph, which learns of a binding a little
/// later than the watch of pods does.
const PATIENCE: u32 = 5;

/// What a reader found.
#[derive(Debug)]
pub struct Arrival {
    /// The object.
    pub key: RefKey,
    /// Which opening of it.
    pub generation: u64,
    /// What is known now.
    pub state: RefState,
}

/// Runs the readers. Dropping it ends them all.
#[derive(Debug)]
pub struct Follower {
    client: NodeClient,
    arrivals: mpsc::UnboundedSender<Arrival>,
    watches: Arc<Semaphore>,
    readers: HashMap<RefKey, AbortHandle>,
    tasks: JoinSet<()>,
    metrics: Arc<Metrics>,
}

impl Follower {
    /// Readers send what they find to `arrivals`.
    pub fn new(client: NodeClient, arrivals: mpsc::UnboundedSender<Arrival>, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            arrivals,
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            readers: HashMap::new(),
            tasks: JoinSet::new(),
            metrics,
        }
    }

    /// Opens or closes a reader.
    pub fn act(&mut self, action: Action) {
        // Readers that were closed are to be forgotten.
        while self.tasks.try_join_next().is_some() {}
        match action {
            Action::Close { key } => self.close(&key),
            Action::Open { key, device, generation } => {
                self.close(&key);
                let reader = Reader {
                    client: self.client.clone(),
                    arrivals: self.arrivals.clone(),
                    key: key.clone(),
                    device,
                    generation,
                    refused: 0,
                    retry: FIRST_RETRY,
                };
                let handle = match Arc::clone(&self.watches).try_acquire_owned() {
                    Ok(place) => {
                        let counted = Counted::new(self.metrics.reference_watches.clone(), Some(place));
                        self.tasks.spawn(reader.watch(counted))
                    }
                    Err(_) => {
                        let counted = Counted::new(self.metrics.reference_reads.clone(), None);
                        self.tasks.spawn(reader.read_now_and_then(counted))
                    }
                };
                self.readers.insert(key, handle);
            }
        }
    }

    fn close(&mut self, key: &RefKey) {
        if let Some(reader) = self.readers.remove(key) {
            reader.abort();
        }
    }
}

/// A figure that is one higher as long as this lives.
struct Counted {
    gauge: prometheus_client::metrics::gauge::Gauge,
    _place: Option<OwnedSemaphorePermit>,
}

impl Counted {
    fn new(gauge: prometheus_client::metrics::gauge::Gauge, place: Option<OwnedSemaphorePermit>) -> Self {
        gauge.inc();
        Self { gauge, _place: place }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

struct Reader {
    client: NodeClient,
    arrivals: mpsc::UnboundedSender<Arrival>,
    key: RefKey,
    device: DeviceName,
    generation: u64,
    refused: u32,
    retry: Duration,
}

impl Reader {
    async fn watch(self, _counted: Counted) {
        match self.key.kind {
            Kind::ConfigMap => self.watch_kind(config_map).await,
            Kind::Secret => self.watch_kind(secret).await,
        }
    }

    async fn watch_kind<K>(mut self, content: fn(K) -> Resolved)
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<K> = Api::namespaced(self.client.impersonating(&self.device), &self.key.namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.key.name));
        let mut stream = std::pin::pin!(watcher(api, config));
        let mut listed = None;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    self.refused = 0;
                    self.retry = FIRST_RETRY;
                    match event {
                        Event::Init => listed = None,
                        Event::InitApply(object) => listed = Some(object),
                        Event::InitDone => {
                            let state = listed
                                .take()
                                .map_or_else(|| self.absent(), |object| present(content(object)));
                            self.tell(state);
                        }
                        Event::Apply(object) => self.tell(present(content(object))),
                        Event::Delete(_) => self.tell(self.absent()),
                    }
                }
                Err(error) => {
                    let refusal = refusal(&error);
                    self.failed(refusal, &error.to_string()).await;
                }
            }
        }
    }

    async fn read_now_and_then(mut self, _counted: Counted) {
        loop {
            let result = match self.key.kind {
                Kind::ConfigMap => self.read(config_map).await,
                Kind::Secret => self.read(secret).await,
            };
            match result {
                Ok(state) => {
                    self.refused = 0;
                    self.retry = FIRST_RETRY;
                    self.tell(state);
                    tokio::time::sleep(READ_EVERY.mul_f64(rand::random_range(0.5..1.5))).await;
                }
                Err(error) => {
                    let message = error.to_string();
                    let refusal = matches!(error, ApiError::Forbidden { .. }).then(|| message.clone());
                    self.failed(refusal, &message).await;
                }
            }
        }
    }

    async fn read<K: DeserializeOwned>(&self, content: fn(K) -> Resolved) -> Result<RefState, ApiError> {
        let RefKey { kind, namespace, name } = &self.key;
        let (operation, plural) = match kind {
            Kind::ConfigMap => ("get configmaps", "configmaps"),
            Kind::Secret => ("get secrets", "secrets"),
        };
        let path = format!("/api/v1/namespaces/{namespace}/{plural}/{name}");
        match self.client.read::<K>(&self.device, Call::get(operation, Lane::Pod, path)).await {
            Ok(object) => Ok(present(content(object))),
            Err(ApiError::Gone { .. }) => Ok(self.absent()),
            Err(error) => Err(error),
        }
    }

    /// A refusal that does not pass counts as a missing object; everything else is tried again.
    async fn failed(&mut self, refusal: Option<String>, message: &str) {
        match refusal {
            Some(refusal) => {
                self.refused += 1;
                if self.refused >= PATIENCE {
                    self.tell(RefState::Missing(refusal));
                }
            }
            None => tracing::debug!(key = ?self.key, message, "a reference cannot be read now"),
        }
        tokio::time::sleep(self.retry.mul_f64(rand::random_range(0.8..1.2))).await;
        self.retry = (self.retry * 2).min(LAST_RETRY);
    }

    fn absent(&self) -> RefState {
        let kind = match self.key.kind {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        };
        RefState::Missing(format!("{kind} \"{}\" not found", self.key.name))
    }

    fn tell(&self, state: RefState) {
        // The receiver ends with the process.
        let _ = self.arrivals.send(Arrival { key: self.key.clone(), generation: self.generation, state });
    }
}

fn present(content: Resolved) -> RefState {
    RefState::Present(Arc::new(content))
}

fn refusal(error: &watcher::Error) -> Option<String> {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status,
        watcher::Error::WatchError(status) => status,
        _ => return None,
    };
    status.is_forbidden().then(|| status.message.clone())
}

fn config_map(object: ConfigMap) -> Resolved {
    Resolved::ConfigMap(BundleConfigMap {
        data: object.data.unwrap_or_default(),
        binary_data: object.binary_data.unwrap_or_default(),
    })
}

fn secret(object: Secret) -> Resolved {
    Resolved::Secret(BundleSecret {
        type_: object.type_.unwrap_or_default(),
        data: object.data.unwrap_or_default(),
    })
}
