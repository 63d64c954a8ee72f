//! What a client claims to be: CONNECT's fields, parsed once into one of the few combinations there are.
//!
//! | `nkey` + `sig` | `auth_token` | `user` | login |
//! |---|---|---|---|
//! | yes | – | – | [`Login::Registry`]: a device by its key |
//! | yes | yes | – | [`Login::Token`]: a device, a person or a component, as the token's issuer says |
//! | – | – | `enrollment:<id>` | [`Login::EnrollmentToken`]: somebody who knows a token's id |
//! | yes | – | `request` | [`Login::Applicant`]: a key that wants to become a device |
//!
//! Everything else is refused, so that no login can be taken for another. Nothing here is proved but
//! [`Proof::holds`].

use std::{fmt, str::FromStr as _};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use fleet_wire::{enrollment::TokenId, keys::IdentityKey};

use crate::claims::{Client, ConnectOptions, Secret};

/// User name of those who ask for membership with nothing but a key.
pub const REQUEST_USER: &str = "request";
/// Prefix of the user name of those who ask with a token.
pub const ENROLLMENT_PREFIX: &str = "enrollment:";
/// Longest bearer token that is looked at. The server's own limit for CONNECT is 4 KiB.
const MAX_BEARER: usize = 16 * 1024;

/// One of the ways to log in.
#[derive(Debug)]
pub enum Login {
    /// A device, by the key of its enrollment record.
    Registry(Proof),
    /// Whoever the token's issuer says, holding this key.
    Token(Proof, Secret),
    /// Who knows the id of an enrollment token.
    EnrollmentToken(TokenId),
    /// Who asks for membership.
    Applicant(Proof),
}

/// A public key, and a signature that shows possession of the private one.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The key.
    pub key: IdentityKey,
    nonce: String,
    signature: Vec<u8>,
}

/// The way to log in without what was given: a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// [`Login::Registry`]
    Registry,
    /// [`Login::Token`], before its issuer is known.
    Token,
    /// A token of the devices' identity provider.
    OidcDevice,
    /// A token of the persons' identity provider.
    OidcPerson,
    /// A token of the cluster.
    ServiceAccount,
    /// [`Login::EnrollmentToken`]
    EnrollmentToken,
    /// [`Login::Applicant`]
    Applicant,
    /// None of them.
    None,
}

impl Kind {
    /// For metrics and audit lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Token => "token",
            Self::OidcDevice => "oidc-device",
            Self::OidcPerson => "oidc-person",
            Self::ServiceAccount => "service-account",
            Self::EnrollmentToken => "enrollment-token",
            Self::Applicant => "applicant",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why CONNECT is none of the known logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LoginError {
    /// The client speaks another protocol than NATS over TCP.
    #[error("the client's protocol is not NATS: no other has logins here")]
    Protocol,
    /// Nothing that says who it is.
    #[error("CONNECT names nobody: neither nkey nor user")]
    Anonymous,
    /// A field that no login has.
    #[error("CONNECT has a NATS JWT or a password: no login has one")]
    Foreign,
    /// Fields that do not belong together.
    #[error("CONNECT mixes the fields of several logins")]
    Mixed,
    /// Key without signature, or signature without key or nonce.
    #[error("CONNECT has a key without a signature over the connection's nonce, or a signature alone")]
    Unsigned,
    /// The key is not the public key of a user, or the signature is not base64.
    #[error("CONNECT's nkey is not the public key of a user, or its signature is not base64")]
    Key,
    /// The user name is none of the known ones.
    #[error("CONNECT's user is neither `{REQUEST_USER}` nor `{ENROLLMENT_PREFIX}<token id>`")]
    User,
    /// The bearer token is too large.
    #[error("CONNECT's auth_token is larger than any token")]
    BearerSize,
}

impl LoginError {
    /// For metrics and audit lines.
    pub fn label(self) -> &'static str {
        match self {
            Self::Protocol => "protocol",
            Self::Anonymous => "anonymous",
            Self::Foreign => "foreign-fields",
            Self::Mixed => "mixed-fields",
            Self::Unsigned => "unsigned",
            Self::Key => "malformed-key",
            Self::User => "unknown-user",
            Self::BearerSize => "token-size",
        }
    }
}

impl Login {
    /// Parses what the server passed on.
    ///
    /// # Errors
    /// [`LoginError`] for every combination that is not in the table above.
    pub fn parse(connect: ConnectOptions, client: &Client) -> Result<Self, LoginError> {
        if client.kind != "nats" {
            return Err(LoginError::Protocol);
        }
        if !connect.jwt.is_empty() || !connect.pass.is_empty() {
            return Err(LoginError::Foreign);
        }
        let proof = Proof::parse(&connect, client)?;
        match (proof, connect.auth_token.is_empty(), connect.user.as_str()) {
            (Some(proof), true, "") => Ok(Self::Registry(proof)),
            (Some(proof), false, "") => {
                if connect.auth_token.reveal().len() > MAX_BEARER {
                    return Err(LoginError::BearerSize);
                }
                Ok(Self::Token(proof, connect.auth_token))
            }
            (Some(proof), true, REQUEST_USER) => Ok(Self::Applicant(proof)),
            (None, true, "") => Err(LoginError::Anonymous),
            (None, true, user) => match user.strip_prefix(ENROLLMENT_PREFIX).map(TokenId::from_str) {
                Some(Ok(id)) => Ok(Self::EnrollmentToken(id)),
                _ => Err(LoginError::User),
            },
            // A token alone proves nothing here: it may have been seen on another connection.
            (None, false, "") => Err(LoginError::Unsigned),
            _ => Err(LoginError::Mixed),
        }
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Registry(_) => Kind::Registry,
            Self::Token(..) => Kind::Token,
            Self::EnrollmentToken(_) => Kind::EnrollmentToken,
            Self::Applicant(_) => Kind::Applicant,
        }
    }

    /// The key that has to be proved, if any.
    pub fn proof(&self) -> Option<&Proof> {
        match self {
            Self::Registry(proof) | Self::Token(proof, _) | Self::Applicant(proof) => Some(proof),
            Self::EnrollmentToken(_) => None,
        }
    }
}

impl Proof {
    fn parse(connect: &ConnectOptions, client: &Client) -> Result<Option<Self>, LoginError> {
        if connect.nkey.is_empty() && connect.sig.is_empty() {
            return Ok(None);
        }
        // Without a nonce there is nothing that binds the signature to this connection.
        if connect.nkey.is_empty() || connect.sig.is_empty() || client.nonce.is_empty() {
            return Err(LoginError::Unsigned);
        }
        let key = connect.nkey.parse().map_err(|_| LoginError::Key)?;
        // As nats-server does: URL-safe first, then the other one.
        let signature = URL_SAFE_NO_PAD
            .decode(&connect.sig)
            .or_else(|_| STANDARD.decode(&connect.sig))
            .map_err(|_| LoginError::Key)?;
        Ok(Some(Self { key, nonce: client.nonce.clone(), signature }))
    }

    /// Whether the holder of the key signed this connection's nonce.
    pub fn holds(&self) -> bool {
        self.key.verifies(self.nonce.as_bytes(), &self.signature)
    }
}

#[cfg(test)]
#[path = "tests/login.rs"]
mod tests;
