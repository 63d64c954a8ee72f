//! How a message is sealed, and what its inside repeats of its outside.
//!
//! ```text
//! outside   "HF" | format | key version (u32 BE) | length | sender | sealed …
//! inside    header (postcard: binding, session, counter, epoch, …) | payload (JSON, deflated JSON or bytes)
//! ```
//!
//! Sealing is a NaCl box between the device's curve key and the fleet's (`nkeys` xkeys). A box has no
//! associated data, and both ends can open what either sealed; so the inside carries a binding: SHA-256
//! over direction, full subject, sender, recipient and key version. A message that was reflected, moved to
//! another subject or given to another device no longer matches, and is refused.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    deflate,
    keys::{Agreement, BOX_OVERHEAD},
    name::{DeviceName, KeyVersion, OwnerEpoch},
};

/// Largest message on the wire, in bytes. Larger content travels in pages.
pub const MAX_MESSAGE: usize = 256 * 1024;
/// Largest page of a bundle, in bytes before base64 and sealing.
pub const MAX_PAGE: usize = 96 * 1024;
/// Largest payload after inflation, in bytes: a small message cannot unpack into a large one.
pub const MAX_PAYLOAD: usize = 2 * 1024 * 1024;
/// Payloads up to this size are not worth compressing, in bytes.
const COMPRESS_ABOVE: usize = 256;
/// Format of the outside and of the header.
const FORMAT: u8 = 1;
const MAGIC: &[u8; 2] = b"HF";
/// Room for a header, in bytes: most take less.
const MAX_HEADER: usize = 128;
/// What sealing adds at most besides the payload: outside, box, header.
pub const OVERHEAD: usize = 256;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Device → cluster.
    Up,
    /// Cluster → device.
    Down,
}

/// 16 bytes that name a session; derived from both sides' nonces.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Enough to join the logs of both sides.
        write!(f, "{:02x}{:02x}{:02x}{:02x}", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// A random number used once, by which a side knows that an answer is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// A fresh one.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// What a message says of itself, under the seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    binding: [u8; 32],
    /// The session; `None` only for hello, its refusal, and `rehello`.
    pub session: Option<SessionId>,
    /// Counter within session and direction, from 1; for stream frames the frame's number.
    pub counter: u64,
    /// For an answer: the counter of the request.
    pub answers: Option<u64>,
    /// The cluster side's incarnation; 0 from devices.
    pub epoch: OwnerEpoch,
    /// The hello's nonce, or the answer's.
    pub nonce: Option<Nonce>,
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Encoding {
    Json,
    DeflatedJson,
    Bytes,
}

/// What stays the same for a header while its payload varies.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    /// See [`Header::session`].
    pub session: Option<SessionId>,
    /// See [`Header::counter`].
    pub counter: u64,
    /// See [`Header::answers`].
    pub answers: Option<u64>,
    /// See [`Header::epoch`].
    pub epoch: OwnerEpoch,
    /// See [`Header::nonce`].
    pub nonce: Option<Nonce>,
}

/// Where a message travels: all that its inside must repeat.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    /// Which way.
    pub direction: Direction,
    /// The subject on which it is published.
    pub subject: &'a str,
    /// The device at one end; the fleet is at the other.
    pub device: &'a DeviceName,
    /// Version of the fleet's curve key.
    pub key_version: KeyVersion,
}

impl Route<'_> {
    fn binding(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        // Lengths in front, so that no two routes hash the same bytes.
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        field(b"harmony-fleet envelope v1");
        field(match self.direction {
            Direction::Up => b"up",
            Direction::Down => b"down",
        });
        field(self.subject.as_bytes());
        field(self.device.as_str().as_bytes());
        field(&self.key_version.0.to_be_bytes());
        hash.finalize().into()
    }

    /// Empty for the fleet; a device's name is never empty.
    fn sender(&self) -> &str {
        match self.direction {
            Direction::Up => self.device.as_str(),
            Direction::Down => "",
        }
    }
}

