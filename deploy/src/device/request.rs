//! What a certificate request really asks for: read from the signed request, not from what stands beside it.

use fleet_wire::{
    enrollment::{CURVE_KEY, FINGERPRINT, IDENTITY_KEY, SIGNER_NAME},
    keys::{CurveKey, IdentityKey, fingerprint},
    name::DeviceName,
};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use serde::Serialize;
use x509_parser::{
    certification_request::X509CertificationRequest, extensions::GeneralName, extensions::ParsedExtension,
    pem, prelude::FromDer as _,
};

/// URI in the request that carries the device's curve key.
const CURVE_URI: &str = "harmony-fleet:curve:";

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Decision {
    /// Nothing yet.
    Pending,
    /// Somebody let the device in.
    Approved,
    /// Somebody refused it.
    Denied,
}

/// A device's wish to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceRequest {
    /// Name of the CertificateSigningRequest.
    pub request: String,
    /// The name that the device wants.
    pub device: DeviceName,
    /// Its public identity key.
    pub identity_key: IdentityKey,
    /// Its public curve key.
    pub curve_key: CurveKey,
    /// Computed from both: what the device shows, too.
    pub fingerprint: String,
    /// What was decided.
    pub decision: Decision,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

/// Why a request is not to be approved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It belongs to another signer.
    #[error("its signer is {0}, not {SIGNER_NAME}: it is not a device's")]
    Signer(String),
    /// The PKCS#10 request cannot be read.
    #[error("the request in it cannot be read: {0}")]
    Unreadable(String),
    /// An annotation is missing or says something else than the signed request.
    #[error("{what} beside the request is not what the request says")]
    Contradiction {
        /// Which.
        what: &'static str,
    },
}

/// Whether a request is one of a device.
pub fn is_of_a_device(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == SIGNER_NAME
}

/// What was decided on a request.
pub fn decision(request: &CertificateSigningRequest) -> Decision {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut decision = Decision::Pending;
    for condition in conditions {
        match condition.type_.as_str() {
            "Denied" | "Failed" => return Decision::Denied,
            "Approved" => decision = Decision::Approved,
            _ => {}
        }
    }
    decision
}

