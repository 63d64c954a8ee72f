//! What a fleet is to be like, before it is brought up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control_plane::ControlPlaneOptions;

/// What a fleet is to be like.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FleetOptions {
    /// The names of its real devices.
    pub devices: Vec<String>,
    /// Whether `vk-nats` and the agents run; without them it is the bare ground.
    pub agents: bool,
    /// Tags of `localhost/hello` that every device has.
    pub images: Vec<String>,
    /// Settings of the control plane.
    pub control_plane: ControlPlaneOptions,
    /// The block for `spec.podCIDRs`, shared by all devices.
    pub pod_cidr: Option<String>,
    /// Whether pods' addresses are reported.
    pub report_pod_ip: bool,
    /// Settings of every agent on top of the harness's own.
    pub agent_settings: toml::Table,
    /// Settings of `vk-nats` on top of the harness's own.
    pub vk_settings: toml::Table,
    /// Settings of every callout on top of the harness's own.
    #[serde(default)]
    pub callout_settings: toml::Table,
    /// How many callouts share the work.
    pub callouts: u8,
    /// Whether NATS knows the tests' observer.
    #[serde(default)]
    pub observer: bool,
    /// Devices that are switched on and not enrolled: their agents are not started.
    #[serde(default)]
    pub unenrolled: Vec<String>,
    /// Whether it has identity providers, and callouts that believe them.
    #[serde(default)]
    pub issuers: bool,
    /// Sizes, in mebibytes, of the data folders of devices that have a small disk for it.
    #[serde(default)]
    pub small_disks: BTreeMap<String, u32>,
}

impl FleetOptions {
    /// A fleet with these devices and everything that belongs to it.
    #[must_use]
    pub fn with_devices<const N: usize>(devices: [&str; N]) -> Self {
        Self {
            devices: devices.map(str::to_owned).into(),
            agents: true,
            images: vec!["v1".to_owned(), "v2".to_owned()],
            control_plane: ControlPlaneOptions::default(),
            pod_cidr: None,
            report_pod_ip: false,
            agent_settings: toml::Table::new(),
            vk_settings: toml::Table::new(),
            callout_settings: toml::Table::new(),
            callouts: 1,
            observer: true,
            unenrolled: Vec::new(),
            issuers: false,
            small_disks: BTreeMap::new(),
        }
    }

    /// The same without `vk-nats` and agents.
    #[must_use]
    pub fn bare(self) -> Self {
        Self { agents: false, ..self }
    }

    /// The same with one more setting of every agent.
    #[must_use]
    pub fn agent_setting(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.agent_settings.insert(key.to_owned(), value.into());
        self
    }

    /// The same with the data folder of one device on a disk of so many mebibytes.
    #[must_use]
    pub fn small_disk(mut self, device: &str, mebibytes: u32) -> Self {
        self.small_disks.insert(device.to_owned(), mebibytes);
        self
    }

    /// The same with one more setting of every callout.
    #[must_use]
    pub fn callout_setting(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.callout_settings.insert(key.to_owned(), value.into());
        self
    }

    /// The same with one of its devices not enrolled.
    #[must_use]
    pub fn unenrolled(mut self, device: &str) -> Self {
        self.unenrolled.push(device.to_owned());
        self
    }

    /// The same with identity providers.
    #[must_use]
    pub fn issuers(self) -> Self {
        Self { issuers: true, ..self }
    }

    /// The same with so many callouts.
    #[must_use]
    pub fn callouts(self, callouts: u8) -> Self {
        Self { callouts, ..self }
    }

    /// The same without the tests' observer: nobody is let into NATS but by the callout.
    #[must_use]
    pub fn unobserved(self) -> Self {
        Self { observer: false, ..self }
    }

    /// The same with one more setting of `vk-nats`.
    #[must_use]
    pub fn vk_setting(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.vk_settings.insert(key.to_owned(), value.into());
        self
    }
}
