//! Desired state on its way down: bundles, deltas, and how a device catches up.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Pod};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    digest::Digest,
    name::{OwnerEpoch, PodUid},
};

/// Version of a device's desired state. Totally ordered; a device persists the newest and never goes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DesiredVersion {
    /// Incarnation of the cluster side.
    pub epoch: OwnerEpoch,
    /// Counts within the epoch, from 1; 0 is "never heard of any".
    pub sequence: u64,
}

/// A pod with everything that it refers to: what a device needs to run it without asking again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    /// The pod; `status` and `metadata.managedFields` are left out, `deletionTimestamp` is part of it.
    pub pod: Pod,
    /// ConfigMaps of the pod's namespace by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config_maps: BTreeMap<String, BundleConfigMap>,
    /// Secrets of the pod's namespace by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, BundleSecret>,
    /// Mandatory references that do not exist (yet) or cannot be read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingReference>,
    /// Variables of the Services of the pod's namespace (`enableServiceLinks`), and of the API server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_env: BTreeMap<String, String>,
}

/// Content of a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleConfigMap {
    /// Text values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Binary values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, ByteString>,
}

/// Content of a Secret. Its `Debug` shows keys and sizes only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleSecret {
    /// `Secret.type`, e.g. `kubernetes.io/dockerconfigjson`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub type_: String,
    /// Values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, ByteString>,
}

impl std::fmt::Debug for BundleSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: BTreeMap<&str, usize> =
            self.data.iter().map(|(key, value)| (key.as_str(), value.0.len())).collect();
        f.debug_struct("BundleSecret").field("type", &self.type_).field("bytes", &sizes).finish()
    }
}

/// Kind of a referenced object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReferenceKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
    /// A kind that a newer cluster side knows; the message tells people which.
    #[serde(other)]
    Other,
}

/// A mandatory reference that could not be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingReference {
    /// Kind of the object.
    pub kind: ReferenceKind,
    /// Its name, in the pod's namespace.
    pub name: String,
    /// What the API server said, e.g. `configmap "web" not found`.
    pub message: String,
}

/// What the owner of a Node decided for its device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    /// Whether `status.podIP` is reported (annotation `fleet.harmony.io/report-pod-ip`).
    #[serde(default)]
    pub report_pod_ip: bool,
}

/// `down.changed`, and the answer to [`SyncRequest`]: how the device's set becomes the desired one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delta {
    /// Version of the set that results.
    pub version: DesiredVersion,
    /// New and changed bundles.
    #[serde(default)]
    pub upsert: Vec<BundleEntry>,
    /// Pods that are no longer in the API: to be stopped and forgotten.
    #[serde(default)]
    pub remove: Vec<PodUid>,
    /// [`Digest::of_set`] of the set that results; a mismatch after applying leads to a sync.
    pub set_digest: Digest,
    /// What the Node's owner set.
    #[serde(default)]
    pub node_settings: NodeSettings,
}

/// One bundle of a [`Delta`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleEntry {
    /// The pod.
    pub uid: PodUid,
    /// [`Digest::of`] the bundle's JSON, byte by byte.
    pub digest: Digest,
    /// Size of that JSON in bytes.
    pub size: u64,
    /// The JSON of a [`Bundle`], exactly as digested; `None` when it is too large for this message and
    /// is to be read with [`FetchRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<RawValue>>,
}

/// `up.sync`: what the device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncRequest {
    /// Digest of each bundle.
    pub have: BTreeMap<PodUid, Digest>,
    /// Newest desired state that the device has persisted.
    #[serde(default)]
    pub desired: DesiredVersion,
}

/// `up.fetch`: one page of a bundle's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchRequest {
    /// The pod.
    pub uid: PodUid,
    /// Which bundle of it; another one by now → `NotFound`, sync again.
    pub digest: Digest,
    /// First byte of the page.
    pub offset: u64,
}

/// Answer to [`FetchRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchReply {
    /// Bytes from the asked offset on, at most [`crate::envelope::MAX_PAGE`].
    pub data: ByteString,
    /// Size of the whole.
    pub size: u64,
}
