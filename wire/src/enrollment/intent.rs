//! The wish to enroll a device, as a file that is carried to it.

use serde::{Deserialize, Serialize};

use super::{account::DeviceAccount, token::EnrollmentToken};
use crate::{keys::SignedKeyStatement, name::DeviceName};

/// What a device needs to ask for membership. It is no credential: the agent makes one from the answer, and
/// only that one is kept.
///
/// The file is JSON, readable by its owner only: it holds the token until that is used or expires, and with an
/// account a secret that is good for longer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrollmentIntent {
    /// The name that the device is to have.
    pub device: DeviceName,
    /// `tls://host:4222`; several are separated by commas.
    pub nats_url: String,
    /// CA of the NATS server's certificate (PEM); `None` trusts the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats_ca: Option<String>,
    /// The fleet's public root key (`O…`), pinned from now on.
    pub root_key: String,
    /// The fleet's curve keys and the enroller's, signed by the root key.
    pub keys: SignedKeyStatement,
    /// `id.secret`.
    pub token: EnrollmentToken,
    /// The device's account at an identity provider, if it is to show its tokens, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<DeviceAccount>,
}
