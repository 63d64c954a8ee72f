//! The auth callout: it decides who may connect to NATS.

use std::path::Path;

use anyhow::Result;

use crate::accounts::{NAMESPACE, ServiceAccount};
use crate::kubectl::Kubectl;
use crate::nats::Nats;
use crate::netns::Network;
use crate::service::Service;

/// Its service account in the manifests.
pub const SERVICE_ACCOUNT: &str = "callout";
/// The first replica's; the others' follow.
const HEALTH_PORT: u16 = 8100;

/// Describes replica `replica` of the fleet in `fleet`; starts nothing.
///
/// # Errors
/// When the program is not built.
pub fn service(fleet: &Path, network: &Network, replica: u8) -> Result<Service> {
    let port = HEALTH_PORT + u16::from(replica);
    Service::new(fleet, network, ("callout", replica), network.cluster_address(), port)
}

/// Makes the account's kubeconfig and the settings; settings in `extra` win.
///
/// # Errors
/// When a server refuses or a file cannot be written.
pub async fn configure(
    callouts: &[Service],
    fleet: &Path,
    network: &Network,
    (kubectl, nats): (&Kubectl, &Nats),
    extra: &toml::Table,
) -> Result<()> {
    let account = ServiceAccount::open(fleet, network, SERVICE_ACCOUNT)?;
    let mut settings = toml::Table::new();
    let mut set = |key: &str, value: String| settings.insert(key.to_owned(), value.into());
    set("kubeconfig", account.kubeconfig(kubectl).await?.display().to_string());
    set("namespace", NAMESPACE.to_owned());
    set("nats-url", nats.url());
    set("nats-ca-file", nats.ca_file().display().to_string());
    set("nats-seed-file", nats.seed_file("callout").display().to_string());
    set("issuer-seed-file", nats.seed_file("issuer").display().to_string());
    set("xkey-seed-file", nats.seed_file("xkey").display().to_string());
    set("log-level", "info,callout=debug".to_owned());
    for (setting, key) in [("issuer-spare-seed-files", "issuer"), ("xkey-spare-seed-files", "xkey")] {
        let files = [format!("{key}.next"), format!("{key}.previous")].map(|name| nats.seed_file(&name));
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        settings.insert(setting.to_owned(), files.into());
    }
    settings.extend(extra.clone());
    callouts.iter().try_for_each(|callout| callout.configure(settings.clone()))
}
