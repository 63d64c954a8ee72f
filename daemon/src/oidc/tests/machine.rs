//! Logins of machines at an identity provider.

use std::io::Write as _;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use tokio::task::LocalSet;

use super::{
    provider::{Answer, Provider},
    *,
};

const PKCS1: &str = include_str!("keys/rsa-pkcs1.pem");
const PKCS8: &str = include_str!("keys/rsa-pkcs8.pem");

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn key_file(pem: &str) -> tempfile::NamedTempFile {
    let json = serde_json::json!({ "type": "serviceaccount", "keyId": "k1", "key": pem, "userId": "pi-7" });
    file(&json.to_string())
}

fn settings(issuer: &str) -> MachineLoginSettings {
    MachineLoginSettings {
        issuer: issuer.to_owned(),
        client_id: None,
        audience: None,
        scopes: default_scopes(),
        key_file: None,
        client_secret_file: None,
        ca_file: None,
    }
}

fn with_key(issuer: &str, key: &tempfile::NamedTempFile) -> MachineLoginSettings {
    MachineLoginSettings { key_file: Some(key.path().to_owned()), ..settings(issuer) }
}

fn with_secret(issuer: &str, secret: &tempfile::NamedTempFile) -> MachineLoginSettings {
    MachineLoginSettings {
        client_id: Some("pi 7".to_owned()),
        client_secret_file: Some(secret.path().to_owned()),
        ..settings(issuer)
    }
}

