#![allow(clippy::unwrap_used)]

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use x509_parser::{
    certification_request::X509CertificationRequest, extensions::GeneralName, extensions::ParsedExtension,
    pem::parse_x509_pem, prelude::FromDer as _,
};

use super::*;

fn wanted(identity: &str) -> Wanted {
    Wanted {
        identity: identity.to_owned(),
        address: [10, 0, 0, 5].into(),
        lifetime: Duration::from_secs(604_800),
    }
}

#[test]
fn a_request_is_what_the_signer_takes_and_the_enroller_approves() {
    let Asked { object, key } = Asked::new(&wanted("vk-nats-0")).unwrap();
    assert_eq!(object.spec.signer_name, SIGNER);
    assert_eq!(object.spec.usages.as_deref().unwrap(), ["digital signature", "server auth"]);
    assert_eq!(object.spec.expiration_seconds, Some(604_800));
    assert_eq!(key.algorithm(), &rcgen::PKCS_ECDSA_P256_SHA256);
    let (_, pem) = parse_x509_pem(&object.spec.request.0).unwrap();
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    let subject = request.certification_request_info.subject.to_string();
    assert_eq!(subject, "O=system:nodes, CN=system:node:vk-nats-0");
    let extensions: Vec<_> = request.requested_extensions().unwrap().collect();
    let [ParsedExtension::SubjectAlternativeName(names)] = extensions[..] else { panic!("{extensions:?}") };
    assert_eq!(names.general_names, [GeneralName::IPAddress(&[10, 0, 0, 5])]);
}

#[test]
fn every_identity_is_a_common_name() {
    assert_eq!(wanted("server-1").common_name(), "system:node:vk-nats-server-1");
    assert_eq!(wanted("über pod").common_name(), "system:node:vk-nats--ber-pod");
    let long = format!("vk-nats-{}-7d9f", "x".repeat(200));
    let name = wanted(&long).common_name();
    assert!(name.len() == LONGEST && name.ends_with("-7d9f"), "{name}");
}

fn answered(conditions: &[(&str, &str)], certificate: Option<&str>) -> CertificateSigningRequest {
    let condition = |(kind, reason): &(&str, &str)| CertificateSigningRequestCondition {
        type_: (*kind).to_owned(),
        status: "True".to_owned(),
        reason: Some((*reason).to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    CertificateSigningRequest {
        status: Some(CertificateSigningRequestStatus {
            conditions: Some(conditions.iter().map(condition).collect()),
            certificate: certificate.map(|text| ByteString(text.into())),
        }),
        ..CertificateSigningRequest::default()
    }
}

#[test]
fn a_request_goes_from_pending_over_approved_to_signed() {
    assert_eq!(progress(&CertificateSigningRequest::default()), Progress::Pending);
    assert_eq!(progress(&answered(&[], None)), Progress::Pending);
    assert_eq!(progress(&answered(&[("Approved", "RunningReplica")], None)), Progress::Approved);
    assert_eq!(progress(&answered(&[("Approved", "RunningReplica")], Some(""))), Progress::Approved);
    let signed = answered(&[("Approved", "RunningReplica")], Some("pem"));
    assert_eq!(progress(&signed), Progress::Signed(b"pem".to_vec()));
}

#[test]
fn a_refusal_has_its_reason() {
    assert_eq!(progress(&answered(&[("Denied", "NotMine")], None)), Progress::Denied("NotMine".to_owned()));
    let failed = answered(&[("Approved", "RunningReplica"), ("Failed", "SignerValidationFailure")], None);
    assert_eq!(progress(&failed), Progress::Failed("SignerValidationFailure".to_owned()));
}
