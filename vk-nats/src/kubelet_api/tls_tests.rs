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

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn tls(&self) -> Tls {
        let certificate = Certificate::Files { certificate: self.certificate.clone(), key: self.key.clone() };
        Tls { certificate, client_ca: None }
    }
}

fn files(folder: &TempDir) -> Files {
    Files { certificate: folder.path().join("tls.crt"), key: folder.path().join("tls.key") }
}

fn write(files: &Files, (certificate, key): &(String, String)) {
    std::fs::write(&files.certificate, certificate).unwrap();
    std::fs::write(&files.key, key).unwrap();
}

async fn load(tls: Tls) -> Result<Reloading, TlsError> {
    Reloading::load(tls, Metrics::default()).await
}

#[tokio::test]
async fn a_renewed_certificate_serves_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(&folder);
    write(&files, &pair());
    let mut tls = load(files.tls()).await.unwrap();
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
    let mut tls = load(files.tls()).await.unwrap();
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
    let files = files(&folder);
    assert!(matches!(load(files.tls()).await, Err(TlsError::Read { .. })));
    write(&files, &("not a certificate".to_owned(), pair().1));
    let error = load(files.tls()).await.err().unwrap().to_string();
    assert!(error.ends_with("tls.crt holds no certificate in PEM"), "{error}");
    write(&files, &(pair().0, String::new()));
    let error = load(files.tls()).await.err().unwrap().to_string();
    assert!(error.ends_with("tls.key holds no private key in PEM"), "{error}");
    write(&files, &pair());
    let tls = Tls { client_ca: Some(files.key.clone()), ..files.tls() };
    let error = load(tls).await.err().unwrap().to_string();
    assert!(error.ends_with("tls.key holds no certificate in PEM"), "{error}");
}

#[tokio::test]
async fn what_the_cluster_signed_serves_once_it_is_there() {
    let (sender, signed) = watch::channel(None);
    let tls = Tls { certificate: Certificate::Cluster(signed), client_ca: None };
    let tls = load(tls).await.unwrap();
    let mut watch = tls.watch();
    assert!(watch.borrow_and_update().is_none(), "nothing is signed yet");
    tokio::spawn(tls.run());
    let mut before = None;
    for _ in 0..2 {
        let (certificate, key) = pair();
        sender.send_replace(Some(Arc::new(Pair { certificate: certificate.into(), key: key.into() })));
        let now = watch.wait_for(|now| now.is_some() && now.as_ref().map(Arc::as_ptr) != before).await;
        before = Some(Arc::as_ptr(now.unwrap().as_ref().unwrap()));
    }
}

#[test]
fn a_pair_of_the_cluster_has_to_fit() {
    let (first, second) = (pair(), pair());
    let of = |certificate: &str, key: &str| Pair { certificate: certificate.into(), key: key.into() };
    let until = check_pair(&of(&first.0, &first.1)).unwrap();
    assert!(until > Timestamp::now());
    let error = check_pair(&of(&first.0, &second.1)).unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
}
