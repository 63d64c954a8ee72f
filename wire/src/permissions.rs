//! Which subjects an identity may use: one pure function, deny by default.

use serde::{Deserialize, Serialize};

use crate::{name::DeviceName, subject};

/// Who connects to NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// An enrolled device.
    Device(DeviceName),
    /// The cluster side, `vk-nats`.
    ClusterSide,
}

/// What an identity may publish and subscribe. Everything else is denied; `allow_responses` is never granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Subjects to publish.
    pub publish: Vec<String>,
    /// Subjects to subscribe.
    pub subscribe: Vec<String>,
}

impl Permissions {
    /// The permissions of an identity.
    pub fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Device(device) => {
                let root = subject::device_root(device);
                Self {
                    publish: vec![format!("{root}.up.>"), format!("{root}.session.*.up")],
                    subscribe: vec![
                        subject::down_wildcard(device),
                        subject::stream_down_wildcard(device),
                        format!("{}.>", subject::inbox_prefix(device)),
                    ],
                }
            }
            Identity::ClusterSide => Self {
                publish: vec![
                    format!("{}.*.*.down.>", subject::PREFIX),
                    format!("{}.*.*.session.*.down", subject::PREFIX),
                    // Answers go to the devices' inboxes; which inbox is checked against the sender.
                    "_INBOX.>".to_owned(),
                ],
                subscribe: vec![format!("{}.*.*.up.>", subject::PREFIX), subject::all_stream_up_wildcard()],
            },
        }
    }
}
