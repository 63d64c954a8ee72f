//! NATS subjects, built and parsed in this one place.
//!
//! ```text
//! fleet.v1.<shard>.<device>.up.<verb>               device → cluster
//! fleet.v1.<shard>.<device>.up.re.<request>         the device's answer to a request of the cluster
//! fleet.v1.<shard>.<device>.down.<verb>             cluster → device
//! fleet.v1.<shard>.<device>.session.<id>.up|down    one stream, either leg
//! _INBOX.<device>.…                                 answers to the device's requests
//! ```

use std::fmt;

use crate::name::{DeviceName, NameError, RequestId, Shard};

/// Longest subject of this protocol is about 200 bytes; what is longer is not looked at.
const MAX_SUBJECT: usize = 256;

/// First tokens of every subject of this protocol.
pub const PREFIX: &str = "fleet.v1";

macro_rules! verbs {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $token:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// A verb of a newer minor version: answered with a typed refusal, never fatal.
            Unknown(String),
        }

        impl $name {
            /// The verb as a NATS token.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $token,)*
                    Self::Unknown(token) => token,
                }
            }

            fn parse(token: &str) -> Self {
                match token {
                    $($token => Self::$variant,)*
                    other => Self::Unknown(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

verbs!(
    /// What a device says to the cluster.
    UpVerb {
        /// Opens a session: [`crate::message::HelloRequest`], answered.
        Hello = "hello",
        /// Compares the desired set: [`crate::message::SyncRequest`], answered.
        Sync = "sync",
        /// Reads a part of a large bundle: [`crate::message::FetchRequest`], answered.
        Fetch = "fetch",
        /// Node and pod statuses: [`crate::message::StatusReport`], answered once the API server took them.
        Status = "status",
        /// Events: [`crate::message::EventsReport`], answered.
        Events = "events",
        /// Sign of life: [`crate::message::Heartbeat`], not answered.
        Heartbeat = "heartbeat",
    }
);

verbs!(
    /// What the cluster says to a device.
    DownVerb {
        /// The desired set changed: [`crate::message::Delta`], not answered (the next heartbeat tells).
        Changed = "changed",
        /// The cluster side lost the session: say hello again. Not answered, harmless when replayed.
        Rehello = "rehello",
        /// Opens a log stream: [`crate::message::LogsRequest`], answered under `up.re.`.
        Logs = "logs",
        /// The device is no longer a member of the fleet.
        Revoked = "revoked",
        /// Make new keys: [`crate::message::Rotate`], not answered (the next hello tells).
        Rotate = "rotate",
    }
);

/// The leg of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leg {
    /// Device → cluster.
    Up,
    /// Cluster → device.
    Down,
}

/// What a subject means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// `….up.<verb>`
    Up(DeviceName, UpVerb),
    /// `….up.re.<request>`
    Answer(DeviceName, RequestId),
    /// `….down.<verb>`
    Down(DeviceName, DownVerb),
    /// `….session.<id>.up|down`
    Stream(DeviceName, RequestId, Leg),
}

/// Why a subject is not one of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The shape is none of those in the module's documentation.
    #[error("not a subject of {PREFIX}: {0:?}")]
    Shape(String),
    /// A token is out of its grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The shard is not the device's.
    #[error("device {device} is in shard {expected}, the subject says {found}")]
    Shard {
        /// Device named by the subject.
        device: DeviceName,
        /// Its shard.
        expected: Shard,
        /// The shard that the subject names.
        found: Shard,
    },
}

