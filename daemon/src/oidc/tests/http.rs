//! TLS towards an identity provider.

use std::io::Write as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use super::{
    super::provider::{Answer, Provider},
    *,
};

const WITHIN: Duration = Duration::from_secs(5);

fn get(url: &str) -> Request<Vec<u8>> {
    Request::get(url).body(Vec::new()).unwrap()
}

/// An authority, and a TLS server for 127.0.0.1 that it signed.
fn authority() -> (tempfile::NamedTempFile, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(ca_pem.as_bytes()).unwrap();
    (file, TlsAcceptor::from(Arc::new(config)))
}

async fn tls_provider() -> (tempfile::NamedTempFile, Provider) {
    let (ca, acceptor) = authority();
    let provider = Provider::serve("https", async move |stream| acceptor.accept(stream).await.ok()).await;
    provider.set("/", Answer::Says(200, "hello".to_owned()));
    (ca, provider)
}

#[tokio::test]
async fn a_server_of_the_private_authority_is_trusted() {
    LocalSet::new()
        .run_until(async {
            let (ca, provider) = tls_provider().await;
            let client = HttpClient::new(Some(ca.path()), WITHIN).unwrap();
            let answer = client.send(get(&format!("{}/", provider.url))).await.unwrap();
            assert_eq!(answer.body(), b"hello");
        })
        .await;
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_and_the_reason_is_told() {
    LocalSet::new()
        .run_until(async {
            let (_, provider) = tls_provider().await;
            let (other, _) = authority();
            let client = HttpClient::new(Some(other.path()), WITHIN).unwrap();
            let error = client.send(get(&provider.url)).await.unwrap_err();
            assert!(matches!(&error, HttpError::Unreachable { .. }), "{error:?}");
            assert!(error.to_string().contains("certificate"), "{error}");
            assert_eq!(provider.count("/"), 0);
        })
        .await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    LocalSet::new()
        .run_until(async {
            let provider = Provider::start().await;
            provider.set("/", Answer::Redirects(format!("{}/elsewhere", provider.url)));
            let client = client();
            let answer = client.send(get(&provider.url)).await.unwrap();
            assert_eq!(answer.status(), 302);
            assert_eq!(provider.count("/elsewhere"), 0);
        })
        .await;
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    LocalSet::new()
        .run_until(async {
            let provider = Provider::start().await;
            provider.set("/", Answer::Says(200, "x".repeat(MAX_ANSWER + 1)));
            let error = client().send(get(&provider.url)).await.unwrap_err();
            assert!(matches!(error, HttpError::TooLarge { .. }), "{error:?}");
        })
        .await;
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    LocalSet::new()
        .run_until(async {
            let provider = Provider::start().await;
            provider.set("/", Answer::Hangs);
            let client = client();
            let request = get(&provider.url);
            let asking = tokio::task::spawn_local(async move { client.send(request).await });
            provider.asked("/").await;
            tokio::time::pause();
            let error = asking.await.unwrap().unwrap_err();
            assert!(matches!(error, HttpError::TimedOut { .. }), "{error:?}");
        })
        .await;
}

#[tokio::test]
async fn nothing_is_sent_in_the_clear_to_another_machine() {
    for url in ["http://192.0.2.1/token", "http://id.example.com/", "ftp://127.0.0.1/", "/relative"] {
        let error = client().send(get(url)).await.unwrap_err();
        assert!(matches!(error, HttpError::NotAllowed { .. }), "{url}: {error:?}");
    }
}

#[test]
fn plain_http_stays_on_this_machine() {
    for url in ["https://id.example.com", "http://127.0.0.1:80", "http://[::1]:80/x", "http://localhost"] {
        assert!(allowed(&url.parse().unwrap()), "{url}");
    }
    for url in ["http://localhost.example.com", "http://127.0.0.1.example.com", "http://[::2]/"] {
        assert!(!allowed(&url.parse().unwrap()), "{url}");
    }
}

#[test]
fn a_ca_file_has_to_have_a_certificate() {
    let missing = HttpClient::new(Some(Path::new("/nowhere/ca.pem")), WITHIN).unwrap_err();
    assert!(matches!(missing, HttpError::CaFile { .. }));
    let empty = tempfile::NamedTempFile::new().unwrap();
    let error = HttpClient::new(Some(empty.path()), WITHIN).unwrap_err();
    assert!(matches!(error, HttpError::NoCertificate { .. }));
}

fn client() -> HttpClient {
    let (ca, _) = authority();
    HttpClient::new(Some(ca.path()), WITHIN).unwrap()
}
