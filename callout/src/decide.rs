//! May this client connect, and as whom? One pure function of what was proved, what is known, and the time.
//!
//! The order of the questions matters for what is counted: whoever cannot prove its key learns nothing, and
//! is counted by its address; only then is it asked what the key stands for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fleet_wire::{enrollment::TokenId, keys::IdentityKey, permissions::Identity};
use jiff::Timestamp;

use crate::{
    login::LoginError,
    registry::{Index, Member, Standing},
};

/// What is known of a login before it is decided.
#[derive(Debug)]
pub enum Facts<'a> {
    /// CONNECT was none of the logins.
    Malformed(LoginError),
    /// A device by its key.
    Registry(Key<'a>),
    /// A key, and what the token's verifier said.
    Token(Key<'a>, Result<Holder, TokenRefusal>),
    /// The id of an enrollment token.
    EnrollmentToken(&'a TokenId),
    /// A key that asks for membership.
    Applicant(Key<'a>),
}

/// A key of which possession was shown, or not.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// The public key.
    pub key: &'a IdentityKey,
    /// Whether this connection's nonce was signed with it.
    pub proven: bool,
}

/// Whom a verified token names. The verifier, chosen by the issuer, fixes the kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A machine user at the devices' identity provider.
    Device {
        /// `sub`
        subject: String,
        /// When the token ends.
        expires: Timestamp,
    },
    /// A person.
    Person {
        /// `sub`
        subject: String,
        /// Roles.
        roles: BTreeSet<String>,
        /// When the token ends.
        expires: Timestamp,
    },
    /// A service account of the cluster.
    ServiceAccount {
        /// `system:serviceaccount:<namespace>:<name>`
        user: String,
        /// When the token ends, if it says so.
        expires: Option<Timestamp>,
    },
}

/// Why a token names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenRefusal {
    /// No verifier is set up for its issuer.
    UnknownIssuer,
    /// The verifier refuses it, for this reason.
    Refused(&'static str),
    /// The verifier could not be asked, and does not remember.
    Unavailable,
    /// Too many unverified attempts came from this address to ask somebody again.
    RateLimited,
}

/// A part of the cluster side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// `vk-nats`.
    ClusterSide,
    /// The enroller.
    Enroller,
}

/// What the settings say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether keys that no record knows may ask for membership.
    pub device_requests: bool,
    /// Which service account is which component.
    pub components: BTreeMap<String, Component>,
    /// The role that makes a person an administrator.
    pub admin_role: String,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// In.
    Admit(Admission),
    /// Out.
    Refuse(Refusal),
}

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// As whom.
    pub identity: Identity,
    /// The device's entry, which holds its grant.
    pub member: Option<Arc<Member>>,
    /// No user may outlive this: the token's own end.
    pub not_after: Option<Timestamp>,
    /// Whether it showed something that only it can have. If not, the attempt counts by its address.
    pub verified: bool,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// CONNECT was none of the logins.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The signature is not that of the key over this connection's nonce.
    #[error("the signature is not that of the key over this connection's nonce")]
    Signature,
    /// No record has this key.
    #[error("no enrollment record has this identity key")]
    UnknownKey,
    /// The device was revoked.
    #[error("the device was revoked")]
    Revoked,
    /// The key was replaced.
    #[error("the identity key was replaced by another one, and is dead")]
    RetiredKey,
    /// There is no Node with the UID of the record.
    #[error("the device's Node does not exist, or is another one than that of its record")]
    WithoutNode,
    /// Two records have this key.
    #[error("several enrollment records have this identity key")]
    AmbiguousKey,
    /// The device must show a token, too.
    #[error("the device's record names a subject: it must show a token of the identity provider, too")]
    TokenRequired,
    /// The token is another device's, or the record names no subject.
    #[error("the token's subject is not the one of the device's record")]
    Subject,
    /// The token is not believed, for this reason.
    #[error("the token is not believed: {0}")]
    Token(&'static str),
    /// The token is over.
    #[error("the token has expired")]
    TokenExpired,
    /// No verifier for the token's issuer.
    #[error("nobody here verifies tokens of this issuer")]
    UnknownIssuer,
    /// Whoever verifies the token is away.
    #[error("the token's verifier cannot be reached, and did not see this token lately")]
    Unavailable,
    /// The person lacks the role.
    #[error("the person does not have the administrators' role")]
    Role,
    /// The service account is no component.
    #[error("the service account is none of the fleet's components")]
    Component,
    /// The session key of a person or component is the key of a device.
    #[error("the key belongs to a device: persons and components have their own")]
    DeviceKey,
    /// The setting `device-requests` is off.
    #[error("devices may not ask for membership: the setting `device-requests` is off")]
    RequestsOff,
    /// Too many attempts.
    #[error("too many attempts")]
    RateLimited,
}

impl Refusal {
    /// For metrics and audit lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Login(error) => error.label(),
            Self::Signature => "signature",
            Self::UnknownKey => "unknown-key",
            Self::Revoked => "revoked",
            Self::RetiredKey => "retired-key",
            Self::WithoutNode => "without-node",
            Self::AmbiguousKey => "ambiguous-key",
            Self::TokenRequired => "token-required",
            Self::Subject => "subject",
            Self::Token(reason) => reason,
            Self::TokenExpired => "token-expired",
            Self::UnknownIssuer => "unknown-issuer",
            Self::Unavailable => "verifier-unavailable",
            Self::Role => "role",
            Self::Component => "component",
            Self::DeviceKey => "device-key",
            Self::RequestsOff => "requests-off",
            Self::RateLimited => "rate-limited",
        }
    }
}

