//! What the two sides say to each other, after it has been unsealed.
//!
//! Bodies are JSON. Fields that one side does not know are ignored, missing ones have defaults, and
//! variants that it does not know survive as `Other`: either side may be one minor version ahead.
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
pub use hello::{HelloReply, HelloRequest, PROTOCOL, ProtocolVersion, Rehello, Revoked};
pub use logs::{LogsReply, LogsRequest};
pub use refusal::{Refusal, RefusalCode, Reply};
pub use report::{
    EventRecord, EventType, EventsAck, EventsReport, Heartbeat, Outcome, PodOutcome, PodReport, StatusAck,
    StatusReport,
};
