//! The flow against a provider on loopback that answers what a test says; `e2e/tests/oidc.rs` has the real one.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use fleet_daemon::credential::{CaSource, DeviceCredential};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::*;

/// An authority that signed nothing here: the client has to have one.
const CA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/login/tests/ca.pem");

#[derive(Default)]
struct Script {
    /// Answers of each path, in this order; the last one stays.
    answers: HashMap<String, VecDeque<(u16, Value)>>,
    asked: Vec<(String, String)>,
}

struct Server {
    url: String,
    script: Arc<Mutex<Script>>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let answers = Arc::clone(&script);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&answers);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(&script, request));
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let server = Self { url, script, _task: task };
        server.say("/keys", 200, json!({ "keys": [] }));
        server.discovery(json!({ "device_authorization_endpoint": format!("{}/device", server.url) }));
        server.say(
            "/device",
            200,
            json!({
                "device_code": "device-secret", "user_code": "ABCD-\u{1b}EFGH", "expires_in": 300, "interval": 2,
                "verification_uri": format!("{}/enter", server.url),
            }),
        );
        server
    }

    fn discovery(&self, extra: Value) {
        let url = &self.url;
        let mut document = json!({
            "issuer": url, "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"), "jwks_uri": format!("{url}/keys"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        });
        document.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let path = "/.well-known/openid-configuration";
        self.script.lock().unwrap().answers.remove(path);
        self.say(path, 200, document);
    }

    fn say(&self, path: &str, status: u16, body: Value) {
        self.script.lock().unwrap().answers.entry(path.to_owned()).or_default().push_back((status, body));
    }

    fn refuse(&self, error: &str, description: &str) {
        self.say("/token", 400, json!({ "error": error, "error_description": description }));
    }

    fn asked(&self, path: &str) -> Vec<String> {
        let script = self.script.lock().unwrap();
        script.asked.iter().filter(|(asked, _)| asked == path).map(|(_, body)| body.clone()).collect()
    }

    fn settings(&self) -> Settings {
        Settings {
            issuer: self.url.clone(),
            client_id: "fleet".into(),
            scopes: vec!["openid".into(), "urn:x:aud".into()],
            audience: Some("nats".into()),
            ca_file: Some(CA.into()),
        }
    }

    /// Runs the flow; gives its end, what was shown, and how long it would have waited.
    async fn flow(&self) -> (Result<Session, LoginError>, Vec<Verification>, Vec<u64>) {
        let (mut shown, waits) = (Vec::new(), Mutex::new(Vec::new()));
        let mut prompt = |verification: &Verification| shown.push(verification.clone());
        let result = flow(&self.settings(), &mut prompt, |wait| {
            waits.lock().unwrap().push(wait.as_secs());
            std::future::ready(())
        })
        .await;
        (result, shown, waits.into_inner().unwrap())
    }
}

async fn answer(
    script: &Mutex<Script>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut script = script.lock().unwrap();
    script.asked.push((path.clone(), String::from_utf8(body.to_vec()).unwrap()));
    let (status, body) = match script.answers.get_mut(&path) {
        Some(several) if several.len() > 1 => several.pop_front().unwrap(),
        Some(last) => last[0].clone(),
        None => (404, json!({})),
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::from(body.to_string())).unwrap())
}

fn jwt(claims: &Value) -> String {
    use base64::Engine as _;
    let encode = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.x", encode("{}".into()), encode(claims.to_string()))
}

fn session(settings: Settings) -> Session {
    Session {
        settings,
        subject: Some("alice".into()),
        access_token: Secret::new("access-secret".into()),
        refresh_token: Some(Secret::new("refresh-secret".into())),
        expires: Timestamp::now(),
    }
}