/// Why a message was not sealed, or not accepted. Each variant is a metric label ([`EnvelopeError::label`]).
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// More than [`MAX_MESSAGE`] or [`MAX_PAYLOAD`].
    #[error("message of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes found.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not an envelope, or of another format.
    #[error("not an envelope of format {FORMAT}: {0}")]
    Format(&'static str),
    /// The outside names another sender than the subject does.
    #[error("the envelope's sender {found:?} is not {expected:?}, whom the subject names")]
    Sender {
        /// From the subject.
        expected: String,
        /// From the envelope.
        found: String,
    },
    /// The fleet's curve key of that version is not known here.
    #[error("version {0} of the fleet's curve key is not known here")]
    KeyVersion(KeyVersion),
    /// Not sealed between these two keys, or changed on the way.
    #[error("the seal does not open: other keys, or changed on the way")]
    Seal,
    /// The inside does not repeat the outside: reflected, moved or misdirected.
    #[error("the message was sealed for another subject, direction, device or key version")]
    Binding,
    /// The session is not the live one.
    #[error("the message belongs to another session")]
    Session,
    /// Seen before, or too old to tell.
    #[error("message {counter} was seen before, or is too old to tell")]
    Replayed {
        /// Its counter.
        counter: u64,
    },
    /// Sent by an older incarnation of the cluster side.
    #[error("sent in owner epoch {found}, but epoch {seen} was seen before")]
    Epoch {
        /// Highest epoch seen.
        seen: OwnerEpoch,
        /// The message's.
        found: OwnerEpoch,
    },
    /// The payload is not what this verb carries.
    #[error("the payload cannot be read: {0}")]
    Payload(#[source] serde_json::Error),
    /// The payload does not inflate.
    #[error("the payload does not inflate")]
    Inflate,
}

impl EnvelopeError {
    /// The variant's name, for metrics and for "logged once per device and kind".
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "TooLarge",
            Self::Format(_) => "Format",
            Self::Sender { .. } => "Sender",
            Self::KeyVersion(_) => "KeyVersion",
            Self::Seal => "Seal",
            Self::Binding => "Binding",
            Self::Session => "Session",
            Self::Replayed { .. } => "Replayed",
            Self::Epoch { .. } => "Epoch",
            Self::Payload(_) => "Payload",
            Self::Inflate => "Inflate",
        }
    }
}

/// Seals bytes as they stand: stream frames.
pub fn seal_bytes(
    route: Route<'_>,
    stamp: Stamp,
    agreement: &Agreement,
    payload: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    seal_encoded(route, stamp, agreement, Encoding::Bytes, payload)
}

/// Seals a body as JSON, compressed when that pays.
pub fn seal<T: Serialize>(
    route: Route<'_>,
    stamp: Stamp,
    agreement: &Agreement,
    body: &T,
) -> Result<Vec<u8>, EnvelopeError> {
    let json = serde_json::to_vec(body).map_err(EnvelopeError::Payload)?;
    if json.len() > MAX_PAYLOAD {
        return Err(EnvelopeError::TooLarge { size: json.len(), limit: MAX_PAYLOAD });
    }
    if json.len() > COMPRESS_ABOVE
        && let Some(deflated) = deflate::deflate(&json)
    {
        return seal_encoded(route, stamp, agreement, Encoding::DeflatedJson, &deflated);
    }
    seal_encoded(route, stamp, agreement, Encoding::Json, &json)
}

fn inflate(deflated: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let json = deflate::inflate(deflated, MAX_PAYLOAD).map_err(|_| EnvelopeError::Inflate)?;
    if json.len() > MAX_PAYLOAD {
        return Err(EnvelopeError::TooLarge { size: json.len(), limit: MAX_PAYLOAD });
    }
    Ok(json)
}

