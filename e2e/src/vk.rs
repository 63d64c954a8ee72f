//! `vk-nats` in the cluster's namespace, with the account that it has in a cluster.

use std::path::Path;

use anyhow::Result;

use crate::accounts::{NAMESPACE, ServiceAccount};
use crate::keys::FleetKeyFiles;
use crate::kubectl::Kubectl;
use crate::nats::Nats;
use crate::netns::Network;
use crate::pki::Pki;
use crate::service::Service;

/// The service account of `vk-nats` in its manifests.
pub const SERVICE_ACCOUNT: &str = "vk-nats";
const HEALTH_PORT: u16 = 8090;

/// Describes replica `replica` of the fleet in `fleet`; starts nothing.
///
/// # Errors
/// When the program is not built.
pub fn service(fleet: &Path, network: &Network, replica: u8) -> Result<Service> {
    Service::new(fleet, network, ("vk-nats", replica), network.vk_address(replica), HEALTH_PORT)
}

/// Makes its tokens and its settings; settings in `extra` win. Its serving certificate it gets from the cluster.
///
/// # Errors
/// When a server refuses or a file cannot be written.
pub async fn configure(
    vk: &Service,
    fleet: &Path,
    network: &Network,
    (kubectl, nats, keys): (&Kubectl, &Nats, &FleetKeyFiles),
    extra: &toml::Table,
) -> Result<()> {
    let account = ServiceAccount::open(fleet, network, SERVICE_ACCOUNT)?;
    let (kubeconfig, credential) =
        tokio::try_join!(account.kubeconfig(kubectl), account.nats_credential(kubectl, nats))?;
    let pki = Pki::open(fleet)?;

    let mut settings = toml::Table::new();
    let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value.into());
    set("kubeconfig", kubeconfig.display().to_string());
    set("namespace", NAMESPACE.to_owned());
    set("identity", vk.name.clone());
    set("nats-credential-file", credential.display().to_string());
    set("fleet-keys-file", keys.statement().display().to_string());
    set("node-address", vk.address.to_string());
    set("listen-address", vk.address.to_string());
    set("client-ca-file", pki.cert("cluster-ca").display().to_string());
    set("log-level", "info,vk_nats=debug,fleet_daemon=debug".to_owned());
    settings.insert("fleet-key-files".into(), keys.curve_seeds()?.into());
    settings.extend(extra.clone());
    vk.configure(settings)
}