impl DeviceRequest {
    /// Reads a request, and compares what stands beside it with what its key signed.
    ///
    /// # Errors
    /// [`RequestError`]: it should not be approved.
    pub fn parse(request: &CertificateSigningRequest) -> Result<Self, RequestError> {
        if !is_of_a_device(request) {
            return Err(RequestError::Signer(request.spec.signer_name.clone()));
        }
        let unreadable = |error: &dyn std::fmt::Display| RequestError::Unreadable(error.to_string());
        let (_, pem) = pem::parse_x509_pem(&request.spec.request.0).map_err(|error| unreadable(&error))?;
        let (rest, signed) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|error| unreadable(&error))?;
        if !rest.is_empty() {
            return Err(RequestError::Unreadable("something follows it".to_owned()));
        }
        let info = &signed.certification_request_info;
        let names: Vec<&str> =
            info.subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect();
        let device: DeviceName = match names.as_slice() {
            [name] => name.parse().map_err(|error| unreadable(&error))?,
            other => return Err(RequestError::Unreadable(format!("it has {} common names", other.len()))),
        };
        let curves: Vec<&str> = signed
            .requested_extensions()
            .into_iter()
            .flatten()
            .filter_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => uri.strip_prefix(CURVE_URI),
                _ => None,
            })
            .collect();
        let curve_key: CurveKey = match curves.as_slice() {
            [key] => key.parse().map_err(|error| unreadable(&error))?,
            other => return Err(RequestError::Unreadable(format!("it names {} curve keys", other.len()))),
        };
        let beside = |name: &str| request.metadata.annotations.as_ref().and_then(|all| all.get(name));
        // The request has the key's bytes only; its text form stands beside it.
        let identity_key: IdentityKey = beside(IDENTITY_KEY)
            .and_then(|key| key.parse().ok())
            .filter(|key: &IdentityKey| {
                nkeys::from_public_key(key.as_str())
                    .is_ok_and(|(_, raw)| raw[..] == *info.subject_pki.subject_public_key.data)
            })
            .ok_or(RequestError::Contradiction { what: "the identity key" })?;
        if beside(CURVE_KEY).is_some_and(|key| *key != curve_key.as_str()) {
            return Err(RequestError::Contradiction { what: "the curve key" });
        }
        let fingerprint = fingerprint(&identity_key, &curve_key);
        if beside(FINGERPRINT).is_some_and(|beside| *beside != fingerprint) {
            return Err(RequestError::Contradiction { what: "the fingerprint" });
        }
        Ok(Self {
            request: request.metadata.name.clone().unwrap_or_default(),
            device,
            identity_key,
            curve_key,
            fingerprint,
            decision: decision(request),
            created: request.metadata.creation_timestamp.as_ref().map(|time| time.0),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::{
        ByteString,
        api::certificates::v1::{
            CertificateSigningRequestCondition, CertificateSigningRequestSpec,
            CertificateSigningRequestStatus,
        },
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };
    use nkeys::{KeyPair, XKey};

    use super::*;

    /// An Ed25519 key in PKCS#8 version 1 (RFC 8410): 16 bytes of frame, then the seed.
    fn pkcs8(identity: &KeyPair) -> Vec<u8> {
        let (_, seed) = nkeys::decode_seed(&identity.seed().unwrap()).unwrap();
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
        ];
        der.extend(seed);
        der
    }

    pub(crate) fn request_of(device: &str) -> CertificateSigningRequest {
        let (identity, curve) = (KeyPair::new_user(), XKey::new());
        let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &pkcs8(&identity).as_slice().into(),
            &rcgen::PKCS_ED25519,
        )
        .unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, device);
        let uri = format!("{CURVE_URI}{}", curve.public_key());
        params.subject_alt_names = vec![rcgen::SanType::URI(uri.try_into().unwrap())];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let (identity, curve): (IdentityKey, CurveKey) =
            (identity.public_key().parse().unwrap(), curve.public_key().parse().unwrap());
        let annotations = BTreeMap::from([
            (FINGERPRINT.to_owned(), fingerprint(&identity, &curve)),
            (IDENTITY_KEY.to_owned(), identity.to_string()),
            (CURVE_KEY.to_owned(), curve.to_string()),
        ]);
        CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(format!("device-{device}-0123abcd")),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                signer_name: SIGNER_NAME.to_owned(),
                request: ByteString(pem.into_bytes()),
                usages: Some(vec!["client auth".to_owned()]),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }

    pub(crate) fn decided(mut request: CertificateSigningRequest, type_: &str) -> CertificateSigningRequest {
        let condition = CertificateSigningRequestCondition {
            type_: type_.to_owned(),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        };
        request.status =
            Some(CertificateSigningRequestStatus { conditions: Some(vec![condition]), certificate: None });
        request
    }

    #[test]
    fn a_request_says_what_its_key_signed() {
        let request = request_of("pi-7");
        let read = DeviceRequest::parse(&request).unwrap();
        assert_eq!(read.device.as_str(), "pi-7");
        assert_eq!(read.fingerprint, request.metadata.annotations.as_ref().unwrap()[FINGERPRINT]);
        assert_eq!(read.decision, Decision::Pending);
        for (condition, decision) in
            [("Approved", Decision::Approved), ("Denied", Decision::Denied), ("Failed", Decision::Denied)]
        {
            let read = DeviceRequest::parse(&decided(request.clone(), condition)).unwrap();
            assert_eq!(read.decision, decision);
        }
    }

    #[test]
    fn what_stands_beside_it_deceives_nobody() {
        let other = request_of("pi-8").metadata.annotations.unwrap();
        for what in [IDENTITY_KEY, CURVE_KEY, FINGERPRINT] {
            let mut request = request_of("pi-7");
            request.metadata.annotations.as_mut().unwrap().insert(what.to_owned(), other[what].clone());
            let error = DeviceRequest::parse(&request).unwrap_err();
            assert!(matches!(error, RequestError::Contradiction { .. }), "{what}: {error}");
        }
    }

    #[test]
    fn what_is_no_devices_request_is_refused() {
        let mut kubelet = request_of("pi-7");
        kubelet.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
        assert!(matches!(DeviceRequest::parse(&kubelet), Err(RequestError::Signer(_))));
        let mut garbage = request_of("pi-7");
        garbage.spec.request.0.truncate(80);
        assert!(matches!(DeviceRequest::parse(&garbage), Err(RequestError::Unreadable(_))));
        assert!(matches!(DeviceRequest::parse(&request_of("Pi.7")), Err(RequestError::Unreadable(_))));
    }
}
