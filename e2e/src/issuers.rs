//! The identity providers of a fleet that has some: one for devices, one for people, as the callout wants them.
//!
//! They run beside the NATS server. Devices reach them as they would in life: from behind their NAT, by a
//! connection of their own.

use std::path::Path;

use anyhow::Result;
use fleet::login::Session;
use fleet_daemon::oidc::{MachineLogin, MachineLoginSettings};

use crate::binaries::Tools;
use crate::identity_provider::{Account, IdentityProvider, Place};
use crate::netns::Network;

/// Ports of the devices' provider, the people's follow.
const PORT: u16 = 8453;
/// Audience of devices' tokens: a project, as Zitadel has it.
pub const DEVICES: &str = "4711";
/// Audience of people's tokens.
pub const PERSONS: &str = "4712";
/// The role that makes an administrator.
pub const ADMIN: &str = "fleet-admin";

/// Both of them.
#[derive(Debug)]
pub struct Issuers {
    /// Issues tokens to devices.
    pub devices: IdentityProvider,
    /// Issues tokens to people.
    pub persons: IdentityProvider,
    network: Network,
}

/// What asks for an audience, in Zitadel's way.
#[must_use]
pub fn scope(audience: &str) -> String {
    format!("urn:zitadel:iam:org:project:id:{audience}:aud")
}

impl Issuers {
    /// Describes those of the fleet in `fleet`; starts nothing.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn new(fleet: &Path, network: &Network, tools: &Tools) -> Result<Self> {
        let provider = |name: &str, port: u16| {
            let (netns, address) = (Some(network.cluster()), network.cluster_address());
            IdentityProvider::new(fleet, name, Place { netns, address, port, admin_port: port + 1 }, tools)
        };
        Ok(Self {
            devices: provider("oidc-devices", PORT)?,
            persons: provider("oidc-persons", PORT + 10)?,
            network: network.clone(),
        })
    }

    /// Starts them, and opens the devices' way to theirs.
    ///
    /// # Errors
    /// When one does not come up.
    pub async fn start(&self) -> Result<()> {
        self.network.let_devices_reach(PORT).await?;
        tokio::try_join!(self.devices.start(), self.persons.start()).map(drop)
    }

    /// Ends what a scenario had them do: they answer.
    ///
    /// # Errors
    /// When one does not come up. What was started anew has forgotten its accounts.
    pub async fn clear(&self) -> Result<()> {
        for provider in [&self.devices, &self.persons] {
            provider.start().await?;
            provider.hang_keys(false).await?;
            provider.away(false).await?;
        }
        Ok(())
    }

    /// What the callout has to know of them.
    #[must_use]
    pub fn settings(&self) -> toml::Table {
        let providers = [("device", &self.devices, DEVICES), ("person", &self.persons, PERSONS)];
        providers
            .into_iter()
            .flat_map(|(kind, provider, audience)| {
                [
                    (format!("oidc-{kind}-issuer"), provider.issuer()),
                    (format!("oidc-{kind}-audience"), audience.to_owned()),
                    (format!("oidc-{kind}-ca-file"), provider.ca_file().display().to_string()),
                ]
            })
            .map(|(key, value)| (key, value.into()))
            .collect()
    }

    /// Makes the account of a device, with a registered key, and gives the login of who has that key.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn machine(&self, account: Account) -> Result<MachineLogin> {
        self.devices.put(&account).await?;
        let key_file = Some(self.devices.register_key(&account.id).await?);
        let scopes = vec!["openid".to_owned(), scope(DEVICES)];
        Ok(MachineLogin::new(MachineLoginSettings { key_file, scopes, ..self.devices.machine_login() })?)
    }

    /// Makes the account of a person, and logs it in.
    ///
    /// # Errors
    /// When the provider refuses.
    pub async fn person(&self, name: &str, roles: &[&str]) -> Result<Session> {
        let roles = roles.iter().map(ToString::to_string).collect();
        self.persons.put(&Account { id: name.into(), roles, ..Account::default() }).await?;
        Ok(self.persons.log_in((name, true), &[&scope(PERSONS)]).await??)
    }
}
