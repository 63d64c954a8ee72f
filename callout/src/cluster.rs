//! The way to the API server, the same for both binaries.

use std::{path::Path, time::Duration};

use kube::config::{KubeConfigOptions, Kubeconfig};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
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
/// # Errors
/// [`ClusterError`]; whether the API server answers is not looked at.
pub async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, ClusterError> {
    let mut config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file).map_err(ClusterError::Kubeconfig)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(ClusterError::Kubeconfig)?
        }
        None => kube::Config::incluster().map_err(ClusterError::InCluster)?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    // Watches and level-triggered work have their own pace, and a review has no time for a second try.
    config.default_retry = false;
    kube::Client::try_from(config).map_err(ClusterError::Client)
}
