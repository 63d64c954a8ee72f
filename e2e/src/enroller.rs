//! The enroller: it makes devices members of the fleet, and throws them out.

use std::path::Path;

use anyhow::Result;

use crate::accounts::{NAMESPACE, ServiceAccount};
use crate::keys::FleetKeyFiles;
use crate::kubectl::Kubectl;
use crate::nats::Nats;
use crate::netns::Network;
use crate::service::Service;

/// Its service account in the manifests.
pub const SERVICE_ACCOUNT: &str = "enroller";
const HEALTH_PORT: u16 = 8110;

/// Describes the enroller of the fleet in `fleet`; starts nothing.
///
/// # Errors
/// When the program is not built.
pub fn service(fleet: &Path, network: &Network) -> Result<Service> {
    Service::new(fleet, network, ("enroller", 0), network.cluster_address(), HEALTH_PORT)
}

/// Makes the account's kubeconfig, its token for NATS and the settings; settings in `extra` win.
///
/// # Errors
/// When a server refuses or a file cannot be written.
pub async fn configure(
    enroller: &Service,
    fleet: &Path,
    network: &Network,
    (kubectl, nats, keys): (&Kubectl, &Nats, &FleetKeyFiles),
    extra: &toml::Table,
) -> Result<()> {
    let account = ServiceAccount::open(fleet, network, SERVICE_ACCOUNT)?;
    let (kubeconfig, credential) =
        tokio::try_join!(account.kubeconfig(kubectl), account.nats_credential(kubectl, nats))?;
    let mut settings = toml::Table::new();
    let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value.into());
    set("kubeconfig", kubeconfig.display().to_string());
    set("namespace", NAMESPACE.to_owned());
    set("nats-credential-file", credential.display().to_string());
    set("system-seed-file", nats.seed_file("kicker").display().to_string());
    set("fleet-keys-file", keys.statement().display().to_string());
    set("log-level", "info,callout=debug,enroller=debug".to_owned());
    settings.insert("enroller-key-files".into(), keys.enroller_seeds().into());
    let addresses: Vec<String> = (0..8).map(|replica| network.vk_address(replica).to_string()).collect();
    settings.insert("serving-addresses".into(), addresses.into());
    settings.extend(extra.clone());
    enroller.configure(settings)
}