impl Subject {
    /// Parses a subject; wildcards and empty tokens are refused by the grammar of the names.
    pub fn parse(subject: &str) -> Result<Self, SubjectError> {
        let shape = || SubjectError::Shape(subject.chars().take(120).collect());
        if subject.len() > MAX_SUBJECT {
            return Err(shape());
        }
        let rest = subject.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('.')).ok_or_else(shape)?;
        let tokens: Vec<&str> = rest.split('.').collect();
        let [shard, device, tail @ ..] = tokens.as_slice() else {
            return Err(shape());
        };
        let found: Shard = shard.parse()?;
        let device: DeviceName = device.parse()?;
        let expected = Shard::of(&device);
        if found != expected {
            return Err(SubjectError::Shard { device, expected, found });
        }
        let verb = |token: &str| {
            // A verb is a token of the same grammar as a name; its meaning may be unknown here.
            token.parse::<RequestId>().map(|_| token.to_owned())
        };
        match tail {
            ["up", "re", request] => Ok(Self::Answer(device, request.parse()?)),
            ["up", token] => Ok(Self::Up(device, UpVerb::parse(&verb(token)?))),
            ["down", token] => Ok(Self::Down(device, DownVerb::parse(&verb(token)?))),
            ["session", id, "up"] => Ok(Self::Stream(device, id.parse()?, Leg::Up)),
            ["session", id, "down"] => Ok(Self::Stream(device, id.parse()?, Leg::Down)),
            _ => Err(shape()),
        }
    }

    /// The device that the subject belongs to.
    pub fn device(&self) -> &DeviceName {
        match self {
            Self::Up(device, _)
            | Self::Answer(device, _)
            | Self::Down(device, _)
            | Self::Stream(device, _, _) => device,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = device_root(self.device());
        match self {
            Self::Up(_, verb) => write!(f, "{root}.up.{verb}"),
            Self::Answer(_, request) => write!(f, "{root}.up.re.{request}"),
            Self::Down(_, verb) => write!(f, "{root}.down.{verb}"),
            Self::Stream(_, id, Leg::Up) => write!(f, "{root}.session.{id}.up"),
            Self::Stream(_, id, Leg::Down) => write!(f, "{root}.session.{id}.down"),
        }
    }
}

/// `fleet.v1.<shard>.<device>`, under which everything of a device lies.
pub fn device_root(device: &DeviceName) -> String {
    format!("{PREFIX}.{}.{device}", Shard::of(device))
}

/// What a device subscribes to for commands: `….down.>`.
pub fn down_wildcard(device: &DeviceName) -> String {
    format!("{}.down.>", device_root(device))
}

/// What a device subscribes to for the cluster's leg of all its streams: `….session.*.down`.
pub fn stream_down_wildcard(device: &DeviceName) -> String {
    format!("{}.session.*.down", device_root(device))
}

/// What the cluster side subscribes to for what a device says: `….up.>`.
pub fn up_wildcard(device: &DeviceName) -> String {
    format!("{}.up.>", device_root(device))
}

/// What the cluster side subscribes to for the device's leg of its streams: `….session.*.up`.
pub fn stream_up_wildcard(device: &DeviceName) -> String {
    format!("{}.session.*.up", device_root(device))
}

/// What the owner of all shards subscribes to: `fleet.v1.*.*.up.>`.
pub fn all_up_wildcard() -> String {
    format!("{PREFIX}.*.*.up.>")
}

/// What the cluster side subscribes to for the devices' leg of all streams: `fleet.v1.*.*.session.*.up`.
pub fn all_stream_up_wildcard() -> String {
    format!("{PREFIX}.*.*.session.*.up")
}

/// Prefix of the inbox in which a device receives answers, without a trailing dot.
pub fn inbox_prefix(device: &DeviceName) -> String {
    format!("_INBOX.{device}")
}

/// Whether `reply` lies in the device's own inbox and names nothing else.
///
/// nats-server does not check permissions on the reply subject of a publish, so every responder asks
/// this before it answers; otherwise a device could have the cluster side publish wherever it likes.
pub fn is_own_inbox(device: &DeviceName, reply: &str) -> bool {
    is_in_inbox(&inbox_prefix(device), reply)
}

/// Whether `reply` is `prefix`, a dot, and tokens without wildcards, of a bounded length.
pub fn is_in_inbox(prefix: &str, reply: &str) -> bool {
    reply.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| {
        rest.len() <= 128
            && rest.split('.').all(|token| {
                !token.is_empty()
                    && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            })
    })
}