impl Refusal {
    /// Whether it was somebody who proved a key that is, or was, a device's. Such attempts do not count for
    /// the address, which a revoked device may share with others.
    pub fn is_of_known_key(self) -> bool {
        matches!(
            self,
            Self::Revoked
                | Self::RetiredKey
                | Self::WithoutNode
                | Self::AmbiguousKey
                | Self::TokenRequired
                | Self::Subject
        )
    }
}

impl From<Refusal> for Decision {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Decides.
pub fn decide(facts: Facts<'_>, index: &Index, policy: &Policy, now: Timestamp) -> Decision {
    match admit(facts, index, policy, now) {
        Ok(admission) => Decision::Admit(admission),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

fn admit(facts: Facts<'_>, index: &Index, policy: &Policy, now: Timestamp) -> Result<Admission, Refusal> {
    match facts {
        Facts::Malformed(error) => Err(error.into()),
        Facts::Registry(key) => {
            let member = member(key.proven()?, index)?;
            if member.subject.is_some() {
                return Err(Refusal::TokenRequired);
            }
            Ok(device(member, None))
        }
        Facts::Token(key, holder) => {
            let key = key.proven()?;
            let holder = holder.map_err(|refusal| match refusal {
                TokenRefusal::UnknownIssuer => Refusal::UnknownIssuer,
                TokenRefusal::Refused(reason) => Refusal::Token(reason),
                TokenRefusal::Unavailable => Refusal::Unavailable,
                TokenRefusal::RateLimited => Refusal::RateLimited,
            })?;
            with_token(key, holder, index, policy, now)
        }
        // Whether there is such a token only its Secret says, which is not for this process to read. The
        // enroller asks for the secret half.
        Facts::EnrollmentToken(id) => Ok(Admission {
            identity: Identity::TokenHolder(id.clone()),
            member: None,
            not_after: None,
            verified: false,
        }),
        Facts::Applicant(key) => applicant(key.proven()?, index, policy),
    }
}

fn with_token(
    key: &IdentityKey,
    holder: Holder,
    index: &Index,
    policy: &Policy,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    match holder {
        Holder::Device { subject, expires } => {
            unexpired(expires, now)?;
            let member = member(key, index)?;
            // Without a subject in the record no token makes it this device.
            if member.subject.as_deref() != Some(subject.as_str()) {
                return Err(Refusal::Subject);
            }
            Ok(device(member, Some(expires)))
        }
        Holder::Person { roles, expires, .. } => {
            unexpired(expires, now)?;
            own_key(key, index)?;
            if !roles.contains(&policy.admin_role) {
                return Err(Refusal::Role);
            }
            let identity = Identity::Administrator(key.clone());
            Ok(Admission { identity, member: None, not_after: Some(expires), verified: true })
        }
        Holder::ServiceAccount { user, expires } => {
            expires.map_or(Ok(()), |expires| unexpired(expires, now))?;
            own_key(key, index)?;
            let identity = match policy.components.get(&user) {
                Some(Component::ClusterSide) => Identity::ClusterSide,
                Some(Component::Enroller) => Identity::Enroller,
                None => return Err(Refusal::Component),
            };
            Ok(Admission { identity, member: None, not_after: expires, verified: true })
        }
    }
}

fn unexpired(expires: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if expires > now { Ok(()) } else { Err(Refusal::TokenExpired) }
}

fn applicant(key: &IdentityKey, index: &Index, policy: &Policy) -> Result<Admission, Refusal> {
    match index.standing(key) {
        // A member may ask again at its own door: the answer may have been lost on the way, and without it
        // the device does not know that it is one.
        Standing::Unknown | Standing::Member(_) => {}
        Standing::Revoked => return Err(Refusal::Revoked),
        Standing::Retired => return Err(Refusal::RetiredKey),
        Standing::WithoutNode => return Err(Refusal::WithoutNode),
        Standing::Ambiguous => return Err(Refusal::AmbiguousKey),
    }
    if !policy.device_requests {
        return Err(Refusal::RequestsOff);
    }
    // Anybody can make a key: this is no verified attempt.
    let identity = Identity::Applicant(key.clone());
    Ok(Admission { identity, member: None, not_after: None, verified: false })
}

fn device(member: Arc<Member>, not_after: Option<Timestamp>) -> Admission {
    let identity = Identity::Device(member.device.clone());
    Admission { identity, member: Some(member), not_after, verified: true }
}

fn member(key: &IdentityKey, index: &Index) -> Result<Arc<Member>, Refusal> {
    match index.standing(key) {
        Standing::Member(member) => Ok(member),
        Standing::Revoked => Err(Refusal::Revoked),
        Standing::WithoutNode => Err(Refusal::WithoutNode),
        Standing::Retired => Err(Refusal::RetiredKey),
        Standing::Ambiguous => Err(Refusal::AmbiguousKey),
        Standing::Unknown => Err(Refusal::UnknownKey),
    }
}

/// Persons and components hold keys of their own, so that a device's key never opens more than a device.
fn own_key(key: &IdentityKey, index: &Index) -> Result<(), Refusal> {
    match index.standing(key) {
        Standing::Unknown => Ok(()),
        _ => Err(Refusal::DeviceKey),
    }
}

impl<'a> Key<'a> {
    fn proven(self) -> Result<&'a IdentityKey, Refusal> {
        if self.proven { Ok(self.key) } else { Err(Refusal::Signature) }
    }
}

#[cfg(test)]
#[path = "tests/decide.rs"]
mod tests;
