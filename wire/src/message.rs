//! What the two sides say to each other, after it has been unsealed.
//!
//! Bodies are JSON. Fields that one side does not know are ignored, fields added later have defaults, and
//! a variant that it does not know is read as a harmless one, named at its type, so that the rest of the
//! message stays readable: either side may be one minor version ahead.
//! Where Kubernetes has a type for a thing, that type is used as it is.

mod desired;
mod hello;
mod logs;
mod refusal;
mod report;

pub use desired::{
    Bundle, BundleConfigMap, BundleEntry, BundleSecret, Delta, DesiredVersion, FetchReply, FetchRequest,
    MissingReference, NodeSettings, ReferenceKind, SyncRequest,
};
pub use hello::{HelloReply, HelloRequest, PROTOCOL, ProtocolVersion, Rehello, Revoked, Rotate};
pub use logs::{LogsReply, LogsRequest};
pub use refusal::{Refusal, RefusalCode, Reply};
pub use report::{
    EventRecord, EventType, EventsAck, EventsReport, Heartbeat, Outcome, PodOutcome, PodReport, StatusAck,
    StatusReport,
};
