//! The way to the API server, the same for every process that runs there.
//!
//! The `fleet` command has its own: it is a person's, who has a context and waits for each answer.

use std::{path::Path, time::Duration};

use kube::config::{KubeConfigOptions, Kubeconfig};

/// How long a connection may take to come about. An API server that was away is looked for every few seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// There is no in-cluster configuration.
    #[error("there is no in-cluster configuration; set `kubeconfig` when this runs outside a cluster")]
    InCluster(#[source] kube::config::InClusterError),
    /// The Kubernetes client cannot be made.
    #[error("the Kubernetes client cannot be set up")]
    Client(#[source] kube::Error),
}

/// A client with the account of a kubeconfig, or of the pod that this runs in.
///
/// It asks once: who asks paces what is tried again. rustls' provider has to be installed before
/// ([`fleet_daemon::install_crypto_provider`]).
///
/// # Errors
/// [`ClientError`]; whether the API server answers is not looked at.
pub async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, ClientError> {
    kube::Client::try_from(config(kubeconfig).await?).map_err(ClientError::Client)
}

async fn config(kubeconfig: Option<&Path>) -> Result<kube::Config, ClientError> {
    let mut config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file).map_err(ClientError::Kubeconfig)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(ClientError::Kubeconfig)?
        }
        None => kube::Config::incluster().map_err(ClientError::InCluster)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Watches and level-triggered work have their own pace, `Retry-After` concerns all that one process asks, and a
    // review has no time for a second try.
    config.default_retry = false;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    const KUBECONFIG: &str = "
        apiVersion: v1
        kind: Config
        current-context: here
        contexts: [{name: here, context: {cluster: near, user: me, namespace: mine}}]
        clusters: [{name: near, cluster: {server: 'https://192.0.2.1:6443'}}]
        users: [{name: me, user: {token: not-a-token}}]
    ";

    #[tokio::test]
    async fn a_kubeconfig_says_where_and_as_whom_and_nothing_is_asked_twice() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        std::fs::write(&file, KUBECONFIG).unwrap();
        let config = config(Some(&file)).await.unwrap();
        assert_eq!(config.cluster_url.host(), Some("192.0.2.1"));
        assert_eq!(config.connect_timeout, Some(CONNECT_TIMEOUT));
        assert!(!config.default_retry);
        fleet_daemon::install_crypto_provider();
        assert_eq!(client(Some(&file)).await.unwrap().default_namespace(), "mine");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_missing_is_named() {
        let error = client(Some(Path::new("/nowhere/kubeconfig"))).await.err().unwrap();
        assert_eq!(error.to_string(), "the kubeconfig cannot be used");
        assert!(error.source().unwrap().to_string().contains("/nowhere/kubeconfig"), "{error:?}");
    }
}
