//! The edge to the API server: typed reads and writes with errors that name the missing right.
//!
//! Decides nothing about devices or keys.

use std::{fmt::Debug, path::PathBuf, time::Duration};

use fleet_wire::enrollment::DEVICE_LABEL;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        certificates::v1::CertificateSigningRequest,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Node, Secret},
    },
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    config::{KubeConfigOptions, Kubeconfig},
    core::Status,
    runtime::wait::await_condition,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::error::FleetError;

/// Where the keys and `fleet-info` are by default.
pub const NAMESPACE: &str = "harmony-fleet";
/// Where the devices' records, and the tokens, are by default.
pub use fleet_wire::enrollment::{RECORDS_NAMESPACE, TOKENS_NAMESPACE};
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Objects asked for at once: what an API server answers without strain.
const PAGE: u32 = 500;

/// The fleet's namespaces.
#[derive(Debug, Clone, clap::Args)]
pub struct Namespaces {
    /// Namespace of the fleet: keys and fleet-info.
    #[arg(short, long, global = true, env = "FLEET_NAMESPACE", default_value = NAMESPACE, help_heading = "Cluster")]
    pub namespace: String,
    /// Namespace of the devices' records.
    #[arg(
        long,
        global = true,
        env = "FLEET_RECORDS_NAMESPACE",
        default_value = RECORDS_NAMESPACE,
        value_name = "NAMESPACE",
        help_heading = "Cluster"
    )]
    pub records_namespace: String,
    /// Namespace of the enrollment tokens.
    #[arg(
        long,
        global = true,
        env = "FLEET_TOKENS_NAMESPACE",
        default_value = TOKENS_NAMESPACE,
        value_name = "NAMESPACE",
        help_heading = "Cluster"
    )]
    pub tokens_namespace: String,
}

/// A cluster, with the fleet's namespaces in it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespaces: Namespaces,
}

impl Cluster {
    /// With a client that exists already.
    pub fn new(client: Client, namespaces: Namespaces) -> Self {
        Self { client, namespaces }
    }

    /// With the user's kubeconfig, as `kubectl` would.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub async fn connect(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
        namespaces: Namespaces,
    ) -> Result<Self, FleetError> {
        let refused = |error: &dyn std::error::Error| FleetError::Kubeconfig(error.to_string());
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = match kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|error| refused(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| refused(&error))?
            }
            None if options.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|error| refused(&error))?
            }
            None => Config::infer().await.map_err(|error| refused(&error))?,
        };
        let client = Client::try_from(config).map_err(|error| refused(&error))?;
        Ok(Self::new(client, namespaces))
    }

    /// Namespace of keys and `fleet-info`.
    pub fn namespace(&self) -> &str {
        &self.namespaces.namespace
    }

    /// Namespace of records.
    pub fn records_namespace(&self) -> &str {
        &self.namespaces.records_namespace
    }

    /// Namespace of tokens.
    pub fn tokens_namespace(&self) -> &str {
        &self.namespaces.tokens_namespace
    }

    /// The Nodes; all that are devices carry [`DEVICE_LABEL`].
    pub fn nodes(&self) -> Objects<Node> {
        Objects { api: Api::all(self.client.clone()), resource: "nodes", namespace: None }
    }

    /// Certificate requests.
    pub fn requests(&self) -> Objects<CertificateSigningRequest> {
        Objects {
            api: Api::all(self.client.clone()),
            resource: "certificatesigningrequests.certificates.k8s.io",
            namespace: None,
        }
    }

    /// The Nodes' signs of life.
    pub fn leases(&self) -> Objects<Lease> {
        self.namespaced("leases.coordination.k8s.io", LEASE_NAMESPACE)
    }

    /// The devices' records.
    pub fn records(&self) -> Objects<Secret> {
        self.namespaced("secrets", self.records_namespace())
    }

    /// Enrollment tokens.
    pub fn tokens(&self) -> Objects<Secret> {
        self.namespaced("secrets", self.tokens_namespace())
    }

    /// Keys.
    pub fn secrets(&self) -> Objects<Secret> {
        self.namespaced("secrets", self.namespace())
    }

    /// `fleet-info`.
    pub fn config_maps(&self) -> Objects<ConfigMap> {
        self.namespaced("configmaps", self.namespace())
    }

    fn namespaced<K>(&self, resource: &'static str, namespace: &str) -> Objects<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        let api = Api::namespaced(self.client.clone(), namespace);
        Objects { api, resource, namespace: Some(namespace.to_owned()) }
    }
}

/// Objects of one kind, in one place.
pub struct Objects<K> {
    api: Api<K>,
    resource: &'static str,
    namespace: Option<String>,
}

