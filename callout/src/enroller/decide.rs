//! May these keys become, or stay, this device? Pure: data in, decision out.

use fleet_wire::{
    enrollment::{EnrollRequest, EnrollStatement, Enrollment, Record, RecordState, TokenRecord},
    keys::{CurveKey, IdentityKey},
    message::{Refusal, RefusalCode},
    name::DeviceName,
};
use k8s_openapi::jiff::Timestamp;

use super::view::{KeyUse, NodeSeen};

/// Why not. `Display` is for the audit line; what the device is told, [`Denial::refusal`] says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// There is no such token.
    #[error("there is no such enrollment token")]
    NoToken,
    /// The token's Secret cannot be read.
    #[error("the enrollment token is damaged: {0}")]
    DamagedToken(String),
    /// The request was not made with the token's secret.
    #[error("the request was not made with the secret of the enrollment token")]
    Secret,
    /// The token is for another device.
    #[error("the enrollment token is for the device {0}")]
    OtherName(DeviceName),
    /// The token expired.
    #[error("the enrollment token expired at {0}")]
    Expired(Timestamp),
    /// Other keys used the token.
    #[error("the enrollment token was used by other keys")]
    Used,
    /// The key is another device's.
    #[error("this identity key is that of the device {0}")]
    KeyTaken(DeviceName),
    /// The key was a device's once.
    #[error("this identity key was that of the device {0}, and is dead")]
    KeyDead(DeviceName),
    /// A live device has this name and other keys.
    #[error("a device of this name is enrolled with other keys")]
    NameTaken,
    /// A Node of this name is not this device's.
    #[error("there is a Node of this name that is not this device's")]
    ForeignNode,
    /// The proof belongs to another door.
    #[error("the proof is not the one that this way of asking needs")]
    WrongProof,
    /// The device's own door, and another name.
    #[error("the request names another device than the one that asks")]
    OtherDevice,
    /// The device's door, and no member.
    #[error("the device is not enrolled")]
    NotAMember,
    /// The old identity key did not sign.
    #[error("the request is not signed by the device's present identity key")]
    NotVouched,
    /// A rotation that keeps a key.
    #[error("a rotation brings new keys of both kinds")]
    OldKeys,
    /// The certificate request is not the device's.
    #[error("the certificate request is not accepted: {0}")]
    CertificateRequest(String),
    /// Somebody denied the certificate request.
    #[error("the request was denied")]
    Denied,
    /// Too many wait already.
    #[error("too many devices wait for approval")]
    Crowded,
    /// It asked too often.
    #[error("asked too often")]
    TooOften,
    /// The API server did not do its part.
    #[error("the API server did not answer as it should: {0}")]
    Unavailable(String),
}

impl Denial {
    /// Name for metrics and Events.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoToken => "NoToken",
            Self::DamagedToken(_) => "DamagedToken",
            Self::Secret => "Secret",
            Self::OtherName(_) => "OtherName",
            Self::Expired(_) => "Expired",
            Self::Used => "Used",
            Self::KeyTaken(_) => "KeyTaken",
            Self::KeyDead(_) => "KeyDead",
            Self::NameTaken => "NameTaken",
            Self::ForeignNode => "ForeignNode",
            Self::WrongProof => "WrongProof",
            Self::OtherDevice => "OtherDevice",
            Self::NotAMember => "NotAMember",
            Self::NotVouched => "NotVouched",
            Self::OldKeys => "OldKeys",
            Self::CertificateRequest(_) => "CertificateRequest",
            Self::Denied => "Denied",
            Self::Crowded => "Crowded",
            Self::TooOften => "TooOften",
            Self::Unavailable(_) => "Unavailable",
        }
    }

    /// What the device is told. It learns nothing of tokens whose secret it does not have, and nothing of
    /// other devices.
    pub fn refusal(&self) -> Refusal {
        let (code, message) = match self {
            Self::NoToken | Self::DamagedToken(_) | Self::Secret => (
                RefusalCode::NotEnrolled,
                "the enrollment token is not valid; make a new one with `fleet device enroll`".to_owned(),
            ),
            Self::OtherName(_) => (
                RefusalCode::NotEnrolled,
                "the enrollment token is for a device of another name".to_owned(),
            ),
            Self::Expired(_) | Self::Used => (
                RefusalCode::NotEnrolled,
                format!("{self}; make a new one with `fleet device enroll`"),
            ),
            Self::KeyTaken(_) | Self::KeyDead(_) => (
                RefusalCode::NotEnrolled,
                "these keys belong or belonged to a device and cannot be enrolled again; remove the keys in the data folder, so that new ones are made".to_owned(),
            ),
            Self::NameTaken => (
                RefusalCode::NotEnrolled,
                format!("{self}; choose another name, or remove that one with `kubectl delete node`"),
            ),
            Self::ForeignNode => {
                (RefusalCode::NotEnrolled, format!("{self}; choose another name, or remove that Node"))
            }
            Self::WrongProof | Self::OtherDevice | Self::OldKeys | Self::CertificateRequest(_) => {
                (RefusalCode::BadRequest, self.to_string())
            }
            Self::NotAMember | Self::NotVouched | Self::Denied => {
                (RefusalCode::NotEnrolled, self.to_string())
            }
            Self::Crowded | Self::TooOften => (RefusalCode::Busy, format!("{self}; try again later")),
            Self::Unavailable(_) => (
                RefusalCode::Unavailable,
                "the cluster could not write the enrollment; try again later".to_owned(),
            ),
        };
        Refusal::new(code, message)
    }
}

