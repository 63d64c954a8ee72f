#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use fleet_wire::enrollment::EnrollmentToken;

use super::*;

fn seed() -> String {
    KeyPair::new_user().seed().unwrap()
}

fn public(seed: &NkeySeed) -> String {
    seed.key_pair().unwrap().public_key()
}

fn write(file: &Path, text: &str, mode: u32) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_registry_login_shows_the_key_and_its_signature_and_nothing_else() {
    let key = NkeySeed::new(seed());
    let auth = Login::Credential { key: key.clone(), token: None }.prove(b"nonce").await.unwrap();
    let pair = key.key_pair().unwrap();
    assert_eq!(auth.nkey, Some(pair.public_key()));
    pair.verify(b"nonce", &auth.signature.unwrap()).unwrap();
    assert_eq!((auth.username, auth.password, auth.token, auth.jwt), (None, None, None, None));
}

#[tokio::test]
async fn a_token_is_read_anew_at_each_connection() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let login =
        Login::Credential { key: NkeySeed::random().unwrap(), token: Some(TokenSource::File(file.clone())) };
    let error = login.prove(b"n").await.err().unwrap().to_string();
    assert!(error.contains("token") && error.contains(&file.display().to_string()), "{error}");
    for token in ["first", "second"] {
        fs::write(&file, format!("{token}\n")).unwrap();
        let auth = login.prove(b"n").await.unwrap();
        assert_eq!(auth.token.as_deref(), Some(token));
        assert!(auth.nkey.is_some() && auth.signature.is_some());
    }
    fs::write(&file, " \n").unwrap();
    assert!(login.prove(b"n").await.is_err(), "an empty file is no token");
}

#[tokio::test]
async fn who_holds_an_enrollment_token_shows_its_id_only() {
    let token = EnrollmentToken::random();
    let auth = Login::EnrollmentToken(token.id.clone()).prove(b"nonce").await.unwrap();
    assert_eq!(auth.username, Some(format!("enrollment:{}", token.id)));
    assert_eq!((auth.password.as_deref(), auth.nkey, auth.signature), (Some(""), None, None));
}

#[tokio::test]
async fn an_applicant_proves_its_key() {
    let key = NkeySeed::new(seed());
    let auth = Login::Applicant { key: key.clone() }.prove(b"nonce").await.unwrap();
    assert_eq!(auth.username.as_deref(), Some("request"));
    assert_eq!(auth.nkey, Some(public(&key)));
    assert!(auth.signature.is_some());
}

#[test]
fn a_credential_is_read_back_and_names_its_files_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("keys")).unwrap();
    let seed_file = dir.path().join("keys/identity.nk");
    write(&seed_file, &seed(), 0o600);
    let file = dir.path().join("credential.toml");
    let credential = DeviceCredential {
        nats_url: "tls://a:4222,tls://b:4222".into(),
        nats_ca: Some(CaSource::Pem("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n".into())),
        key: NkeySeed::from_file(&seed_file).unwrap(),
        token: Some(TokenSource::File("/run/token".into())),
    };
    credential.store(&file).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("seed-file = \"keys/identity.nk\""), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    let read = DeviceCredential::load(&file).unwrap();
    assert_eq!(read.nats_url, credential.nats_url);
    assert_eq!(read.nats_ca, credential.nats_ca);
    assert_eq!(public(&read.key), public(&credential.key));
    assert!(matches!(read.token, Some(TokenSource::File(path)) if path == Path::new("/run/token")));
}

#[test]
fn a_seed_that_was_never_in_a_file_is_stored_with_the_credential() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("me.toml");
    let key = NkeySeed::new(seed());
    let ca = Some(CaSource::File(dir.path().join("ca.crt")));
    DeviceCredential { nats_url: "nats://a:1".into(), nats_ca: ca.clone(), key: key.clone(), token: None }
        .store(&file)
        .unwrap();
    let read = DeviceCredential::load(&file).unwrap();
    assert_eq!((public(&read.key), read.nats_ca), (public(&key), ca));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn what_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (seed_file, file) = (dir.path().join("identity.nk"), dir.path().join("c.toml"));
    write(&seed_file, &seed(), 0o644);
    write(&file, "nats-url = \"nats://a:1\"\nseed-file = \"identity.nk\"\n", 0o600);
    let error = DeviceCredential::load(&file).unwrap_err().to_string();
    assert!(error.contains("chmod 600") && error.contains("identity.nk"), "{error}");
    write(&seed_file, &seed(), 0o600);
    DeviceCredential::load(&file).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(DeviceCredential::load(&file), Err(CredentialError::Permissions { .. })));
}

#[test]
fn what_is_wrong_is_said_without_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let seed = seed();
    let account = KeyPair::new_account().seed().unwrap();
    for (text, expected) in [
        ("nats-url = \"nats://a:1\"\n".to_owned(), "seed-file"),
        (format!("nats-url = \"nats://a:1\"\nseed = \"{seed}\"\nseed-file = \"x\"\n"), "one of"),
        (format!("seed = \"{seed}\"\n"), "nats-url"),
        (format!("nats-url = \"nats://a:1\"\nseeed = \"{seed}\"\n"), "seeed"),
        (format!("nats-url = \"nats://a:1\"\nseed = \"{seed}\nx\n"), "credential"),
        (format!("nats-url = \"nats://a:1\"\nseed = \"{account}\"\n"), "SU"),
    ] {
        write(&file, &text, 0o600);
        let error = DeviceCredential::load(&file).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains(&seed) && !shown.contains(&account), "{shown}");
    }
}

#[test]
fn an_intent_to_enroll_is_no_credential() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    let token = EnrollmentToken::random();
    let intent = serde_json::json!({
        "device": "pi-7", "natsUrl": "tls://a:4222", "rootKey": "O", "token": token.reveal().as_str(),
    });
    write(&file, &intent.to_string(), 0o600);
    assert!(matches!(DeviceCredential::load(&file), Err(CredentialError::Content { .. })));
}

#[test]
fn nothing_shows_the_seed() {
    let seed = seed();
    let key = NkeySeed::new(seed.clone());
    let credential =
        DeviceCredential { nats_url: "nats://a:1".into(), nats_ca: None, key: key.clone(), token: None };
    let shown = format!("{credential:?} {:?} {:?}", credential.login(), Login::Applicant { key });
    assert!(!shown.contains(&seed), "{shown}");
}

#[cfg(feature = "oidc")]
#[test]
fn an_account_at_a_provider_is_read_back_with_its_files_beside_the_credential() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credential.toml");
    let text = format!(
        "nats-url = \"nats://a:1\"\nseed = \"{}\"\n[token.oidc]\nissuer = \"https://id.example\"\n\
         client-id = \"pi-7\"\nclient-secret-file = \"secret\"\n",
        seed()
    );
    write(&file, &text, 0o600);
    for _ in 0..2 {
        let read = DeviceCredential::load(&file).unwrap();
        let Some(TokenSource::Oidc(login)) = &read.token else { panic!("{read:?}") };
        assert_eq!(login.settings().client_secret_file, Some(dir.path().join("secret")));
        read.store(&file).unwrap();
    }
    assert!(fs::read_to_string(&file).unwrap().contains("client-secret-file = \"secret\""));
    write(&file, &text.replace("client-id = \"pi-7\"\n", ""), 0o600);
    let error = DeviceCredential::load(&file).unwrap_err().to_string();
    assert!(error.contains("client-id"), "{error}");
    write(&file, &format!("{text}[token]\nfile = \"t\"\n"), 0o600);
    assert!(DeviceCredential::load(&file).is_err());
}