/// Only what devices carry.
pub fn of_devices() -> ListParams {
    ListParams::default().labels(&format!("{DEVICE_LABEL}=true"))
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + 'static,
{
    /// One by name.
    ///
    /// # Errors
    /// When the API server does not answer, or refuses.
    pub async fn find(&self, name: &str) -> Result<Option<K>, FleetError> {
        self.api.get_opt(name).await.map_err(|error| self.failed("get", error))
    }

    /// All that fit, page by page.
    ///
    /// # Errors
    /// As [`Objects::find`].
    pub async fn list(&self, params: &ListParams) -> Result<Vec<K>, FleetError> {
        let mut params = params.clone().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = self.api.list(&params).await.map_err(|error| self.failed("list", error))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    /// Makes one that is not there.
    ///
    /// # Errors
    /// As [`Objects::find`]; [`FleetError::Refused`] when there is one of that name.
    pub async fn create(&self, object: &K) -> Result<K, FleetError> {
        self.api.create(&PostParams::default(), object).await.map_err(|error| self.failed("create", error))
    }

    /// Asks whether it would be accepted.
    ///
    /// # Errors
    /// As [`Objects::create`].
    pub async fn would_create(&self, object: &K) -> Result<(), FleetError> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        self.api.create(&params, object).await.map(drop).map_err(|error| self.failed("create", error))
    }

    /// Replaces one; its `resourceVersion` guards against others who write.
    ///
    /// # Errors
    /// As [`Objects::find`]; [`FleetError::Refused`] when it changed meanwhile.
    pub async fn replace(&self, name: &str, object: &K) -> Result<K, FleetError> {
        self.api
            .replace(name, &PostParams::default(), object)
            .await
            .map_err(|error| self.failed("update", error))
    }

    /// Sets one annotation.
    ///
    /// # Errors
    /// As [`Objects::find`].
    pub async fn annotate(&self, name: &str, key: &str, value: &str) -> Result<K, FleetError> {
        let patch = serde_json::json!({ "metadata": { "annotations": { key: value } } });
        self.api
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map_err(|error| self.failed("patch", error))
    }

    /// Deletes the one with this UID, not a successor of the same name.
    ///
    /// # Errors
    /// As [`Objects::find`].
    pub async fn delete(&self, name: &str, uid: Option<String>) -> Result<(), FleetError> {
        let preconditions = Preconditions { uid, resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        self.api.delete(name, &params).await.map(drop).map_err(|error| self.failed("delete", error))
    }

    /// Waits until an object is as it should be, and returns it. `what` is for people.
    ///
    /// # Errors
    /// [`FleetError::Timeout`], or as [`Objects::find`].
    pub async fn wait(
        &self,
        name: &str,
        what: String,
        next: String,
        timeout: Duration,
        condition: impl Fn(Option<&K>) -> bool,
    ) -> Result<Option<K>, FleetError> {
        let waited = await_condition(self.api.clone(), name, |object: Option<&K>| condition(object));
        match tokio::time::timeout(timeout, waited).await {
            Err(_) => Err(FleetError::Timeout { what, seconds: timeout.as_secs(), next }),
            Ok(Ok(object)) => Ok(object),
            Ok(Err(error)) => {
                use kube::runtime::{wait, watcher};
                let wait::Error::ProbeFailed(error) = error;
                Err(match error {
                    watcher::Error::InitialListFailed(source)
                    | watcher::Error::WatchStartFailed(source)
                    | watcher::Error::WatchFailed(source) => self.failed("watch", source),
                    watcher::Error::WatchError(status) => self.failed("watch", kube::Error::Api(status)),
                    watcher::Error::NoResourceVersion => {
                        self.answered("watch", "it has no version".to_owned())
                    }
                })
            }
        }
    }

    fn place(&self) -> String {
        self.namespace.as_ref().map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default()
    }

    fn answered(&self, verb: &'static str, message: String) -> FleetError {
        FleetError::Api { verb, resource: self.resource, place: self.place(), message }
    }

    fn failed(&self, verb: &'static str, error: kube::Error) -> FleetError {
        match error {
            kube::Error::Api(status) => self.refused(verb, &status),
            source => FleetError::Unreachable { verb, resource: self.resource, source: Box::new(source) },
        }
    }

    fn refused(&self, verb: &'static str, status: &Status) -> FleetError {
        let message = status.message.clone();
        match status.code {
            403 if message.contains("not permitted to approve") => FleetError::Forbidden {
                verb: "approve",
                resource: "signers.certificates.k8s.io",
                place: " (fleet.harmony.io/device)".to_owned(),
                message,
            },
            403 if message.contains("\" cannot ") => {
                FleetError::Forbidden { verb, resource: self.resource, place: self.place(), message }
            }
            // Admission: a policy, or a namespace that goes away. No role would help.
            403 | 422 => FleetError::refused(
                format!("the API server refused to {verb} {}{}: {message}", self.resource, self.place()),
                "it is no matter of roles: the message says what stands against it",
            ),
            404 => {
                let next = match &self.namespace {
                    Some(namespace) => format!("is there a namespace {namespace}? `kubectl get namespaces`"),
                    None => "look again: somebody else may have deleted it".to_owned(),
                };
                FleetError::not_found(message, next)
            }
            409 => FleetError::refused(message, "somebody else was faster: look again, then repeat"),
            _ => self.answered(verb, message),
        }
    }
}

impl Objects<CertificateSigningRequest> {
    /// Writes the decision on a request. `patch` has the `resourceVersion` that was looked at.
    ///
    /// # Errors
    /// As [`Objects::find`].
    pub async fn decide(&self, name: &str, patch: &serde_json::Value) -> Result<(), FleetError> {
        let on_approval = Objects {
            api: self.api.clone(),
            resource: "certificatesigningrequests/approval",
            namespace: None,
        };
        self.api
            .patch_approval(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .map(drop)
            .map_err(|error| on_approval.failed("patch", error))
    }
}
