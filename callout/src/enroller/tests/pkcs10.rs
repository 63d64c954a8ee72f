#![allow(clippy::unwrap_used)]

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use nkeys::{KeyPair, XKey};
use rcgen::{CertificateParams, DnType, KeyPair as Signer, PKCS_ED25519, SanType};

use super::*;

const OWN: &str = "system:serviceaccount:harmony-fleet:enroller";

struct Device {
    signer: Signer,
    identity: IdentityKey,
    curve: CurveKey,
}

impl Device {
    fn new() -> Self {
        // PKCS#8 around the 32 bytes of an Ed25519 seed (RFC 8410).
        let seed: [u8; 32] = rand::random();
        let identity = KeyPair::new_from_raw(nkeys::KeyPairType::User, seed).unwrap();
        let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        let der = [&prefix[..], &seed].concat();
        let der = rustls::pki_types::PrivatePkcs8KeyDer::from(der);
        Self {
            signer: Signer::from_pkcs8_der_and_sign_algo(&der, &PKCS_ED25519).unwrap(),
            identity: identity.public_key().parse().unwrap(),
            curve: XKey::new().public_key().parse().unwrap(),
        }
    }

    fn pem(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "pi");
        let uri = format!("{CURVE_URI}{}", self.curve);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        change(&mut params);
        params.serialize_request(&self.signer).unwrap().pem().unwrap()
    }

    fn check(&self, pem: &str) -> Result<(), Pkcs10Error> {
        verify(pem.as_bytes(), &"pi".parse().unwrap(), &self.identity, &self.curve)
    }

    fn object(&self) -> CertificateSigningRequest {
        let mut object = object(&self.pem(|_| {}), &"pi".parse().unwrap(), &self.identity, &self.curve);
        object.spec.username = Some(OWN.to_owned());
        object
    }
}

#[test]
fn the_devices_own_request_is_accepted() {
    let device = Device::new();
    assert_eq!(device.check(&device.pem(|_| {})), Ok(()));
}

#[test]
fn another_name_is_refused() {
    let device = Device::new();
    let other = device.pem(|params| params.distinguished_name.push(DnType::CommonName, "other"));
    assert!(matches!(device.check(&other), Err(Pkcs10Error::Subject(_))));
    let group =
        device.pem(|params| params.distinguished_name.push(DnType::OrganizationName, "system:masters"));
    assert!(matches!(device.check(&group), Err(Pkcs10Error::Subject(_))));
}

#[test]
fn another_key_is_refused() {
    let (device, other) = (Device::new(), Device::new());
    let pem = Device { signer: other.signer, curve: device.curve.clone(), ..Device::new() }.pem(|_| {});
    assert_eq!(device.check(&pem), Err(Pkcs10Error::Key));
}

#[test]
fn a_changed_request_is_refused() {
    let device = Device::new();
    let pem = device.pem(|_| {});
    let mut der = parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
    let last = der.len() - 1;
    der[last] ^= 1;
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    assert_eq!(device.check(&pem), Err(Pkcs10Error::Signature));
}

#[test]
fn the_curve_key_has_to_be_the_only_alternative_name() {
    let device = Device::new();
    let other = Device::new();
    let uri = format!("{CURVE_URI}{}", other.curve);
    let wrong: [Vec<SanType>; 4] = [
        vec![],
        vec![SanType::URI(uri.try_into().unwrap())],
        vec![SanType::DnsName("kubernetes.default".try_into().unwrap())],
        vec![
            SanType::URI(format!("{CURVE_URI}{}", device.curve).try_into().unwrap()),
            SanType::DnsName("kubernetes.default".try_into().unwrap()),
        ],
    ];
    for names in wrong {
        let pem = device.pem(|params| params.subject_alt_names = names.clone());
        assert_eq!(device.check(&pem), Err(Pkcs10Error::CurveKey), "{names:?}");
    }
}

