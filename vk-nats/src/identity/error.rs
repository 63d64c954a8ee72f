//! What the API server's refusals mean for whoever asked.

use std::time::Duration;

use fleet_wire::message::{Outcome, Refusal, RefusalCode};
use http::{HeaderMap, StatusCode, header};
use kube::core::Status;

/// How long to wait when the API server says "too many requests" without saying for how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest pause that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a request for a device failed. The variant decides what happens next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The object does not exist, or is another one of the same name by now.
    #[error("{message}")]
    Gone {
        /// What the API server said.
        message: String,
    },
    /// It exists already.
    #[error("{message}")]
    AlreadyExists {
        /// What the API server said.
        message: String,
    },
    /// The content is refused; sending it again does not help.
    #[error("{message}")]
    Invalid {
        /// What the API server said.
        message: String,
    },
    /// The node may not do that (yet: the authorizer's graph lags behind a binding).
    #[error("{message}")]
    Forbidden {
        /// What the API server said.
        message: String,
    },
    /// Too many requests.
    #[error("the API server asks to wait {after:?}: {message}")]
    Throttled {
        /// How long to wait.
        after: Duration,
        /// What the API server said.
        message: String,
    },
    /// Not reachable, too slow, in conflict or broken: try again.
    #[error("{message}")]
    Unavailable {
        /// What happened.
        message: String,
    },
    /// Another process owns the fleet now.
    #[error("this process no longer owns the fleet, so it does not write")]
    NotOwner,
}

impl ApiError {
    /// From an answer that is not a success.
    pub fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let parsed: Status = serde_json::from_slice(body).unwrap_or_default();
        let message = if parsed.message.is_empty() {
            format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)]))
        } else {
            parsed.message.clone()
        };
        let uid_changed = parsed
            .details
            .as_ref()
            .is_some_and(|details| details.causes.iter().any(|cause| cause.field == "metadata.uid"));
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Self::Gone { message },
            StatusCode::CONFLICT if parsed.reason == "AlreadyExists" => Self::AlreadyExists { message },
            // "Precondition failed: UID in precondition: …, UID in object meta: …"
            StatusCode::CONFLICT if message.contains("UID in precondition") => Self::Gone { message },
            StatusCode::UNPROCESSABLE_ENTITY if uid_changed => Self::Gone { message },
            StatusCode::BAD_REQUEST
            | StatusCode::UNPROCESSABLE_ENTITY
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::Invalid { message },
            StatusCode::FORBIDDEN => Self::Forbidden { message },
            StatusCode::TOO_MANY_REQUESTS => Self::Throttled { after: retry_after(headers), message },
            StatusCode::SERVICE_UNAVAILABLE if headers.contains_key(header::RETRY_AFTER) => {
                Self::Throttled { after: retry_after(headers), message }
            }
            _ => Self::Unavailable { message },
        }
    }

    /// The variant's name, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "Gone",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Invalid { .. } => "Invalid",
            Self::Forbidden { .. } => "Forbidden",
            Self::Throttled { .. } => "Throttled",
            Self::Unavailable { .. } => "Unavailable",
            Self::NotOwner => "NotOwner",
        }
    }

    /// What a device is told about the part of its report that met this error.
    pub fn outcome(&self) -> Outcome {
        let refusal = |code| Refusal::new(code, self.to_string());
        match self {
            Self::Gone { .. } => Outcome::Gone,
            Self::Invalid { .. } => Outcome::Refused(refusal(RefusalCode::BadRequest)),
            Self::AlreadyExists { .. } => Outcome::Taken,
            Self::Throttled { .. } => Outcome::Later(refusal(RefusalCode::Busy)),
            Self::Forbidden { .. } | Self::Unavailable { .. } | Self::NotOwner => {
                Outcome::Later(refusal(RefusalCode::Unavailable))
            }
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Duration {
    headers
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .map_or(DEFAULT_RETRY_AFTER, Duration::from_secs)
        .min(MAX_RETRY_AFTER)
}
