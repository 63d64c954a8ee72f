//! Who asks: the user behind a client certificate or a token.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::UserInfo;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Group that Kubernetes adds to everyone who proved who they are.
const AUTHENTICATED: &str = "system:authenticated";

/// An authenticated user, as the authorizer sees one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Uid, where the authenticator knows one.
    pub uid: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes, e.g. the pod behind a service account's token.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The user of a client certificate that TLS has verified: its common name, with its organizations as
    /// groups. `None` when the certificate names nobody.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let subject = certificate.subject();
        // With several common names the last one counts, as in Go's crypto/x509, so that the API server and
        // this side never see two users in one certificate.
        let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
        let groups = subject
            .iter_organization()
            .map(|group| group.as_str().map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()
            .ok()?;
        Self { name, uid: None, groups, extra: BTreeMap::new() }.authenticated()
    }

    /// The user that a TokenReview found.
    pub fn of_review(info: UserInfo) -> Option<Self> {
        Self {
            name: info.username?,
            uid: info.uid.filter(|uid| !uid.is_empty()),
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        }
        .authenticated()
    }

    /// Adds the group of all who are authenticated. Nobody, and the user that stands for nobody, is `None`.
    fn authenticated(mut self) -> Option<Self> {
        if self.name.is_empty() || self.name == "system:anonymous" {
            return None;
        }
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_names_a_user_and_groups() {
        let der = certificate(&[
            (DnType::CommonName, "kube-apiserver-kubelet-client"),
            (DnType::OrganizationName, "system:masters"),
        ]);
        let user = User::of_certificate(&der).unwrap();
        assert_eq!(user.name, "kube-apiserver-kubelet-client");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
    }

    #[test]
    fn a_certificate_without_a_name_is_nobody() {
        assert_eq!(User::of_certificate(&certificate(&[(DnType::OrganizationName, "system:masters")])), None);
        assert_eq!(User::of_certificate(&certificate(&[(DnType::CommonName, "")])), None);
        assert_eq!(User::of_certificate(&certificate(&[(DnType::CommonName, "system:anonymous")])), None);
        assert_eq!(User::of_certificate(b"not a certificate"), None);
    }
}
