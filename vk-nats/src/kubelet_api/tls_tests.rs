#![allow(clippy::unwrap_used, clippy::expect_used)]

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

/// A self-signed certificate and its key.
fn pair() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["192.0.2.1".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn files(folder: &TempDir) -> TlsFiles {
    TlsFiles {
        certificate: folder.path().join("tls.crt"),
        key: folder.path().join("tls.key"),
        client_ca: None,
    }
}

fn write(files: &TlsFiles, (certificate, key): &(String, String)) {
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_serves_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    write(&files, &pair());
    let mut tls = Reloading::load(files.clone()).await.unwrap();
    let mut watch = tls.watch();
    tls.look().await.unwrap();
    assert!(!watch.has_changed().unwrap(), "nothing was renewed");
    write(&files, &pair());
    tls.look().await.unwrap();
    assert!(watch.has_changed().unwrap());
    watch.mark_unchanged();
    tls.look().await.unwrap();
    assert!(!watch.has_changed().unwrap());
}

#[tokio::test]
async fn half_a_renewal_leaves_the_old_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    let (old, new) = (pair(), pair());
    write(&files, &old);
    let mut tls = Reloading::load(files.clone()).await.unwrap();
    let watch = tls.watch();
    write(&files, &(new.0.clone(), old.1.clone()));
    assert!(matches!(tls.look().await, Err(TlsError::Pair { .. })));
    assert!(!watch.has_changed().unwrap());
    write(&files, &new);
    tls.look().await.unwrap();
    assert!(watch.has_changed().unwrap());
}

#[tokio::test]
async fn files_that_cannot_serve_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files(&folder);
    assert!(matches!(Reloading::load(files.clone()).await, Err(TlsError::Read { .. })));
    write(&files, &("not a certificate".to_owned(), pair().1));
    let error = Reloading::load(files.clone()).await.err().unwrap().to_string();
    assert!(error.ends_with("tls.crt holds no certificate in PEM"), "{error}");
    write(&files, &(pair().0, String::new()));
    let error = Reloading::load(files.clone()).await.err().unwrap().to_string();
    assert!(error.ends_with("tls.key holds no private key in PEM"), "{error}");
    write(&files, &pair());
    files.client_ca = Some(files.key.clone());
    let error = Reloading::load(files).await.err().unwrap().to_string();
    assert!(error.ends_with("tls.key holds no certificate in PEM"), "{error}");
}
