//! The objects that make a device exist: the enrollment record (a Secret of the fleet's namespace) and
//! the Node. Building them is pure; whoever enrolls writes them.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Node, NodeSpec, Secret, Taint},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::name::DeviceName;

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
/// Taint key (and label) by which cluster add-ons stay off devices.
pub const DEVICE_TAINT: &str = DEVICE_LABEL;
/// Scheme of `spec.providerID`.
pub const PROVIDER: &str = "harmony-fleet://";

/// What is known of a device when it is enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrollment {
    /// Its name.
    pub device: DeviceName,
    /// Public identity key (`U…`).
    pub identity_key: String,
    /// Public curve key (`X…`).
    pub curve_key: String,
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
            (IDENTITY_KEY.to_owned(), self.identity_key.clone()),
            (CURVE_KEY.to_owned(), self.curve_key.clone()),
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

    /// The record, for the fleet's namespace. `node_uid` ties it to the Node it was made with.
    pub fn record(&self, namespace: &str, node_uid: &str) -> Secret {
        let text = |value: &str| ByteString(value.as_bytes().to_vec());
        Secret {
            metadata: ObjectMeta {
                name: Some(format!("device-{}", self.device)),
                namespace: Some(namespace.to_owned()),
                labels: Some(BTreeMap::from([(DEVICE_LABEL.to_owned(), "true".to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("fleet.harmony.io/enrollment".to_owned()),
            data: Some(BTreeMap::from([
                ("device".to_owned(), text(self.device.as_str())),
                ("identityKey".to_owned(), text(&self.identity_key)),
                ("curveKey".to_owned(), text(&self.curve_key)),
                ("nodeUid".to_owned(), text(node_uid)),
                ("state".to_owned(), text("enrolled")),
            ])),
            ..Secret::default()
        }
    }
}
