//! A device's certificate request: is it the device's own, and what object does it become?
//!
//! No certificate is ever issued from it. The object is where somebody approves, with Kubernetes' own command
//! and rights; the request inside binds the approval to the name and to both keys.

use std::collections::BTreeMap;

use data_encoding::BASE32_NOPAD;
use fleet_wire::{
    enrollment::{CURVE_KEY, DEVICE_LABEL, FINGERPRINT, IDENTITY_KEY, SIGNER_NAME},
    keys::{CurveKey, IdentityKey, fingerprint},
    name::DeviceName,
};
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_SIG_ED25519,
    pem::parse_x509_pem,
    prelude::FromDer as _,
};

/// Scheme of the subject alternative name with the curve key.
const CURVE_URI: &str = "harmony-fleet:curve:";

/// Why a request is not the device's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Pkcs10Error {
    /// It is no PKCS#10 request in PEM.
    #[error("it is not one PKCS#10 request in PEM")]
    Pem,
    /// The common name is another one.
    #[error("its subject is not CN={0} alone")]
    Subject(DeviceName),
    /// The key is not the identity key.
    #[error("its key is not the identity key")]
    Key,
    /// The signature is not that of the identity key.
    #[error("it is not signed by the identity key")]
    Signature,
    /// The curve key is missing, or other names stand beside it.
    #[error("its only alternative name has to be the URI {CURVE_URI}<curve key>")]
    CurveKey,
    /// It asks for something besides alternative names.
    #[error("it asks for extensions besides the alternative name")]
    Extensions,
}

/// Checks that the request was made by the holder of the identity key for this name and curve key, and for
/// nothing else.
///
/// # Errors
/// [`Pkcs10Error`].
pub fn verify(
    pem: &[u8],
    device: &DeviceName,
    identity: &IdentityKey,
    curve: &CurveKey,
) -> Result<(), Pkcs10Error> {
    let (rest, pem) = parse_x509_pem(pem).map_err(|_| Pkcs10Error::Pem)?;
    if pem.label != "CERTIFICATE REQUEST" || !rest.trim_ascii().is_empty() {
        return Err(Pkcs10Error::Pem);
    }
    let (rest, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|_| Pkcs10Error::Pem)?;
    if !rest.is_empty() {
        return Err(Pkcs10Error::Pem);
    }
    let info = &request.certification_request_info;
    let mut attributes = info.subject.iter_attributes();
    let mut names = info.subject.iter_common_name().map(|name| name.as_str());
    if !matches!((names.next(), attributes.next(), attributes.next()),
        (Some(Ok(name)), Some(_), None) if name == device.as_str())
    {
        return Err(Pkcs10Error::Subject(device.clone()));
    }
    let key = &info.subject_pki;
    if key.algorithm.algorithm != OID_SIG_ED25519
        || Some(key.subject_public_key.data.as_ref()) != raw_key(identity).as_deref()
    {
        return Err(Pkcs10Error::Key);
    }
    if request.signature_algorithm.algorithm != OID_SIG_ED25519
        || !identity.verifies(info.raw, &request.signature_value.data)
    {
        return Err(Pkcs10Error::Signature);
    }
    let mut found = false;
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            return Err(Pkcs10Error::Extensions);
        };
        match names.general_names.as_slice() {
            [GeneralName::URI(uri)] if !found && uri.strip_prefix(CURVE_URI) == Some(curve.as_str()) => {
                found = true;
            }
            _ => return Err(Pkcs10Error::CurveKey),
        }
    }
    if found { Ok(()) } else { Err(Pkcs10Error::CurveKey) }
}

/// The 32 bytes of an nkey: in its text form a kind stands before them, and a checksum after them.
fn raw_key(key: &IdentityKey) -> Option<Vec<u8>> {
    let decoded = BASE32_NOPAD.decode(key.as_str().as_bytes()).ok()?;
    decoded.get(1..33).map(<[u8]>::to_vec)
}

/// Name of the object: `device-<name>-<8 hex of SHA-256 of the identity key>`.
pub fn object_name(device: &DeviceName, identity: &IdentityKey) -> String {
    let hash = Sha256::digest(identity.as_str());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("device-{device}-{hash}")
}

/// The object that waits for approval.
pub fn object(
    pem: &str,
    device: &DeviceName,
    identity: &IdentityKey,
    curve: &CurveKey,
) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(object_name(device, identity)),
            labels: Some(BTreeMap::from([(DEVICE_LABEL.to_owned(), "true".to_owned())])),
            annotations: Some(BTreeMap::from([
                (IDENTITY_KEY.to_owned(), identity.to_string()),
                (CURVE_KEY.to_owned(), curve.to_string()),
                (FINGERPRINT.to_owned(), fingerprint(identity, curve)),
            ])),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.as_bytes().to_vec()),
            signer_name: SIGNER_NAME.to_owned(),
            usages: Some(vec!["client auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// What somebody decided about a certificate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Pending,
    /// Yes.
    Approved,
    /// No. It stands also beside an approval.
    Denied,
}

/// What was decided.
pub fn verdict(request: &CertificateSigningRequest) -> Verdict {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut verdict = Verdict::Pending;
    for condition in conditions.filter(|condition| condition.status == "True") {
        match condition.type_.as_str() {
            "Denied" | "Failed" => return Verdict::Denied,
            "Approved" => verdict = Verdict::Approved,
            _ => {}
        }
    }
    verdict
}

/// A device that asked by itself, as its object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// The name that it wants.
    pub device: DeviceName,
    /// Its identity key.
    pub identity_key: IdentityKey,
    /// Its curve key.
    pub curve_key: CurveKey,
    /// What was decided.
    pub verdict: Verdict,
}

/// Reads an object of the device signer; `None` for every one that the enroller (`own` is its user name, which
/// the API server notes) did not make, or that is not consistent: who approves looks at annotations, and
/// another author could have put in others than the request has.
pub fn read(request: &CertificateSigningRequest, own: &str) -> Option<Applicant> {
    if request.spec.signer_name != SIGNER_NAME || request.spec.username.as_deref() != Some(own) {
        return None;
    }
    let annotations = request.metadata.annotations.as_ref()?;
    let identity_key: IdentityKey = annotations.get(IDENTITY_KEY)?.parse().ok()?;
    let curve_key: CurveKey = annotations.get(CURVE_KEY)?.parse().ok()?;
    if *annotations.get(FINGERPRINT)? != fingerprint(&identity_key, &curve_key) {
        return None;
    }
    let name = request.metadata.name.as_deref()?;
    let device: DeviceName = name.strip_prefix("device-")?.rsplit_once('-')?.0.parse().ok()?;
    if name != object_name(&device, &identity_key) {
        return None;
    }
    verify(&request.spec.request.0, &device, &identity_key, &curve_key).ok()?;
    Some(Applicant { device, identity_key, curve_key, verdict: verdict(request) })
}

#[cfg(test)]
#[path = "tests/pkcs10.rs"]
mod tests;
