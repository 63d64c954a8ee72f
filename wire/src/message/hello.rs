//! Opening a session: who the device is, what it runs, what it holds.

use k8s_openapi::api::core::v1::NodeStatus;
use serde::{Deserialize, Serialize};

use super::{DesiredVersion, NodeSettings};
use crate::{digest::Digest, keys::SignedKeyStatement, name::OwnerEpoch};

/// Version of the protocol: `major` stands in the subjects (`fleet.v1`), `minor` grows with additions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProtocolVersion {
    /// Incompatible changes.
    pub major: u16,
    /// Compatible additions.
    pub minor: u16,
}

/// The version that this crate speaks.
pub const PROTOCOL: ProtocolVersion = ProtocolVersion { major: 1, minor: 1 };

/// `up.hello`: the first message of a connection. The nonces travel in the envelope's session header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloRequest {
    /// What the device speaks.
    pub protocol: ProtocolVersion,
    /// Version of the agent, e.g. `0.1.0`.
    pub agent_version: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// What the agent can do beyond the protocol's version, e.g. `logs`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Token of the last accepted hello; `None` on a device that never said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Newest desired state that the device has persisted.
    #[serde(default)]
    pub desired: DesiredVersion,
    /// [`Digest::of_set`] of the bundles that the device holds.
    pub set_digest: Digest,
    /// Sequence of the newest statement of the fleet's keys that the device has accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_statement: Option<u64>,
    /// [`Rotate::request`] that the device did last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<String>,
    /// What the device reports of itself: capacity, allocatable, conditions, node info, images.
    /// Addresses and endpoints in it are for information; the cluster side sets its own.
    pub node: NodeStatus,
}

/// Answer to [`HelloRequest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HelloReply {
    /// What the cluster side speaks.
    pub protocol: ProtocolVersion,
    /// Version of the cluster side's program.
    pub cluster_version: String,
    /// Who answers; the device refuses lower epochs from now on.
    pub owner_epoch: OwnerEpoch,
    /// To be kept and shown at the next hello. An old one betrays a cloned or restored disk.
    pub incarnation: String,
    /// Seconds between heartbeats.
    pub heartbeat_interval_seconds: u32,
    /// What the Node's owner set.
    #[serde(default)]
    pub node_settings: NodeSettings,
    /// Digest of the desired set as the cluster side has it; differs from the device's → sync.
    pub set_digest: Digest,
    /// The newest statement of the fleet's keys, if it is another than the device's. It is believed only with
    /// the root key's signature, whoever sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SignedKeyStatement>,
}

/// `down.rehello`: the cluster side has no session with the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rehello {
    /// For the device's log.
    pub reason: String,
}

/// `down.revoked`: the device is out of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    /// For the device's log.
    pub reason: String,
}

/// `down.rotate`: the device is to make itself new keys, and to have them enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotate {
    /// Whatever the Node's annotation says; done once for each. The device says in its hello what it did last.
    pub request: String,
}
