//! Typed refusals: a request is answered with what was asked for, or with one of these.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a request was refused, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// The verb is not known here: the other side is newer.
    UnknownVerb,
    /// There is no such session here: say hello (again).
    UnknownSession,
    /// The body could not be read.
    Malformed,
    /// The body is larger than allowed.
    TooLarge,
    /// The device is enrolled with other keys, or not at all.
    NotEnrolled,
    /// Another incarnation of this device is connected (a cloned or restored disk).
    IdentityConflict,
    /// What was asked for does not exist.
    NotFound,
    /// What was asked for cannot be done in the present state, e.g. logs of a container that never ran.
    BadRequest,
    /// What was asked for cannot be done on this device.
    Unsupported,
    /// Too much at once: try again later.
    Busy,
    /// The API server could not be reached or did not answer: try again later.
    Unavailable,
    /// Something failed on the answering side.
    Internal,
    /// A code of a newer minor version, kept as it came.
    Other(String),
}

impl RefusalCode {
    /// The code as it stands on the wire; also used as a metric label.
    pub fn as_str(&self) -> &str {
        match self {
            Self::UnknownVerb => "UnknownVerb",
            Self::UnknownSession => "UnknownSession",
            Self::Malformed => "Malformed",
            Self::TooLarge => "TooLarge",
            Self::NotEnrolled => "NotEnrolled",
            Self::IdentityConflict => "IdentityConflict",
            Self::NotFound => "NotFound",
            Self::BadRequest => "BadRequest",
            Self::Unsupported => "Unsupported",
            Self::Busy => "Busy",
            Self::Unavailable => "Unavailable",
            Self::Internal => "Internal",
            Self::Other(code) => code,
        }
    }
}

impl From<String> for RefusalCode {
    fn from(code: String) -> Self {
        match code.as_str() {
            "UnknownVerb" => Self::UnknownVerb,
            "UnknownSession" => Self::UnknownSession,
            "Malformed" => Self::Malformed,
            "TooLarge" => Self::TooLarge,
            "NotEnrolled" => Self::NotEnrolled,
            "IdentityConflict" => Self::IdentityConflict,
            "NotFound" => Self::NotFound,
            "BadRequest" => Self::BadRequest,
            "Unsupported" => Self::Unsupported,
            "Busy" => Self::Busy,
            "Unavailable" => Self::Unavailable,
            "Internal" => Self::Internal,
            _ => Self::Other(code),
        }
    }
}

impl Serialize for RefusalCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RefusalCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A refusal: a code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what failed, why, what to do next.
    pub message: String,
}

impl Refusal {
    /// A refusal from its parts.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.as_str())
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply<T> {
    /// What was asked for.
    Ok(T),
    /// Why not.
    Refused(Refusal),
}

impl<T> Reply<T> {
    /// As a `Result`, for `?`.
    pub fn into_result(self) -> Result<T, Refusal> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Refused(refusal) => Err(refusal),
        }
    }
}

impl<T> From<Result<T, Refusal>> for Reply<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}
