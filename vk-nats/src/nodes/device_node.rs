//! A Node, parsed once: either it makes a device exist, or it says why not.

use std::collections::BTreeMap;

use fleet_wire::{
    enrollment::{
        CURVE_KEY, DEVICE_LABEL, IDENTITY_KEY, INCARNATION, KEY_VERSION, PROVIDER, REPORT_POD_IP, ROTATE_KEYS,
    },
    message::NodeSettings,
    name::DeviceName,
};
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use nkeys::{KeyPair, KeyPairType, XKey};
use serde::{Deserialize, Serialize};

use crate::packed::Packed;

/// The Node of a device.
#[derive(Debug, Clone)]
pub struct DeviceNode {
    /// The device.
    pub device: DeviceName,
    /// `metadata.uid`.
    pub uid: String,
    /// The device's public curve key, with which everything for it is sealed.
    pub curve_key: XKey,
    /// Token of the last hello that the device proved to have received.
    pub incarnation: Option<String>,
    /// Version of the fleet's key that the device used last, as it stands in the Node.
    pub key_version: Option<String>,
    /// The operator's request for new keys of the device.
    pub rotate: Option<String>,
    /// What the Node's owner set.
    pub settings: NodeSettings,
    /// Port in `status.daemonEndpoints`, if there is one.
    pub published_port: Option<u16>,
    /// `spec.unschedulable`: it was cordoned.
    pub unschedulable: bool,
    /// `status` of the condition `Ready`, if the Node has one.
    pub ready: Option<String>,
    /// What our own patches are compared with.
    pub observed: Packed<Observed>,
}

/// What stands in a Node of what a device and we say of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Labels; arch and OS are ours to set.
    pub labels: BTreeMap<String, String>,
    /// The status, without images.
    pub status: NodeStatus,
}

impl Observed {
    /// A condition of the Node as it stands in the API.
    pub fn condition(&self, type_: &str) -> Option<&NodeCondition> {
        self.status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
    }
}

/// Why a Node with the device label is no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADevice {
    /// The name cannot be one of a device.
    #[error("its name is not a device name: {0}")]
    Name(String),
    /// The label is missing.
    #[error("it lacks the label {DEVICE_LABEL}=true")]
    Label,
    /// The provider id does not say so.
    #[error("spec.providerID is {found:?}, expected {expected:?}")]
    Provider {
        /// What it is.
        found: String,
        /// What it has to be.
        expected: String,
    },
    /// A key is missing or is none.
    #[error("annotation {annotation} is not a public key: {reason}")]
    Key {
        /// Which annotation.
        annotation: &'static str,
        /// Why not.
        reason: String,
    },
}

impl DeviceNode {
    /// Reads a Node.
    ///
    /// # Errors
    /// [`NotADevice`] when the enrollment's marks are not all there.
    pub fn parse(node: &Node) -> Result<Self, NotADevice> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let device: DeviceName =
            name.parse().map_err(|error: fleet_wire::name::NameError| NotADevice::Name(error.to_string()))?;
        let labels = node.metadata.labels.clone().unwrap_or_default();
        if labels.get(DEVICE_LABEL).map(String::as_str) != Some("true") {
            return Err(NotADevice::Label);
        }
        let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or_default();
        let expected = format!("{PROVIDER}{name}");
        if provider != expected {
            return Err(NotADevice::Provider { found: provider.to_owned(), expected });
        }
        let annotation = |key: &str| {
            node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).cloned()
        };
        identity_key(annotation(IDENTITY_KEY))?;
        let curve_key = curve_key(annotation(CURVE_KEY))?;
        let mut status = node.status.clone().unwrap_or_default();
        // Large, written by us, and never read back.
        status.images = None;
        let published_port = status
            .daemon_endpoints
            .as_ref()
            .and_then(|endpoints| endpoints.kubelet_endpoint.as_ref())
            .and_then(|endpoint| u16::try_from(endpoint.port).ok())
            .filter(|port| *port > 0);
        let observed = Observed { labels, status };
        Ok(Self {
            device,
            uid: node.metadata.uid.clone().unwrap_or_default(),
            curve_key,
            incarnation: annotation(INCARNATION),
            key_version: annotation(KEY_VERSION),
            rotate: annotation(ROTATE_KEYS).filter(|value| !value.is_empty() && value.len() <= 256),
            settings: NodeSettings { report_pod_ip: annotation(REPORT_POD_IP).as_deref() == Some("true") },
            published_port,
            unschedulable: node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true),
            ready: observed.condition("Ready").map(|condition| condition.status.clone()),
            observed: Packed::new(&observed),
        })
    }

    /// Whether the API says that the device is ready.
    pub fn is_ready(&self) -> bool {
        self.ready.as_deref() == Some("True")
    }
}

fn identity_key(found: Option<String>) -> Result<(), NotADevice> {
    let refuse = |reason: &str| NotADevice::Key { annotation: IDENTITY_KEY, reason: reason.to_owned() };
    let found = found.ok_or_else(|| refuse("it is missing"))?;
    match KeyPair::from_public_key(&found) {
        Ok(key) if key.key_pair_type() == KeyPairType::User => Ok(()),
        Ok(_) => Err(refuse("expected a user key (U…)")),
        Err(error) => Err(refuse(&error.to_string())),
    }
}

fn curve_key(found: Option<String>) -> Result<XKey, NotADevice> {
    let refuse = |reason: &str| NotADevice::Key { annotation: CURVE_KEY, reason: reason.to_owned() };
    let found = found.ok_or_else(|| refuse("it is missing"))?;
    XKey::from_public_key(&found).map_err(|error| refuse(&error.to_string()))
}

#[cfg(test)]
#[path = "tests/device_node.rs"]
mod tests;
