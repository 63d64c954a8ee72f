//! The cluster side's service accounts: their manifests, and the tokens that a kubelet would project.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fleet_wire::enrollment::{RECORDS_NAMESPACE, TOKENS_NAMESPACE};
use serde_json::json;

use crate::binaries;
use crate::control_plane::API_PORT;
use crate::keys::FleetKeyFiles;
use crate::kubectl::Kubectl;
use crate::nats::Nats;
use crate::netns::Network;
use crate::pki::{Pki, write_private};

/// The fleet's own namespace in the cluster: components, their Leases, `fleet-info`.
pub const NAMESPACE: &str = "harmony-fleet";
/// What tokens for NATS are made out to.
const NATS_AUDIENCE: &str = "nats";
/// A demo stays up for days. In a cluster the kubelet replaces projected tokens each hour.
const TOKEN_DURATION: &str = "720h";
/// Everything that is applied before a component runs, in this order.
const MANIFESTS: [&str; 5] = [
    "vk-nats/rbac.yaml",
    "callout/rbac.yaml",
    "callout/enroller-rbac.yaml",
    "callout/admission-policies.yaml",
    "deploy/rbac.yaml",
];

/// Makes the fleet's namespaces.
///
/// # Errors
/// When the API server refuses.
pub async fn namespaces(kubectl: &Kubectl) -> Result<()> {
    let all = [NAMESPACE, RECORDS_NAMESPACE, TOKENS_NAMESPACE]
        .map(|name| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": all });
    kubectl.apply(&list.to_string()).await.map(drop)
}

/// Applies the accounts with their rights, the admission policies, and what the `fleet` command reads of its
/// fleet.
///
/// # Errors
/// When a manifest is missing or refused.
pub async fn install(kubectl: &Kubectl, nats: &Nats, keys: &FleetKeyFiles) -> Result<()> {
    let info = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "fleet-info", "namespace": NAMESPACE },
        "data": {
            "natsUrl": nats.url(),
            "natsCa": fs::read_to_string(nats.ca_file())?,
            "rootKey": keys.root_public()?,
            "keys": fs::read_to_string(keys.statement())?,
        },
    });
    let mut all = format!("{info}\n");
    for manifest in MANIFESTS {
        let path = binaries::repository()?.join(manifest);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        all.push_str("---\n");
        all.push_str(&text);
    }
    kubectl.apply(&all).await.map(drop)
}

/// A service account of the fleet's namespace, and the files with which a program acts as it.
#[derive(Debug)]
pub struct ServiceAccount {
    /// Its name.
    pub name: &'static str,
    pki: Pki,
    server: String,
    nats_token: PathBuf,
}

impl ServiceAccount {
    /// The account `name` in the fleet of `fleet`.
    ///
    /// # Errors
    /// When the fleet's folder cannot be used.
    pub fn open(fleet: &Path, network: &Network, name: &'static str) -> Result<Self> {
        Ok(Self {
            name,
            pki: Pki::open(fleet)?,
            server: format!("https://{}:{API_PORT}", network.cluster_address()),
            nats_token: fleet.join("pki").join(format!("{name}.nats-token")),
        })
    }

    /// Writes a kubeconfig with a token of this account, and gives its path.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn kubeconfig(&self, kubectl: &Kubectl) -> Result<PathBuf> {
        let token = self.token(kubectl, None, TOKEN_DURATION).await?;
        self.pki.token_kubeconfig(self.name, &self.server, "cluster-ca", &token)
    }

    /// Writes this account's credential for NATS, as its pod would find it in a ConfigMap, and the token that the
    /// pod would get beside it; gives the credential's path.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn nats_credential(&self, kubectl: &Kubectl, nats: &Nats) -> Result<PathBuf> {
        let token = self.token(kubectl, Some(NATS_AUDIENCE), TOKEN_DURATION).await?;
        write_private(&self.nats_token, &token)?;
        let credential = json!({
            "nats-url": nats.url(), "nats-ca-file": nats.ca_file(), "token": { "file": self.nats_token },
        });
        let file = self.nats_token.with_extension("toml");
        fs::write(&file, toml::to_string(&credential)?)?;
        Ok(file)
    }

    /// A token of this account for an audience; `None` is the API server.
    ///
    /// # Errors
    /// When the account does not exist.
    pub async fn token(&self, kubectl: &Kubectl, audience: Option<&str>, duration: &str) -> Result<String> {
        let audience = audience.map(|audience| format!(" --audience {audience}")).unwrap_or_default();
        let line =
            format!("create token {} --namespace {NAMESPACE} --duration {duration}{audience}", self.name);
        Ok(kubectl.run(&line).await?.trim().to_owned())
    }
}
