//! The Node of a device, and the names that mark it. Building it is pure; whoever enrolls writes it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Node, NodeSpec, Taint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    keys::{CurveKey, IdentityKey, fingerprint},
    name::DeviceName,
};

/// Label that marks the Nodes of devices, and the records.
pub const DEVICE_LABEL: &str = "fleet.harmony.io/device";
/// Annotation with the device's public identity key (`U…`).
pub const IDENTITY_KEY: &str = "fleet.harmony.io/identity-key";
/// Annotation with the device's public curve key (`X…`).
pub const CURVE_KEY: &str = "fleet.harmony.io/curve-key";
/// Annotation by which the Node's owner has pod addresses reported (`"true"`).
pub const REPORT_POD_IP: &str = "fleet.harmony.io/report-pod-ip";
/// Annotation with the incarnation token of the last accepted hello; written by the cluster side.
pub const INCARNATION: &str = "fleet.harmony.io/incarnation";
/// Annotation with the fingerprint of both keys, as `device-kubelet keys` prints it on the device.
pub const FINGERPRINT: &str = "fleet.harmony.io/key-fingerprint";
/// Annotation with the version of the fleet's curve key that the device used last; written by the cluster
/// side.
pub const KEY_VERSION: &str = "fleet.harmony.io/fleet-key-version";
/// Annotation by which an operator asks for new keys of the device: any value, done once for each.
pub const ROTATE_KEYS: &str = "fleet.harmony.io/rotate-keys";
/// Annotation on a revoked device's record by which an operator takes the revocation back.
pub const UNDELETE: &str = "fleet.harmony.io/undelete";
/// `signerName` of the certificate requests by which devices ask for membership.
pub const SIGNER_NAME: &str = "fleet.harmony.io/device";
/// Taint key (and label) by which cluster add-ons stay off devices.
pub const DEVICE_TAINT: &str = DEVICE_LABEL;
/// Scheme of `spec.providerID`.
pub const PROVIDER: &str = "harmony-fleet://";

/// What is known of a device when it is enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrollment {
    /// Its name.
    pub device: DeviceName,
    /// Public identity key.
    pub identity_key: IdentityKey,
    /// Public curve key.
    pub curve_key: CurveKey,
    /// Subject at the identity provider that tokens of this device must have; `None`: it logs in with its
    /// key alone, and no token makes it this device.
    pub subject: Option<String>,
    /// Labels that its owner set.
    pub labels: BTreeMap<String, String>,
    /// Whether it carries the taint `fleet.harmony.io/device=true:NoSchedule`.
    pub taint: bool,
    /// Block for `spec.podCIDRs`, shared by all devices, inside the cluster's own CIDR; `None` where the
    /// cluster does not allocate node CIDRs.
    pub pod_cidr: Option<String>,
    /// Whether pod addresses are reported.
    pub report_pod_ip: bool,
}

impl Enrollment {
    /// The Node. Architecture and OS labels come with the device's first hello.
    pub fn node(&self) -> Node {
        let name = self.device.as_str().to_owned();
        let mut labels = BTreeMap::from(
            [
                (DEVICE_LABEL, "true"),
                ("type", "virtual-kubelet"),
                ("kubernetes.io/hostname", self.device.as_str()),
                ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
                // A region and zone of their own: the lifecycle controller throttles evictions by zone, and
                // a fleet that is offline must not stop them for the servers.
                ("topology.kubernetes.io/region", "harmony-fleet"),
                ("topology.kubernetes.io/zone", "harmony-fleet-devices"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        labels.extend(self.labels.clone());
        let mut annotations = BTreeMap::from([
            (IDENTITY_KEY.to_owned(), self.identity_key.to_string()),
            (CURVE_KEY.to_owned(), self.curve_key.to_string()),
            (FINGERPRINT.to_owned(), fingerprint(&self.identity_key, &self.curve_key)),
        ]);
        if self.report_pod_ip {
            annotations.insert(REPORT_POD_IP.to_owned(), "true".to_owned());
        }
        Node {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                provider_id: Some(format!("{PROVIDER}{name}")),
                pod_cidr: self.pod_cidr.clone(),
                pod_cidrs: self.pod_cidr.clone().map(|cidr| vec![cidr]),
                taints: self.taint.then(|| {
                    vec![Taint {
                        key: DEVICE_TAINT.to_owned(),
                        value: Some("true".to_owned()),
                        effect: "NoSchedule".to_owned(),
                        ..Taint::default()
                    }]
                }),
                ..NodeSpec::default()
            }),
            status: None,
        }
    }
}