/// What is known of a name and of keys that ask for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Which record names the identity key.
    pub key: Option<&'a KeyUse>,
    /// The record of the name.
    pub record: Option<&'a Record>,
    /// The Node of the name.
    pub node: Option<&'a NodeSeen>,
}

/// What makes keys that may become a device one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// They are the device already: the same answer again.
    Again,
    /// The name is free: a new record.
    Claim,
    /// The name was revoked: its record takes the new keys, the old ones stay dead.
    Reclaim,
}

/// Whether the keys may become the device.
///
/// # Errors
/// [`Denial`].
pub fn may_become(
    device: &DeviceName,
    (identity, curve): (&IdentityKey, &CurveKey),
    known: Known<'_>,
) -> Result<Admission, Denial> {
    match known.key {
        Some(found) if !found.live => return Err(Denial::KeyDead(found.device.clone())),
        Some(found) if found.device != *device => return Err(Denial::KeyTaken(found.device.clone())),
        _ => {}
    }
    let admission = match known.record {
        None => Admission::Claim,
        Some(record) if record.retired.contains(identity) => return Err(Denial::KeyDead(device.clone())),
        Some(record) if record.state != RecordState::Enrolled => {
            if record.enrollment.identity_key == *identity {
                return Err(Denial::KeyDead(device.clone()));
            }
            Admission::Reclaim
        }
        Some(Record { enrollment, .. })
            if enrollment.identity_key == *identity && enrollment.curve_key == *curve =>
        {
            return Ok(Admission::Again);
        }
        Some(_) => return Err(Denial::NameTaken),
    };
    match known.node {
        Some(node) if !is_node_of(node, identity) => Err(Denial::ForeignNode),
        _ => Ok(admission),
    }
}

/// Whether a Node was made for this identity key.
pub fn is_node_of(node: &NodeSeen, identity: &IdentityKey) -> bool {
    node.of_this_fleet && !node.terminating && node.identity_key.as_deref() == Some(identity.as_str())
}

/// What a token lets become a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// How.
    pub admission: Admission,
    /// Whether the token has to be marked as used before anything else.
    pub mark: bool,
}

/// A request by token.
///
/// # Errors
/// [`Denial`].
pub fn by_token(
    token: Option<&TokenRecord>,
    (statement, request): (&EnrollStatement, &EnrollRequest),
    known: Known<'_>,
    now: Timestamp,
) -> Result<TokenGrant, Denial> {
    let token = token.ok_or(Denial::NoToken)?;
    if !request.vouched_by_token(&token.token) {
        return Err(Denial::Secret);
    }
    if statement.device != token.device {
        return Err(Denial::OtherName(token.device.clone()));
    }
    let mark = match &token.used_by {
        // Used in time: what was begun is finished, and the same answer is given again.
        Some((identity, curve)) if *identity == statement.identity_key && *curve == statement.curve_key => {
            false
        }
        Some(_) => return Err(Denial::Used),
        None if token.expires <= now => return Err(Denial::Expired(token.expires)),
        None => true,
    };
    let keys = (&statement.identity_key, &statement.curve_key);
    let admission = may_become(&statement.device, keys, known)?;
    // Members have no use for a token; it is not spent on them.
    Ok(TokenGrant { mark: mark && admission != Admission::Again, admission })
}

/// A rotation of a device's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// They are the device's already: the same answer again.
    Again,
    /// The record with the new keys.
    Replace(Box<Record>),
}

/// A request for new keys by `device`, as NATS knows the sender.
///
/// # Errors
/// [`Denial`].
pub fn rotation(
    device: &DeviceName,
    (statement, request): (&EnrollStatement, &EnrollRequest),
    known: Known<'_>,
) -> Result<Rotation, Denial> {
    if statement.device != *device {
        return Err(Denial::OtherDevice);
    }
    let member = known.record.filter(|record| known.node.is_some_and(|node| record.admits(&node.uid)));
    let record = member.ok_or(Denial::NotAMember)?;
    let present = &record.enrollment;
    if present.identity_key == statement.identity_key && present.curve_key == statement.curve_key {
        // Its request was signed by that key.
        return Ok(Rotation::Again);
    }
    if !request.vouched_by_key(&present.identity_key) {
        return Err(Denial::NotVouched);
    }
    if present.identity_key == statement.identity_key || present.curve_key == statement.curve_key {
        return Err(Denial::OldKeys);
    }
    match known.key {
        Some(found) if found.live => return Err(Denial::KeyTaken(found.device.clone())),
        Some(found) => return Err(Denial::KeyDead(found.device.clone())),
        None => {}
    }
    let mut next = record.clone();
    next.retired.push(next.enrollment.identity_key.clone());
    next.enrollment.identity_key = statement.identity_key.clone();
    next.enrollment.curve_key = statement.curve_key.clone();
    Ok(Rotation::Replace(Box::new(next)))
}

/// The record that claims a name for an enrollment. It has no Node yet; a revoked one that had the name
/// before leaves its keys, which stay dead.
pub fn claim(enrollment: Enrollment, before: Option<&Record>) -> Record {
    let mut record = Record::new(enrollment, "");
    if let Some(before) = before {
        record.retired = before.retired.clone();
        record.retired.push(before.enrollment.identity_key.clone());
    }
    record
}

#[cfg(test)]
#[path = "tests/decide.rs"]
mod tests;
