//! Frames of a stream: numbered bytes one way, credit the other.
//!
//! Data carries the absolute offset of its first byte; credit is an absolute offset too, and repeated, so
//! that a lost one cannot stall the stream. Frames that were seen are dropped by their offset.

use serde::{Deserialize, Serialize};

/// Most bytes in one data frame.
pub const MAX_CHUNK: usize = 32 * 1024;
/// How far ahead of the reader a log stream may be, in bytes.
pub const LOG_WINDOW: u64 = 256 * 1024;
/// Most log streams of one device at a time. Both sides hold to it, so that the cluster side asks for none that the
/// device would refuse. Each takes memory of a small machine, and 16 full windows are 4 MiB that one device may
/// have under way.
pub const MAX_LOG_STREAMS: usize = 16;
/// Seconds without a frame after which a side pings; after twice that it gives the stream up.
pub const PING_SECONDS: u64 = 5;

/// One frame. Encoded with postcard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Bytes from `offset` on.
    Data {
        /// Absolute offset of the first byte.
        offset: u64,
        /// At most [`MAX_CHUNK`].
        #[serde(with = "serde_bytes_vec")]
        bytes: Vec<u8>,
    },
    /// The reader has consumed up to here and grants up to `limit`.
    Credit {
        /// Everything before this offset has arrived.
        received: u64,
        /// Bytes before this offset may be sent.
        limit: u64,
    },
    /// Is anyone there? Answered with [`Frame::Pong`].
    Ping,
    /// Yes.
    Pong,
    /// The stream ends after `offset` bytes; `error` says why if it did not end well.
    End {
        /// Length of the stream.
        offset: u64,
        /// For people.
        error: Option<String>,
    },
    /// The reader went away; the writer stops.
    Cancel,
}

/// postcard writes `Vec<u8>` element by element unless told that it is bytes.
mod serde_bytes_vec {
    use serde::{Deserializer, Serializer, de::Visitor};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Why a frame was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame.
    #[error("not a stream frame")]
    Format,
    /// More than [`MAX_CHUNK`].
    #[error("a data frame of {0} bytes is over the limit of {MAX_CHUNK}")]
    TooLarge(usize),
}

impl Frame {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let capacity = match self {
            Self::Data { bytes, .. } => bytes.len() + 16,
            _ => 24,
        };
        match postcard::to_extend(self, Vec::with_capacity(capacity)) {
            Ok(bytes) => bytes,
            // postcard fails on sequences of unknown length and when the buffer is full; a frame has none of
            // the former, and a Vec grows.
            Err(error) => unreachable!("a frame is always written: {error}"),
        }
    }

    /// From bytes. What follows a frame is ignored, so that a newer minor version may append fields.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let frame: Self = postcard::from_bytes(bytes).map_err(|_| FrameError::Format)?;
        match &frame {
            Self::Data { bytes, .. } if bytes.len() > MAX_CHUNK => Err(FrameError::TooLarge(bytes.len())),
            _ => Ok(frame),
        }
    }
}