fn seal_encoded(
    route: Route<'_>,
    stamp: Stamp,
    agreement: &Agreement,
    encoding: Encoding,
    payload: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let header = Header {
        binding: route.binding(),
        session: stamp.session,
        counter: stamp.counter,
        answers: stamp.answers,
        epoch: stamp.epoch,
        nonce: stamp.nonce,
        encoding,
    };
    let sender = route.sender();
    let outside = MAGIC.len() + 1 + 4 + 1 + sender.len() + BOX_OVERHEAD;
    // Before the work of sealing; the header is in the exact size, which is checked below.
    if outside + payload.len() > MAX_MESSAGE {
        return Err(EnvelopeError::TooLarge { size: outside + payload.len(), limit: MAX_MESSAGE });
    }
    let mut message = Vec::with_capacity(outside + MAX_HEADER + payload.len());
    message.extend_from_slice(MAGIC);
    message.push(FORMAT);
    message.extend_from_slice(&route.key_version.0.to_be_bytes());
    message.push(sender.len() as u8);
    message.extend_from_slice(sender.as_bytes());
    agreement.seal_after(&mut message, |message| {
        *message = postcard::to_extend(&header, std::mem::take(message))
            .map_err(|_| EnvelopeError::Format("the header cannot be written"))?;
        message.extend_from_slice(payload);
        match message.len() {
            0..=MAX_MESSAGE => Ok(()),
            size => Err(EnvelopeError::TooLarge { size, limit: MAX_MESSAGE }),
        }
    })?;
    Ok(message)
}

/// The readable outside of a message. Nothing in it is to be trusted before [`Outside::open`].
#[derive(Debug)]
pub struct Outside<'a> {
    /// Which version of the fleet's curve key it was sealed with or for.
    pub key_version: KeyVersion,
    sender: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Outside<'a> {
    /// Splits a message.
    pub fn parse(message: &'a [u8]) -> Result<Self, EnvelopeError> {
        if message.len() > MAX_MESSAGE {
            return Err(EnvelopeError::TooLarge { size: message.len(), limit: MAX_MESSAGE });
        }
        let rest = message.strip_prefix(MAGIC).ok_or(EnvelopeError::Format("no magic"))?;
        let (&format, rest) = rest.split_first().ok_or(EnvelopeError::Format("cut short"))?;
        if format != FORMAT {
            return Err(EnvelopeError::Format("another format version"));
        }
        let (version, rest) = rest.split_first_chunk::<4>().ok_or(EnvelopeError::Format("cut short"))?;
        let (&length, rest) = rest.split_first().ok_or(EnvelopeError::Format("cut short"))?;
        let (sender, sealed) =
            rest.split_at_checked(usize::from(length)).ok_or(EnvelopeError::Format("cut short"))?;
        Ok(Self { key_version: KeyVersion(u32::from_be_bytes(*version)), sender, sealed })
    }

    /// Unseals and checks that the inside repeats the route. The route's key version must be
    /// [`Outside::key_version`]. Session, counter and epoch are the session's to check.
    pub fn open(&self, route: Route<'_>, agreement: &Agreement) -> Result<Opened, EnvelopeError> {
        if self.sender != route.sender().as_bytes() {
            return Err(EnvelopeError::Sender {
                expected: route.sender().to_owned(),
                found: String::from_utf8_lossy(self.sender).into_owned(),
            });
        }
        let mut inside = agreement.open(self.sealed)?;
        let (header, payload): (Header, &[u8]) = postcard::take_from_bytes(&inside)
            .map_err(|_| EnvelopeError::Format("the header cannot be read"))?;
        if header.binding != route.binding() || self.key_version != route.key_version {
            return Err(EnvelopeError::Binding);
        }
        let payload = match header.encoding {
            Encoding::DeflatedJson => inflate(payload)?,
            Encoding::Json | Encoding::Bytes => {
                let header = inside.len() - payload.len();
                inside.drain(..header);
                inside
            }
        };
        Ok(Opened { header, payload })
    }
}

/// An unsealed message.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What it says of itself.
    pub header: Header,
    /// JSON or bytes.
    pub payload: Vec<u8>,
}

impl Opened {
    /// The body as JSON of type `T`; nesting is limited by serde_json (128).
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, EnvelopeError> {
        if self.header.encoding == Encoding::Bytes {
            return Err(EnvelopeError::Format("bytes where a body was expected"));
        }
        serde_json::from_slice(&self.payload).map_err(EnvelopeError::Payload)
    }

    /// The bytes of a stream frame.
    pub fn bytes(&self) -> Result<&[u8], EnvelopeError> {
        if self.header.encoding == Encoding::Bytes {
            Ok(&self.payload)
        } else {
            Err(EnvelopeError::Format("a body where bytes were expected"))
        }
    }
}