#[tokio::test]
async fn the_code_is_shown_and_polling_obeys_the_provider() {
    let server = Server::start().await;
    server.refuse("authorization_pending", "");
    server.refuse("slow_down", "");
    server.refuse("authorization_pending", "");
    server.say(
        "/token",
        200,
        json!({ "access_token": "a", "token_type": "Bearer", "expires_in": 600, "refresh_token": "r" }),
    );
    let (session, shown, waits) = server.flow().await;
    let session = session.unwrap();
    assert_eq!(waits, [2, 7, 7], "an interval, and 5 s more from slow_down on");
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].code, "ABCD-EFGH", "no control characters on a terminal");
    assert_eq!(shown[0].uri, format!("{}/enter", server.url));
    assert_eq!(session.access_token.expose(), "a");
    assert_eq!(session.refresh_token.as_ref().unwrap().expose(), "r");
    assert!(session.is_fresh(Timestamp::now()));
    let asked = server.asked("/device");
    assert!(asked[0].contains("scope=openid+offline_access+urn%3Ax%3Aaud"), "{asked:?}");
    assert!(asked[0].contains("audience=nats") && asked[0].contains("client_id=fleet"), "{asked:?}");
}

#[tokio::test]
async fn a_login_that_is_denied_or_too_late_says_so() {
    for (error, expected) in [("access_denied", "denied"), ("expired_token", "not confirmed in time")] {
        let server = Server::start().await;
        server.refuse(error, "");
        let refused = server.flow().await.0.unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn other_refusals_are_repeated_in_one_line() {
    let server = Server::start().await;
    server.refuse("invalid_client", "no\nsuch client");
    let refused = server.flow().await.0.unwrap_err();
    assert!(matches!(&refused, LoginError::Person(PersonError::Refused(_))), "{refused:?}");
    assert!(refused.to_string().contains("no such client"), "{refused}");
}

#[tokio::test]
async fn a_provider_without_device_flow_is_named() {
    let server = Server::start().await;
    server.discovery(json!({}));
    let refused = server.flow().await.0.unwrap_err();
    assert!(matches!(&refused, LoginError::Person(PersonError::NoDeviceFlow { .. })), "{refused:?}");
    server.discovery(json!({ "issuer": "https://other.example.com" }));
    let refused = server.flow().await.0.unwrap_err();
    assert!(matches!(&refused, LoginError::Person(PersonError::Discovery { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_id_token_that_is_not_signed_by_the_provider_is_refused() {
    let server = Server::start().await;
    let claims =
        json!({ "iss": server.url, "sub": "mallory", "aud": "fleet", "exp": 9_999_999_999_u64, "iat": 1 });
    let forged = jwt(&claims).replacen("e30", "eyJhbGciOiJSUzI1NiJ9", 1).replace(".x", ".eA");
    server.say("/token", 200, json!({ "access_token": "a", "token_type": "Bearer", "id_token": forged }));
    let refused = server.flow().await.0.unwrap_err();
    assert!(matches!(&refused, LoginError::Person(PersonError::IdToken(_))), "{refused:?}");
}

#[tokio::test]
async fn a_session_about_to_end_is_renewed_once_and_kept() {
    let server = Server::start().await;
    server.say("/token", 200, json!({ "access_token": "new", "token_type": "Bearer", "expires_in": 600 }));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path());
    store.save(&session(server.settings())).unwrap();
    let (one, other) = tokio::join!(load(&store), load(&store));
    assert_eq!(one.unwrap(), other.unwrap());
    let asked = server.asked("/token");
    assert_eq!(asked.len(), 1, "the second one waits for what the first one got");
    assert!(asked[0].contains("grant_type=refresh_token") && asked[0].contains("refresh-secret"));
    let kept = store.load().unwrap().unwrap();
    assert_eq!(kept.access_token.expose(), "new");
    assert_eq!(kept.refresh_token.unwrap().expose(), "refresh-secret", "the provider gave no other");
    assert_eq!(kept.subject.as_deref(), Some("alice"));
}

#[tokio::test]
async fn a_session_that_cannot_be_renewed_asks_for_a_login_and_shows_no_token() {
    let server = Server::start().await;
    server.refuse("invalid_grant", "unknown token refresh-secret");
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(folder.path());
    assert!(matches!(load(&store).await, Err(LoginError::NotLoggedIn)));
    store.save(&session(server.settings())).unwrap();
    let error = load(&store).await.unwrap_err();
    assert!(matches!(&error, LoginError::Person(PersonError::Ended(_))), "{error:?}");
    assert!(error.to_string().contains("fleet login"), "{error}");
    assert!(!format!("{error} {error:?}").contains("refresh-secret"));
    let without = Session { refresh_token: None, ..session(server.settings()) };
    assert!(matches!(refresh(&without).await, Err(LoginError::Person(PersonError::Ended(_)))));
}

#[test]
fn the_file_is_for_the_user_alone_and_replaced_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(&folder.path().join("harmony-fleet"));
    assert_eq!(store.load().unwrap(), None);
    let settings = Settings {
        issuer: "https://id".into(),
        client_id: "fleet".into(),
        scopes: vec![],
        audience: None,
        ca_file: None,
    };
    let first = session(settings);
    store.save(&first).unwrap();
    let second = Session { access_token: Secret::new("second".into()), ..first };
    store.save(&second).unwrap();
    assert_eq!(store.load().unwrap(), Some(second));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store.file()), 0o600);
    assert_eq!(mode(store.file().parent().unwrap()), 0o700);
    let names: Vec<_> = store.file().parent().unwrap().read_dir().unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");

    std::fs::set_permissions(store.file(), std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(store.load(), Err(LoginError::Person(PersonError::Exposed { .. }))));
    assert!(store.remove().unwrap());
    assert!(!store.remove().unwrap());
    std::fs::write(store.file(), "{\"accessToken\": \"access-secret\"}").unwrap();
    std::fs::set_permissions(store.file(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let damaged = store.load().unwrap_err();
    assert!(matches!(damaged, LoginError::Person(PersonError::Damaged { .. })));
    assert!(!format!("{damaged} {damaged:?}").contains("access-secret"));
}

#[tokio::test]
async fn a_login_leaves_a_credential_as_devices_have_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::at(&folder.path().join("config"));
    let first = session(Server::start().await.settings());
    store.save(&first).unwrap();
    assert_eq!(store.reach(), None);
    let nats_ca = Some(CaSource::Pem("-----BEGIN CERTIFICATE-----\n".into()));
    let reach = Reach { nats_url: "tls://nats.example:4222".into(), nats_ca };
    store.make_credential(reach.clone(), &first).unwrap();
    assert_eq!(store.reach().as_ref(), Some(&reach), "the next login needs no words");

    let key = async || {
        let credential = DeviceCredential::load(&store.credential_file()).unwrap();
        credential.login().prove(b"nonce").await.unwrap()
    };
    let proof = key().await;
    assert_eq!(proof.token.as_deref(), Some(first.access_token.expose()));
    let renewed = Session { access_token: Secret::new("renewed".into()), ..first };
    store.save(&renewed).unwrap();
    let again = key().await;
    assert_eq!(again.token.as_deref(), Some("renewed"), "what is renewed is shown from then on");
    assert_eq!(again.nkey, proof.nkey);
    store.make_credential(reach, &renewed).unwrap();
    assert_ne!(key().await.nkey, proof.nkey, "each login has a key of its own");
    for entry in std::fs::read_dir(store.folder()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    store.remove().unwrap();
    assert_eq!(std::fs::read_dir(store.folder()).unwrap().count(), 0, "nothing of it stays");
}

#[test]
fn whose_session_it_is_can_be_shown_and_no_token_with_it() {
    let settings = Settings {
        issuer: "https://id".into(),
        client_id: "fleet".into(),
        scopes: vec![],
        audience: None,
        ca_file: None,
    };
    let mut session = session(settings);
    assert_eq!(session.who("roles").roles, [""; 0], "an access token that only the provider can read");
    assert!(!format!("{session:?}").contains("secret"), "{session:?}");
    for roles in [json!({ "admin": {}, "viewer": {} }), json!(["admin", "viewer"])] {
        session.access_token = Secret::new(jwt(&json!({ "sub": "bob", "roles": roles })));
        let who = session.who("roles");
        assert_eq!(who.roles, ["admin", "viewer"]);
        assert_eq!(who.subject, "alice", "the signed ID token wins");
        assert!(who.renewable);
    }
    session.subject = None;
    assert_eq!(session.who("roles").subject, "bob");
}

#[tokio::test]
async fn an_issuer_in_the_clear_is_refused() {
    let mut settings = Server::start().await.settings();
    settings.issuer = "http://id.example.com".into();
    let refused = device_flow(&settings, &mut |_: &Verification| {}).await.unwrap_err();
    assert!(matches!(refused, LoginError::Settings(_)), "{refused:?}");
}
