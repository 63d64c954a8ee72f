//! Which subjects an identity may use: one pure function, deny by default.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    enrollment::{self, Door, TokenId},
    keys::IdentityKey,
    name::DeviceName,
    subject,
};

/// Who connects to NATS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// An enrolled device.
    Device(DeviceName),
    /// The cluster side, `vk-nats`.
    ClusterSide,
    /// The enroller.
    Enroller,
    /// Who knows the id of an enrollment token: may ask, once the request's MAC proves the secret.
    TokenHolder(TokenId),
    /// A key that no record knows: may ask, and wait for somebody's approval.
    Applicant(IdentityKey),
    /// A person with the role `fleet-admin`: may look at the sealed traffic, and say nothing.
    Administrator(IdentityKey),
}

impl fmt::Display for Identity {
    /// The user's name at NATS and in audit lines: `device:pi-7`, `component:vk-nats`, …
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device:{device}"),
            Self::ClusterSide => f.write_str("component:vk-nats"),
            Self::Enroller => f.write_str("component:enroller"),
            Self::TokenHolder(id) => write!(f, "token:{id}"),
            Self::Applicant(key) => write!(f, "applicant:{key}"),
            Self::Administrator(key) => write!(f, "person:{key}"),
        }
    }
}

/// What an identity may publish and subscribe. Everything else is denied; `allow_responses` is never granted.
/// The default allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Subjects to publish.
    pub publish: Vec<String>,
    /// Subjects to subscribe.
    pub subscribe: Vec<String>,
    /// Largest number of subscriptions; `None`: as many as the server allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_subscriptions: Option<u32>,
    /// Largest payload in bytes; `None`: what the server allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_payload: Option<u32>,
}

/// A device subscribes to its commands, its streams and its inbox. Twice that is room for a client that
/// subscribes anew before it gives up the old one.
const DEVICE_SUBSCRIPTIONS: u32 = 16;
/// Largest payload of anybody in the fleet's account, in bytes: a sealed message is at most 256 KiB, and some room for
/// headers. nats-server 2.15 ignores the limits of a callout's users in configuration mode,
/// so that this stands at the account, too.
pub const MAX_PAYLOAD: u32 = 264 * 1024;
/// Most subscriptions of one connection in the fleet's account: `vk-nats` has one for each device, and one more
/// for each with an open stream. A limit of the account, for the same reason.
pub const MAX_SUBSCRIPTIONS: u32 = 8192;

impl Permissions {
    /// The permissions of an identity.
    pub fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Device(device) => {
                let root = subject::device_root(device);
                Self {
                    publish: vec![
                        format!("{root}.up.>"),
                        format!("{root}.session.*.up"),
                        Door::Device(device.clone()).subject(),
                    ],
                    subscribe: vec![
                        subject::down_wildcard(device),
                        subject::stream_down_wildcard(device),
                        format!("{}.>", subject::inbox_prefix(device)),
                    ],
                    max_subscriptions: Some(DEVICE_SUBSCRIPTIONS),
                    max_payload: Some(MAX_PAYLOAD),
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
                max_subscriptions: None,
                max_payload: None,
            },
            Identity::Enroller => Self {
                publish: vec!["_INBOX.>".to_owned()],
                subscribe: vec![enrollment::enroll_wildcard()],
                max_subscriptions: None,
                max_payload: None,
            },
            Identity::TokenHolder(id) => Self::at_the_door(&Door::Token(id.clone())),
            Identity::Applicant(key) => Self::at_the_door(&Door::Key(key.clone())),
            Identity::Administrator(key) => Self {
                publish: Vec::new(),
                subscribe: vec![
                    format!("{}.>", subject::PREFIX),
                    enrollment::enroll_wildcard(),
                    format!("_INBOX._person.{key}.>"),
                ],
                max_subscriptions: Some(DEVICE_SUBSCRIPTIONS),
                max_payload: Some(0),
            },
        }
    }

    /// One subject to ask, and the inbox for the answer.
    fn at_the_door(door: &Door) -> Self {
        let payload = u32::try_from(enrollment::MAX_ENROLL_MESSAGE).unwrap_or(u32::MAX);
        Self {
            publish: vec![door.subject()],
            subscribe: vec![format!("{}.>", door.inbox_prefix())],
            max_subscriptions: Some(4),
            max_payload: Some(payload),
        }
    }
}
