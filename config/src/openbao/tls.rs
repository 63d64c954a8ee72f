//! The HTTP client: rustls with ring, the authorities that the settings name, no redirects, no proxies.

use std::{path::Path, sync::Arc, time::Duration};

use hyper_rustls::ConfigBuilderExt as _;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::error::{SettingsError, causes};

/// Whom to believe.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trust<'a> {
    /// The authorities of the system.
    System,
    /// The authorities in this file (PEM), and no others.
    File(&'a Path),
    /// Everybody.
    Anybody,
    /// Nobody: there is no TLS. A container without certificate authorities may have an agent beside it.
    Nobody,
}

/// A client that connects to nobody yet.
///
/// It follows no redirect: a token that was sent along would be the other server's. It uses no proxy of the
/// environment, for the same reason.
pub(super) fn client(trust: Trust<'_>, within: Duration) -> Result<reqwest::Client, SettingsError> {
    let failed = |error: &dyn std::error::Error| SettingsError::Tls(causes(error));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let builder = match trust {
        Trust::System => builder.with_native_roots().map_err(|error| failed(&error))?,
        Trust::File(file) => builder.with_root_certificates(roots(file)?),
        Trust::Nobody => builder.with_root_certificates(RootCertStore::empty()),
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Believe(provider))),
    };
    reqwest::Client::builder()
        .tls_backend_preconfigured(builder.with_no_client_auth())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(within)
        .build()
        .map_err(|error| failed(&error))
}

fn roots(file: &Path) -> Result<RootCertStore, SettingsError> {
    let failed = |why: String| SettingsError::File { file: file.to_owned(), why };
    let pem = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem.as_slice()) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(failed("it has no certificate: expected PEM".to_owned()));
    }
    Ok(roots)
}

/// For `skip-tls`: the connection is encrypted, with whomever. Signatures are checked, names and authorities are not.
#[derive(Debug)]
struct Believe(Arc<CryptoProvider>);

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