#[test]
fn a_request_for_more_than_names_is_refused() {
    let device = Device::new();
    let pem = device.pem(|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]);
    assert_eq!(device.check(&pem), Err(Pkcs10Error::Extensions));
}

#[test]
fn what_is_no_single_request_is_refused() {
    let device = Device::new();
    let pem = device.pem(|_| {});
    for wrong in ["", "-----BEGIN", &pem.replace(" REQUEST", ""), &format!("{pem}{pem}")] {
        assert_eq!(device.check(wrong), Err(Pkcs10Error::Pem), "{wrong:?}");
    }
}

proptest::proptest! {
    #[test]
    fn hostile_bytes_are_refused_without_a_panic(bytes: Vec<u8>, flip: proptest::sample::Index, bit in 0..8_u8) {
        let device = Device::new();
        let name = "pi".parse().unwrap();
        proptest::prop_assert!(verify(&bytes, &name, &device.identity, &device.curve).is_err());
        let mut der = parse_x509_pem(device.pem(|_| {}).as_bytes()).unwrap().1.contents;
        // What the identity key signed; the frame around it means nothing.
        let signed = X509CertificationRequest::from_der(&der).unwrap().1.certification_request_info.raw.to_vec();
        let start = der.windows(signed.len()).position(|window| window == signed).unwrap();
        let at = start + flip.index(signed.len());
        der[at] ^= 1 << bit;
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
        proptest::prop_assert!(verify(pem.as_bytes(), &name, &device.identity, &device.curve).is_err());
    }
}

#[test]
fn the_object_of_an_applicant_reads_back() {
    let device = Device::new();
    let applicant = read(&device.object(), OWN).unwrap();
    assert_eq!(applicant.device.as_str(), "pi");
    assert_eq!((applicant.identity_key, applicant.curve_key), (device.identity, device.curve));
    assert_eq!(applicant.verdict, Verdict::Pending);
}

#[test]
fn objects_that_others_made_or_changed_are_not_believed() {
    let device = Device::new();
    let mut others = device.object();
    others.spec.username = Some("mallory".to_owned());
    let mut signer = device.object();
    signer.spec.signer_name = "kubernetes.io/kubelet-serving".to_owned();
    let mut renamed = device.object();
    renamed.metadata.name = Some(object_name(&"other".parse().unwrap(), &device.identity));
    let mut fingerprint = device.object();
    fingerprint.metadata.annotations.as_mut().unwrap().insert(FINGERPRINT.to_owned(), "SHA256:x".to_owned());
    let mut keys = device.object();
    let stranger = Device::new();
    keys.metadata = object("", &"pi".parse().unwrap(), &stranger.identity, &stranger.curve).metadata;
    for object in [others, signer, renamed, fingerprint, keys] {
        assert_eq!(read(&object, OWN), None, "{:?}", object.metadata);
    }
}

#[test]
fn a_denial_stands_beside_an_approval() {
    let condition = |type_: &str, status: &str| CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        ..CertificateSigningRequestCondition::default()
    };
    let with = |conditions: Vec<_>| CertificateSigningRequest {
        status: Some(CertificateSigningRequestStatus { conditions: Some(conditions), certificate: None }),
        ..CertificateSigningRequest::default()
    };
    assert_eq!(verdict(&CertificateSigningRequest::default()), Verdict::Pending);
    assert_eq!(verdict(&with(vec![condition("Approved", "False")])), Verdict::Pending);
    assert_eq!(verdict(&with(vec![condition("Approved", "True")])), Verdict::Approved);
    assert_eq!(
        verdict(&with(vec![condition("Approved", "True"), condition("Denied", "True")])),
        Verdict::Denied
    );
}

#[test]
fn names_of_objects_are_those_of_the_contract() {
    let device = Device::new();
    let name = object_name(&"pi-7".parse().unwrap(), &device.identity);
    let (start, hash) = name.rsplit_once('-').unwrap();
    assert_eq!(start, "device-pi-7");
    assert!(hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
}
