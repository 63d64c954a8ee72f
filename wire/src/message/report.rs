//! What a device reports: heartbeats, statuses, events.

use std::fmt;

use k8s_openapi::api::core::v1::{NodeStatus, PodStatus};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, MapAccess, Visitor},
};

use super::{DesiredVersion, Refusal, RefusalCode};
use crate::{
    digest::Digest,
    name::{ContainerName, PodKey, PodUid},
};

/// `up.heartbeat`: the device lives, and this is what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// [`Digest::of_set`] of its bundles.
    pub set_digest: Digest,
    /// Version of the desired state it has persisted.
    pub desired: DesiredVersion,
}

/// `up.status`: what became of node and pods since the last acknowledged report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The device itself, when it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeStatus>,
    /// Pods whose status changed.
    #[serde(default)]
    pub pods: Vec<PodReport>,
}

/// Status of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodReport {
    /// Which pod.
    pub key: PodKey,
    /// Counts the statuses of this pod on this device; comes back in the acknowledgement.
    pub revision: u64,
    /// The whole status, as a kubelet would write it.
    pub status: PodStatus,
    /// Nothing of the pod runs or lies on the device any more: it may be deleted from the API.
    #[serde(default)]
    pub stopped: bool,
}

/// Answer to [`StatusReport`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusAck {
    /// What became of the node's part; `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Outcome>,
    /// What became of each pod's part.
    #[serde(default)]
    pub pods: Vec<PodOutcome>,
}

/// What became of one [`PodReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodOutcome {
    /// The pod.
    pub uid: PodUid,
    /// Revision that this answers.
    pub revision: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// Whether the API server took it.
///
/// An outcome that a newer cluster side knows is read as [`Outcome::Later`]: offering a status again is
/// harmless, forgetting it is not, and one unknown outcome must not make the others unreadable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The API server has it.
    Taken,
    /// The object is gone from the API; do not send it again.
    Gone,
    /// Not now: send it again later.
    Later(Refusal),
    /// Never: the API server refuses this content. Logged, not sent again in this session until it changes.
    Refused(Refusal),
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Variants;

        impl<'de> Visitor<'de> for Variants {
            type Value = Outcome;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an outcome")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Outcome, E> {
                Ok(match name {
                    "taken" => Outcome::Taken,
                    "gone" => Outcome::Gone,
                    other => Outcome::unknown(other),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outcome, A::Error> {
                let name: String = map.next_key()?.ok_or_else(|| de::Error::custom("an empty outcome"))?;
                let outcome = match name.as_str() {
                    "later" => Outcome::Later(map.next_value()?),
                    "refused" => Outcome::Refused(map.next_value()?),
                    other => {
                        map.next_value::<IgnoredAny>()?;
                        Outcome::unknown(other)
                    }
                };
                match map.next_key::<IgnoredAny>()? {
                    None => Ok(outcome),
                    Some(_) => Err(de::Error::custom("an outcome has one variant")),
                }
            }
        }

        deserializer.deserialize_any(Variants)
    }
}

impl Outcome {
    fn unknown(name: &str) -> Self {
        let name: String = name.chars().take(80).collect();
        let message = format!("this version does not know the outcome {name:?}");
        Self::Later(Refusal::new(RefusalCode::Other(name), message))
    }
}

/// `Event.type`. A type that a newer device knows is read as [`EventType::Normal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// Someone should look.
    Warning,
    /// As it should be.
    #[serde(other)]
    Normal,
}

/// One event. Repetitions are counted on the device, and told as the same event with a higher count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord {
    /// Unique on this device, the same for a repetition; sent again until acknowledged, so the receiver can tell
    /// doubles.
    pub id: String,
    /// The pod concerned; `None` means the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodKey>,
    /// The container concerned (`fieldPath: spec.containers{name}`, or `spec.initContainers{name}`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// `type`.
    pub type_: EventType,
    /// `reason`, CamelCase, e.g. `Pulled`.
    pub reason: String,
    /// `message`.
    pub message: String,
    /// How often since `first`.
    pub count: u32,
    /// Milliseconds of the Unix epoch by the device's clock.
    pub first: i64,
    /// Milliseconds of the Unix epoch by the device's clock.
    pub last: i64,
}

/// `up.events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventsReport {
    /// Oldest first.
    pub events: Vec<EventRecord>,
    /// How many had to be dropped before these because the queue was full.
    #[serde(default)]
    pub dropped: u64,
    /// The device's clock when it sent this, milliseconds of the Unix epoch: lets the receiver correct
    /// the times of a device whose clock is off.
    pub now: i64,
}

/// Answer to [`EventsReport`]: they are written, or refused for good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventsAck {
    /// How many the API server did not take.
    #[serde(default)]
    pub refused: u32,
}
