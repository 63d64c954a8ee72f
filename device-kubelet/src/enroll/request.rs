//! The request to enroll: signed by the identity key, vouched for by a token, a person, or the old key.

use fleet_wire::{
    enrollment::{Door, EnrollRequest, EnrollStatement, SealError, seal_request},
    keys::CurveKey,
    name::DeviceName,
};
use nkeys::KeyPair;
use rcgen::{CertificateParams, DnType, PKCS_ED25519, SanType};
use zeroize::Zeroizing;

use super::{EnrollError, Invitation};
use crate::keys::{DeviceKeys, KeysError};

/// What PKCS#8 (RFC 8410) writes in front of the 32 bytes of an Ed25519 key.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// Scheme of the URI by which a certificate request names the curve key.
const CURVE_URI: &str = "harmony-fleet:curve:";

/// A request, ready to be sent; the statement is needed to open the answer.
#[derive(Debug)]
pub struct Asked {
    /// What was signed.
    pub statement: EnrollStatement,
    /// Sealed to the enroller.
    pub message: Vec<u8>,
}

/// A request of a device that is no member.
///
/// # Errors
/// When a key cannot be used.
pub fn to_enroll(
    door: &Door,
    device: &DeviceName,
    keys: &DeviceKeys,
    invitation: &Invitation,
    enroller: &CurveKey,
) -> Result<Asked, EnrollError> {
    let statement = statement(door, device, keys);
    let identity = keys.identity_pair()?;
    let request = match invitation {
        Invitation::Token(token) => statement.with_token(&identity, token),
        Invitation::Request => {
            statement.with_certificate_request(&identity, certificate_request(device, keys)?)
        }
    };
    sealed(statement, request, keys, enroller)
}

/// A request of a member for new keys, vouched for by the old one.
///
/// # Errors
/// When a key cannot be used.
pub fn to_rotate(
    device: &DeviceName,
    next: &DeviceKeys,
    old: &KeyPair,
    enroller: &CurveKey,
) -> Result<Asked, EnrollError> {
    let statement = statement(&Door::Device(device.clone()), device, next);
    let request = statement.with_rotation(&next.identity_pair()?, old);
    sealed(statement, request, next, enroller)
}

fn statement(door: &Door, device: &DeviceName, keys: &DeviceKeys) -> EnrollStatement {
    EnrollStatement::new(door, device.clone(), keys.identity().clone(), keys.curve_public().clone())
}

fn sealed(
    statement: EnrollStatement,
    request: Result<EnrollRequest, SealError>,
    keys: &DeviceKeys,
    enroller: &CurveKey,
) -> Result<Asked, EnrollError> {
    let message = request
        .and_then(|request| seal_request(&request, keys.curve(), enroller))
        .map_err(EnrollError::Request)?;
    Ok(Asked { statement, message })
}

/// PKCS#10 (PEM) with the identity key: what somebody approves with `kubectl certificate approve`.
///
/// # Errors
/// When the key cannot be used.
pub fn certificate_request(device: &DeviceName, keys: &DeviceKeys) -> Result<String, EnrollError> {
    let garbage =
        || KeysError::Garbage { path: "identity.nk".into(), expected: "the seed of a user nkey (SU…)" };
    let (_, raw) = nkeys::decode_seed(keys.identity_seed()).map_err(|_| garbage())?;
    let raw = Zeroizing::new(raw);
    let pkcs8 = Zeroizing::new([PKCS8_ED25519.as_slice(), raw.as_slice()].concat());
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.as_slice().into(), &PKCS_ED25519)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, device.as_str());
    parameters.subject_alt_names =
        vec![SanType::URI(format!("{CURVE_URI}{}", keys.curve_public()).try_into()?)];
    Ok(parameters.serialize_request(&key)?.pem()?)
}

#[cfg(test)]
#[path = "tests/request.rs"]
mod tests;