fn field(body: &str, name: &str) -> Option<String> {
    let raw = body.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")))?;
    let mut bytes = Vec::new();
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn part(jwt: &str, index: usize) -> serde_json::Value {
    let bytes = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(index).unwrap()).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Lets the clock jump while I/O stays real.
async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// A provider and what is done with it, on one thread.
async fn with_provider(test: impl AsyncFnOnce(Provider)) {
    LocalSet::new()
        .run_until(async {
            let provider = Provider::start().await;
            provider.discovery(serde_json::json!({}));
            provider.token("secret-token", 300);
            test(provider).await;
        })
        .await;
}

#[tokio::test]
async fn a_key_signs_an_assertion_that_its_public_half_verifies() {
    with_provider(async |provider| {
        for pem in [PKCS1, PKCS8] {
            let key = key_file(pem);
            let mut settings = with_key(&provider.url, &key);
            settings.scopes = vec!["openid".into(), "urn:zitadel:iam:org:project:id:7:aud".into()];
            settings.audience = Some("nats & co".into());
            let token = MachineLogin::new(settings).unwrap().token().await.unwrap();
            assert_eq!(token.secret(), "secret-token");
            let body = provider.last("/token", |asked| asked.body.clone());
            assert_eq!(field(&body, "grant_type").unwrap(), "urn:ietf:params:oauth:grant-type:jwt-bearer");
            assert_eq!(
                field(&body, "scope").unwrap(),
                "openid%20urn:zitadel:iam:org:project:id:7:aud".replace("%20", " ")
            );
            assert_eq!(field(&body, "audience").unwrap(), "nats & co");
            let jwt = field(&body, "assertion").unwrap();
            assert_eq!(part(&jwt, 0), serde_json::json!({ "alg": "RS256", "typ": "JWT", "kid": "k1" }));
            let claims = part(&jwt, 1);
            assert_eq!(claims["iss"], "pi-7");
            assert_eq!(claims["sub"], "pi-7");
            assert_eq!(claims["aud"], provider.url);
            assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
            let der = rustls_pemfile::private_key(&mut PKCS8.as_bytes()).unwrap().unwrap();
            let pair = ring::signature::RsaKeyPair::from_pkcs8(der.secret_der()).unwrap();
            let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public().as_ref());
            let (message, signature) = jwt.rsplit_once('.').unwrap();
            public.verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_ed25519_key_signs_too() {
    with_provider(async |provider| {
        let der = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let key = key_file(&pem);
        MachineLogin::new(with_key(&provider.url, &key)).unwrap().token().await.unwrap();
        let jwt = provider.last("/token", |asked| field(&asked.body, "assertion").unwrap());
        assert_eq!(part(&jwt, 0)["alg"], "EdDSA");
        let (message, signature) = jwt.rsplit_once('.').unwrap();
        UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref())
            .verify(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_assertion_has_the_providers_time_and_not_this_machines() {
    with_provider(async |provider| {
        provider.date("Sun, 06 Nov 1994 08:49:37 GMT");
        let key = key_file(PKCS8);
        MachineLogin::new(with_key(&provider.url, &key)).unwrap().token().await.unwrap();
        let jwt = provider.last("/token", |asked| field(&asked.body, "assertion").unwrap());
        let issued = part(&jwt, 1)["iat"].as_i64().unwrap();
        assert!((784_111_777..784_111_787).contains(&issued), "{issued}");
    })
    .await;
}

#[tokio::test]
async fn a_client_secret_goes_into_the_header_form_encoded() {
    with_provider(async |provider| {
        let secret = file("s3cr:t/+\n");
        MachineLogin::new(with_secret(&provider.url, &secret)).unwrap().token().await.unwrap();
        provider.last("/token", |asked| {
            assert_eq!(field(&asked.body, "grant_type").unwrap(), "client_credentials");
            assert!(!asked.body.contains("secret"), "{}", asked.body);
            let expected = format!("Basic {}", STANDARD.encode("pi%207:s3cr%3At%2F%2B"));
            assert_eq!(asked.headers["authorization"], expected);
        });
    })
    .await;
}

#[tokio::test]
async fn a_client_secret_goes_into_the_body_where_the_provider_wants_that() {
    with_provider(async |provider| {
        provider.discovery(
            serde_json::json!({ "token_endpoint_auth_methods_supported": ["client_secret_post"] }),
        );
        let secret = file("s3cr:t");
        MachineLogin::new(with_secret(&provider.url, &secret)).unwrap().token().await.unwrap();
        provider.last("/token", |asked| {
            assert!(!asked.headers.contains_key("authorization"));
            assert_eq!(field(&asked.body, "client_id").unwrap(), "pi 7");
            assert_eq!(field(&asked.body, "client_secret").unwrap(), "s3cr:t");
        });
    })
    .await;
}

#[tokio::test]
async fn a_token_is_remembered_until_shortly_before_its_end() {
    with_provider(async |provider| {
        let key = key_file(PKCS8);
        let login = MachineLogin::new(with_key(&provider.url, &key)).unwrap();
        login.token().await.unwrap();
        advance(Duration::from_secs(230)).await;
        login.clone().token().await.unwrap();
        assert_eq!(provider.count("/token"), 1);
        provider.token("second", 300);
        advance(Duration::from_secs(11)).await;
        assert_eq!(login.token().await.unwrap().secret(), "second");
        assert_eq!(provider.count("/token"), 2);
        assert_eq!(provider.count("/.well-known/openid-configuration"), 1);
    })
    .await;
}

#[tokio::test]
async fn many_that_ask_at_once_cost_one_question() {
    with_provider(async |provider| {
        let key = key_file(PKCS8);
        let login = MachineLogin::new(with_key(&provider.url, &key)).unwrap();
        let all = futures_join(&login, 20).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(provider.count("/token"), 1);
    })
    .await;
}

async fn futures_join(login: &MachineLogin, count: usize) -> Vec<Result<AccessToken, OidcError>> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let login = login.clone();
        tasks.spawn_local(async move { login.token().await });
    }
    tasks.join_all().await
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_to_its_end() {
    with_provider(async |provider| {
        let key = key_file(PKCS8);
        let login = MachineLogin::new(with_key(&provider.url, &key)).unwrap();
        login.token().await.unwrap();
        provider.set("/token", Answer::Says(503, String::new()));
        advance(Duration::from_secs(290)).await;
        assert_eq!(login.token().await.unwrap().secret(), "secret-token");
        advance(Duration::from_secs(11)).await;
        assert!(matches!(login.token().await, Err(OidcError::Refused { status: 503, .. })));
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_hangs_is_given_up() {
    with_provider(async |provider| {
        provider.set("/token", Answer::Hangs);
        let key = key_file(PKCS8);
        let login = MachineLogin::new(with_key(&provider.url, &key)).unwrap();
        let asking = tokio::task::spawn_local(async move { login.token().await });
        provider.asked("/token").await;
        tokio::time::pause();
        let error = asking.await.unwrap().unwrap_err();
        assert!(matches!(error, OidcError::TimedOut { .. } | OidcError::Http(_)), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_refusal_says_where_and_what_and_no_secret() {
    with_provider(async |provider| {
        let said = serde_json::json!({
            "error": "invalid_client",
            "error_description": format!("no such secret:\n s3cr-t {}", "x".repeat(1000)),
        });
        provider.set("/token", Answer::Says(401, said.to_string()));
        let secret = file("s3cr-t");
        let login = MachineLogin::new(with_secret(&provider.url, &secret)).unwrap();
        let error = login.token().await.unwrap_err();
        let text = format!("{error} {error:?} {login:?}");
        assert!(text.contains(&format!("{}/token", provider.url)), "{text}");
        assert!(text.contains("invalid_client: no such secret:  …"), "{text}");
        assert!(text.contains("check the client"), "{text}");
        assert!(!text.contains("s3cr-t") && !text.contains('\n'), "{text}");
        assert!(text.len() < 2000);
    })
    .await;
}

#[tokio::test]
async fn a_document_of_another_issuer_is_refused() {
    with_provider(async |provider| {
        provider.discovery(serde_json::json!({ "issuer": "https://other.example.com" }));
        let key = key_file(PKCS8);
        let error = MachineLogin::new(with_key(&provider.url, &key)).unwrap().token().await.unwrap_err();
        assert!(error.to_string().contains("https://other.example.com"), "{error}");
        assert_eq!(provider.count("/token"), 0);
    })
    .await;
}

#[tokio::test]
async fn the_assertion_is_not_sent_in_the_clear_to_where_the_document_points() {
    with_provider(async |provider| {
        provider.discovery(serde_json::json!({ "token_endpoint": "http://192.0.2.1/token" }));
        let key = key_file(PKCS8);
        let error = MachineLogin::new(with_key(&provider.url, &key)).unwrap().token().await.unwrap_err();
        assert!(matches!(error, OidcError::Http(http::HttpError::NotAllowed { .. })), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_key_file_that_is_none_is_named_and_not_repeated() {
    with_provider(async |provider| {
        for text in [
            "",
            "{\"key\": 7}",
            "-----BEGIN PRIVATE KEY-----",
            "{\"userId\":\"u\",\"keyId\":\"k\",\"key\":\"hush\"}",
        ] {
            let key = file(text);
            let login = MachineLogin::new(with_key(&provider.url, &key)).unwrap();
            let error = login.token().await.unwrap_err();
            assert!(matches!(error, OidcError::KeyFile { .. }), "{error:?}");
            assert!(error.to_string().contains(key.path().to_str().unwrap()));
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        let key = key_file(PKCS8);
        let mut settings = with_key(&provider.url, &key);
        settings.client_id = Some("pi-8".into());
        let error = MachineLogin::new(settings).unwrap().token().await.unwrap_err();
        assert!(error.to_string().contains("userId"), "{error}");
    })
    .await;
}

#[test]
fn settings_that_contradict_themselves_are_refused_at_the_start() {
    let key = key_file(PKCS8);
    let issuer = "https://id.example.com";
    let mut both = with_secret(issuer, &key);
    both.key_file = Some(key.path().to_owned());
    let nothing = settings(issuer);
    let mut nameless = with_secret(issuer, &key);
    nameless.client_id = None;
    let clear = with_key("http://id.example.com", &key);
    for settings in [both, nothing, nameless, clear] {
        let result = MachineLogin::new(settings.clone());
        assert!(matches!(result, Err(OidcError::Settings(_))), "{settings:?}");
    }
}

#[test]
fn settings_are_read_from_toml() {
    let text = "issuer = 'https://id.example.com'\nkey-file = '/k.json'\nscopes = ['openid', 'a']\n";
    let settings: MachineLoginSettings = toml::from_str(text).unwrap();
    assert_eq!(settings.scopes, ["openid", "a"]);
    let again: MachineLoginSettings = toml::from_str(&toml::to_string(&settings).unwrap()).unwrap();
    assert_eq!(again, settings);
    assert!(toml::from_str::<MachineLoginSettings>("issuer = 'x'\nclient-secret = 'no'").is_err());
}

#[test]
fn a_token_is_not_shown() {
    let token = AccessToken { secret: Zeroizing::new("hush".into()), expires: Instant::now() };
    assert!(!format!("{token:?}").contains("hush"));
}
