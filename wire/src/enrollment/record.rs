//! The enrollment record: what the fleet knows of a device, in a Secret of the records' own namespace.

use std::{collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff};

use super::objects::{DEVICE_LABEL, Enrollment};
use crate::{keys::IdentityKey, name::DeviceName};

/// Namespace that holds records and nothing else. Whoever may read all Secrets of it (the callout) learns public
/// keys; enrollment tokens are in [`super::TOKENS_NAMESPACE`], private keys in the fleet's own namespace.
pub const RECORDS_NAMESPACE: &str = "harmony-fleet-devices";
/// `type` of the Secret.
pub const RECORD_TYPE: &str = "fleet.harmony.io/enrollment";

/// Why a Secret is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` of the enrollment record is missing or not valid: {reason}")]
pub struct RecordError {
    /// Which one.
    pub field: &'static str,
    /// What is wrong.
    pub reason: String,
}

/// Whether the device is a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordState {
    /// It is.
    Enrolled,
    /// Its Node was deleted at this time; the record is kept for the retention time, so that the revocation
    /// can be undone and the old keys stay dead.
    Revoked(jiff::Timestamp),
}

/// A device as the fleet knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it was enrolled with; after a rotation with the newest keys.
    pub enrollment: Enrollment,
    /// `metadata.uid` of its Node: a record without that very Node makes no device.
    pub node_uid: String,
    /// Member or not.
    pub state: RecordState,
    /// Identity keys that this name had before: dead for ever.
    pub retired: Vec<IdentityKey>,
}

/// Name of a device's record.
pub fn record_name(device: &DeviceName) -> String {
    format!("device-{device}")
}

impl Record {
    /// Of a device that was just enrolled.
    pub fn new(enrollment: Enrollment, node_uid: impl Into<String>) -> Self {
        Self { enrollment, node_uid: node_uid.into(), state: RecordState::Enrolled, retired: Vec::new() }
    }

    /// Whether it makes a device exist together with a Node of this UID.
    pub fn admits(&self, node_uid: &str) -> bool {
        self.state == RecordState::Enrolled && self.node_uid == node_uid
    }

    /// As a Secret of the records' namespace, [`RECORDS_NAMESPACE`] unless a setting says otherwise.
    pub fn secret(&self, namespace: &str) -> Secret {
        let Enrollment { device, identity_key, curve_key, subject, labels, taint, pod_cidr, report_pod_ip } =
            &self.enrollment;
        let mut data = BTreeMap::new();
        let mut set = |key: &str, value: String| data.insert(key.to_owned(), ByteString(value.into_bytes()));
        set("device", device.to_string());
        set("identityKey", identity_key.to_string());
        set("curveKey", curve_key.to_string());
        set("nodeUid", self.node_uid.clone());
        match self.state {
            RecordState::Enrolled => set("state", "enrolled".to_owned()),
            RecordState::Revoked(at) => {
                set("revokedAt", at.to_string());
                set("state", "revoked".to_owned())
            }
        };
        set("labels", serde_json::to_string(labels).unwrap_or_default());
        set("taint", taint.to_string());
        set("reportPodIp", report_pod_ip.to_string());
        if let Some(subject) = subject {
            set("subject", subject.clone());
        }
        if let Some(cidr) = pod_cidr {
            set("podCidr", cidr.clone());
        }
        if !self.retired.is_empty() {
            let keys: Vec<&str> = self.retired.iter().map(IdentityKey::as_str).collect();
            set("retiredIdentityKeys", keys.join("\n"));
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(record_name(device)),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([(DEVICE_LABEL.to_owned(), "true".to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some(RECORD_TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }

    /// Reads a Secret.
    ///
    /// # Errors
    /// [`RecordError`] for what is missing or malformed.
    pub fn parse(secret: &Secret) -> Result<Self, RecordError> {
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let field = |field: &'static str| {
            data.get(field)
                .map(|value| std::str::from_utf8(&value.0))
                .transpose()
                .map_err(|error| RecordError { field, reason: error.to_string() })
        };
        let required = |name: &'static str| {
            field(name)?.ok_or_else(|| RecordError { field: name, reason: "it is missing".to_owned() })
        };
        fn parsed<T: FromStr<Err: fmt::Display>>(field: &'static str, value: &str) -> Result<T, RecordError> {
            value.parse().map_err(|error: T::Err| RecordError { field, reason: error.to_string() })
        }
        let state = match required("state")? {
            "enrolled" => RecordState::Enrolled,
            "revoked" => RecordState::Revoked(parsed("revokedAt", required("revokedAt")?)?),
            other => {
                let reason = format!("{other:?}, expected enrolled or revoked");
                return Err(RecordError { field: "state", reason });
            }
        };
        let labels = match field("labels")? {
            Some(labels) => serde_json::from_str(labels)
                .map_err(|error| RecordError { field: "labels", reason: error.to_string() })?,
            None => BTreeMap::new(),
        };
        let retired = field("retiredIdentityKeys")?.unwrap_or_default();
        Ok(Self {
            enrollment: Enrollment {
                device: parsed("device", required("device")?)?,
                identity_key: parsed("identityKey", required("identityKey")?)?,
                curve_key: parsed("curveKey", required("curveKey")?)?,
                subject: field("subject")?.map(str::to_owned),
                labels,
                taint: field("taint")?.map_or(Ok(true), |value| parsed("taint", value))?,
                pod_cidr: field("podCidr")?.map(str::to_owned),
                report_pod_ip: field("reportPodIp")?
                    .map_or(Ok(false), |value| parsed("reportPodIp", value))?,
            },
            node_uid: required("nodeUid")?.to_owned(),
            state,
            retired: retired
                .lines()
                .map(|key| parsed("retiredIdentityKeys", key))
                .collect::<Result<_, _>>()?,
        })
    }
}
