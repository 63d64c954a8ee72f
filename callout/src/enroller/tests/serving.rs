#![allow(clippy::unwrap_used)]

use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{
            CertificateSigningRequestCondition, CertificateSigningRequestSpec,
            CertificateSigningRequestStatus,
        },
        core::v1::{PodSpec, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

use super::*;

const VK_NATS: &str = "system:serviceaccount:harmony-fleet:vk-nats";

fn request(change: impl FnOnce(&mut CertificateParams)) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:vk-nats-0");
    params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 5].into())];
    change(&mut params);
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.to_owned(),
            username: Some(VK_NATS.to_owned()),
            usages: Some(vec!["digital signature".to_owned(), "server auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    }
}

fn running() -> BTreeSet<IpAddr> {
    ["10.0.0.5", "10.0.0.6", "fd00::5"].iter().map(|ip| ip.parse().unwrap()).collect()
}

#[test]
fn a_running_replica_gets_its_certificate() {
    assert_eq!(check(&request(|_| {}), &running()), Ok(()));
    let both =
        request(|params| params.subject_alt_names.push(SanType::IpAddress("fd00::5".parse().unwrap())));
    assert_eq!(check(&both, &running()), Ok(()));
}

#[test]
fn addresses_of_others_are_not_approved() {
    let elsewhere = request(|params| params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 9].into())));
    assert_eq!(check(&elsewhere, &running()), Err(NotServing::Address([10, 0, 0, 9].into())));
    assert_eq!(check(&request(|_| {}), &BTreeSet::new()), Err(NotServing::Address([10, 0, 0, 5].into())));
}

#[test]
fn names_besides_addresses_are_not_approved() {
    let name = SanType::DnsName("kubernetes.default".try_into().unwrap());
    let with_name = request(|params| params.subject_alt_names.push(name));
    assert_eq!(check(&with_name, &running()), Err(NotServing::Names));
    let without = request(|params| params.subject_alt_names.clear());
    assert_eq!(check(&without, &running()), Err(NotServing::Names));
}

#[test]
fn another_subject_is_not_approved() {
    for name in ["system:node:server-1", "system:node:vk-nats-", "kubernetes-admin"] {
        let other = request(|params| params.distinguished_name.push(DnType::CommonName, name));
        assert_eq!(check(&other, &running()), Err(NotServing::Subject), "{name}");
    }
    let masters =
        request(|params| params.distinguished_name.push(DnType::OrganizationName, "system:masters"));
    assert_eq!(check(&masters, &running()), Err(NotServing::Subject));
    let more = request(|params| params.distinguished_name.push(DnType::CountryName, "CH"));
    assert_eq!(check(&more, &running()), Err(NotServing::Subject));
}

#[test]
fn another_use_is_not_approved() {
    for usages in [
        vec!["client auth", "digital signature"],
        vec!["server auth"],
        vec!["server auth", "digital signature", "client auth"],
    ] {
        let mut other = request(|_| {});
        other.spec.usages = Some(usages.into_iter().map(str::to_owned).collect());
        assert_eq!(check(&other, &running()), Err(NotServing::Usages));
    }
}

#[test]
fn more_extensions_and_no_requests_are_not_approved() {
    let ca = request(|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]);
    assert_eq!(check(&ca, &running()), Err(NotServing::Extensions));
    let mut garbage = request(|_| {});
    garbage.spec.request = ByteString(b"-----BEGIN CERTIFICATE REQUEST-----".to_vec());
    assert_eq!(check(&garbage, &running()), Err(NotServing::Pem));
}

#[test]
fn requests_of_others_are_left_alone() {
    assert!(concerns(&request(|_| {}), VK_NATS));
    let mut kubelet = request(|_| {});
    kubelet.spec.username = Some("system:node:server-1".to_owned());
    let mut client = request(|_| {});
    client.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
    let mut decided = request(|_| {});
    decided.status = Some(CertificateSigningRequestStatus {
        conditions: Some(vec![CertificateSigningRequestCondition {
            type_: "Denied".to_owned(),
            status: "True".to_owned(),
            ..CertificateSigningRequestCondition::default()
        }]),
        certificate: None,
    });
    for other in [kubelet, client, decided] {
        assert!(!concerns(&other, VK_NATS));
    }
}

#[test]
fn only_pods_that_run_as_vk_nats_have_addresses() {
    let pod = |phase: &str, account: &str, ip: &str, going: bool| Pod {
        metadata: ObjectMeta {
            deletion_timestamp: going.then_some(Time(Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { service_account_name: Some(account.to_owned()), ..PodSpec::default() }),
        status: Some(PodStatus {
            phase: Some(phase.to_owned()),
            pod_ip: Some(ip.to_owned()),
            ..PodStatus::default()
        }),
    };
    let pods = [
        pod("Running", "vk-nats", "10.0.0.5", false),
        pod("Pending", "vk-nats", "10.0.0.6", false),
        pod("Running", "default", "10.0.0.7", false),
        pod("Running", "vk-nats", "10.0.0.8", true),
        Pod::default(),
    ];
    let addresses: Vec<String> =
        running_addresses(&pods, "vk-nats").iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5"]);
}
