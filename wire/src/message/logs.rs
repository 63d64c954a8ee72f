//! `down.logs`: what `kubectl logs` asks for.

use serde::{Deserialize, Serialize};

use crate::name::{ContainerName, Namespace, PodName, PodUid, RequestId};

/// Opens a stream of a container's log. The options are those of `PodLogOptions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsRequest {
    /// Stream on which the bytes will flow.
    pub stream: RequestId,
    /// Namespace of the pod.
    pub namespace: Namespace,
    /// Name of the pod.
    pub pod: PodName,
    /// Its uid, when the cluster side knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<PodUid>,
    /// The container.
    pub container: ContainerName,
    /// Keep the stream open and send what is written.
    #[serde(default)]
    pub follow: bool,
    /// The container's previous instance.
    #[serde(default)]
    pub previous: bool,
    /// Prefix each line with its time.
    #[serde(default)]
    pub timestamps: bool,
    /// At most so many lines from the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_lines: Option<u64>,
    /// Stop after so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// Only lines younger than so many seconds, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
    /// Only lines after this RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_time: Option<String>,
    /// Credit that the reader grants at once: an absolute offset in bytes.
    pub credit: u64,
}

/// Answer to [`LogsRequest`]: the stream is open, the first chunk follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsReply {}
