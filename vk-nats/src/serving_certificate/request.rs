//! What is asked of the signer `kubernetes.io/kubelet-serving`, and what a request's status says. Pure.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

/// Signer of kubelets' serving certificates.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// What the signer wants as organization.
const ORGANIZATION: &str = "system:nodes";
/// The signer wants a node's name; no Node is called so, and the certificate serves only.
const COMMON_NAME: &str = "system:node:vk-nats-";
/// Longest common name (`ub-common-name`, RFC 5280).
const LONGEST: usize = 64;
const PREFIX: &str = "vk-nats-";

/// Why no request can be made.
#[derive(Debug, thiserror::Error)]
#[error("a certificate request cannot be made: {0}")]
pub struct RequestError(#[from] rcgen::Error);

/// What the certificate is for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// This process among its replicas.
    pub identity: String,
    /// Where the API server reaches it.
    pub address: IpAddr,
    /// For how long; the signer may give less.
    pub lifetime: Duration,
}

impl Wanted {
    /// `system:node:vk-nats-<replica>`: the end of the identity, which tells pods of one Deployment apart.
    fn common_name(&self) -> String {
        let replica: String = self
            .identity
            .strip_prefix(PREFIX)
            .unwrap_or(&self.identity)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '-' })
            .collect();
        let start = replica.len().saturating_sub(LONGEST - COMMON_NAME.len());
        format!("{COMMON_NAME}{}", &replica[start..])
    }
}

/// A request, and the key that it is for.
pub struct Asked {
    /// For the API server.
    pub object: CertificateSigningRequest,
    /// ECDSA P-256, in memory only.
    pub key: KeyPair,
}

impl Asked {
    /// With a fresh key.
    ///
    /// # Errors
    /// [`RequestError`], when there is no randomness.
    pub fn new(wanted: &Wanted) -> Result<Self, RequestError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
        params.distinguished_name.push(DnType::CommonName, wanted.common_name());
        params.subject_alt_names = vec![SanType::IpAddress(wanted.address)];
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let pem = params.serialize_request(&key)?.pem()?;
        let object = CertificateSigningRequest {
            metadata: ObjectMeta {
                generate_name: Some("vk-nats-serving-".to_owned()),
                ..ObjectMeta::default()
            },
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                signer_name: SIGNER.to_owned(),
                usages: Some(vec!["digital signature".to_owned(), "server auth".to_owned()]),
                expiration_seconds: i32::try_from(wanted.lifetime.as_secs()).ok(),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        };
        Ok(Self { object, key })
    }
}

/// How far a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nobody decided.
    Pending,
    /// Somebody approved, the signer has not signed.
    Approved,
    /// The chain, PEM.
    Signed(Vec<u8>),
    /// Somebody refused, with this reason.
    Denied(String),
    /// The signer refused, with this reason.
    Failed(String),
}

/// What became of a request.
pub fn progress(request: &CertificateSigningRequest) -> Progress {
    let Some(status) = &request.status else { return Progress::Pending };
    let condition = |kind: &str| {
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == kind)?;
        let said = [&found.reason, &found.message];
        Some(said.into_iter().flatten().cloned().collect::<Vec<_>>().join(": "))
    };
    if let Some(why) = condition("Denied") {
        return Progress::Denied(why);
    }
    if let Some(why) = condition("Failed") {
        return Progress::Failed(why);
    }
    match &status.certificate {
        Some(ByteString(certificate)) if !certificate.is_empty() => Progress::Signed(certificate.clone()),
        _ if condition("Approved").is_some() => Progress::Approved,
        _ => Progress::Pending,
    }
}

#[cfg(test)]
#[path = "tests/request.rs"]
mod tests;
