//! What several tests need.

use fleet_wire::{
    enrollment::{Enrollment, Record},
    keys::IdentityKey,
};
use nkeys::{KeyPair, XKey};

/// The public half.
pub fn identity_key(key: &KeyPair) -> IdentityKey {
    key.public_key().parse().unwrap()
}

/// A device that was just enrolled, with keys of its own.
pub fn record(device: &str, node_uid: &str) -> Record {
    record_of(device, node_uid, &KeyPair::new_user())
}

/// The same, with this identity key.
pub fn record_of(device: &str, node_uid: &str, key: &KeyPair) -> Record {
    let enrollment = Enrollment {
        device: device.parse().unwrap(),
        identity_key: identity_key(key),
        curve_key: XKey::new().public_key().parse().unwrap(),
        subject: None,
        labels: Default::default(),
        taint: true,
        pod_cidr: None,
        report_pod_ip: false,
    };
    Record::new(enrollment, node_uid)
}
