//! Serving certificates of `vk-nats`: is a request for the address of a running replica, and for nothing
//! else? Pure. Requests of others are none of the enroller's business; nothing is ever denied.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Pod};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer as _,
};

use super::pkcs10::{Verdict, verdict};

/// Signer of kubelets' serving certificates.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Label of `vk-nats`' pods.
pub const POD_LABEL: &str = "app.kubernetes.io/name=vk-nats";
const COMMON_NAME: &str = "system:node:vk-nats-";
const ORGANIZATION: &str = "system:nodes";

/// Why a request of `vk-nats` is not approved (yet).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServing {
    /// It is no PKCS#10 request.
    #[error("it is not one PKCS#10 request in PEM")]
    Pem,
    /// The subject is another one.
    #[error("its subject is not O={ORGANIZATION}, CN={COMMON_NAME}<replica>")]
    Subject,
    /// It is to be used for something else.
    #[error("its usages are not those of a serving certificate")]
    Usages,
    /// It asks for more than addresses.
    #[error("its alternative names are not IP addresses alone")]
    Names,
    /// An address is not a replica's.
    #[error("{0} is not the address of a running vk-nats")]
    Address(IpAddr),
    /// It asks for other extensions.
    #[error("it asks for extensions besides alternative names")]
    Extensions,
}

/// Whether a request waits for this module's judgement: `vk-nats`' service account (`system:serviceaccount:…`)
/// asks the signer of serving certificates, and nobody has decided.
pub fn concerns(request: &CertificateSigningRequest, vk_nats: &str) -> bool {
    request.spec.signer_name == SIGNER
        && request.spec.username.as_deref() == Some(vk_nats)
        && verdict(request) == Verdict::Pending
}

/// Checks a request that [`concerns`] this module.
///
/// # Errors
/// [`NotServing`]: it stays pending; a pod may still get the address.
pub fn check(request: &CertificateSigningRequest, addresses: &BTreeSet<IpAddr>) -> Result<(), NotServing> {
    check_usages(request.spec.usages.as_deref().unwrap_or_default())?;
    let (rest, pem) = parse_x509_pem(&request.spec.request.0).map_err(|_| NotServing::Pem)?;
    if pem.label != "CERTIFICATE REQUEST" || !rest.trim_ascii().is_empty() {
        return Err(NotServing::Pem);
    }
    let (_, pkcs10) = X509CertificationRequest::from_der(&pem.contents).map_err(|_| NotServing::Pem)?;
    let subject = &pkcs10.certification_request_info.subject;
    let all = |values: Vec<_>| -> Option<Vec<String>> { values.into_iter().collect() };
    let names = all(subject.iter_common_name().map(|name| name.as_str().ok().map(str::to_owned)).collect());
    let groups = all(subject.iter_organization().map(|name| name.as_str().ok().map(str::to_owned)).collect());
    let (Some(names), Some(groups)) = (names, groups) else { return Err(NotServing::Subject) };
    let replica = match names.as_slice() {
        [name] => name.strip_prefix(COMMON_NAME).unwrap_or_default(),
        _ => "",
    };
    if replica.is_empty() || groups != [ORGANIZATION] || subject.iter_attributes().count() != 2 {
        return Err(NotServing::Subject);
    }
    let mut found = false;
    for extension in pkcs10.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            return Err(NotServing::Extensions);
        };
        for name in &names.general_names {
            let GeneralName::IPAddress(bytes) = name else { return Err(NotServing::Names) };
            let address = address(bytes).ok_or(NotServing::Names)?;
            if !addresses.contains(&address) {
                return Err(NotServing::Address(address));
            }
            found = true;
        }
    }
    if found { Ok(()) } else { Err(NotServing::Names) }
}

/// What the signer demands: `server auth` and `digital signature`, for RSA keys `key encipherment`.
fn check_usages(usages: &[String]) -> Result<(), NotServing> {
    let has = |usage: &str| usages.iter().any(|given| given == usage);
    let known = ["digital signature", "key encipherment", "server auth"];
    let foreign = usages.iter().any(|usage| !known.contains(&usage.as_str()));
    if foreign || !has("server auth") || !has("digital signature") {
        return Err(NotServing::Usages);
    }
    Ok(())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Addresses of pods that run with this service account, and are not about to end.
pub fn running_addresses<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    service_account: &str,
) -> BTreeSet<IpAddr> {
    let of_account = |pod: &&Pod| {
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()) == Some(service_account)
    };
    pods.into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(of_account)
        .filter_map(|pod| pod.status.as_ref())
        .filter(|status| status.phase.as_deref() == Some("Running"))
        .flat_map(|status| {
            let others = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
            status.pod_ip.as_deref().into_iter().chain(others)
        })
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

#[cfg(test)]
#[path = "tests/serving.rs"]
mod tests;
