//! Whole authorizations, with the server's side played by its keys.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fleet_wire::{enrollment::Record, permissions::Permissions};
use futures::future::BoxFuture;
use nkeys::{KeyPair, XKey};
use prometheus_client::registry::Registry as MetricsRegistry;
use serde_json::{Value, json};

use super::*;
use crate::{
    decide::Component,
    fixtures::record_of,
    tokens::{Oidc, ReviewError, ServiceAccounts, TokenReviews},
};

const NONCE: &str = "c0OFu2Fh7AQzOcY";

/// An API server that knows one token.
struct ApiServer;

impl TokenReviews for ApiServer {
    fn review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        let good = token == component_token();
        let user = good.then(|| "system:serviceaccount:harmony-fleet:vk-nats".to_owned());
        Box::pin(std::future::ready(Ok(user)))
    }
}

fn component_token() -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"iss":"https://kubernetes.default.svc"}"#))
}

struct Case {
    authorizer: Authorizer,
    server: KeyPair,
    server_curve: XKey,
    device: KeyPair,
    record: Record,
}

impl Case {
    fn new() -> Self {
        let device = KeyPair::new_user();
        let record = record_of("pi-7", "uid-7", &device);
        let registry = Registry::default();
        registry.update().put_node("pi-7", "uid-7");
        registry.update().put_record(record.clone());
        let authorizer = Authorizer {
            issuer: Issuer::new(&KeyPair::new_account().seed().unwrap(), "FLEET").unwrap(),
            servers: Servers::new([XKey::new()]),
            spare_issuers: Vec::new(),
            registry,
            tokens: Tokens::new(Oidc::default(), ServiceAccounts::new(ApiServer)),
            policy: Policy {
                device_requests: true,
                components: [(
                    "system:serviceaccount:harmony-fleet:vk-nats".to_owned(),
                    Component::ClusterSide,
                )]
                .into(),
                admin_role: "fleet-admin".into(),
            },
            lifetime: Duration::from_secs(720),
            limits: Limits::default(),
            metrics: Arc::new(Metrics::new(&mut MetricsRegistry::default())),
            complaints: Complaints::default(),
        };
        Self { authorizer, server: KeyPair::new_server(), server_curve: XKey::new(), device, record }
    }

    fn claims(&self, host: &str, connect: Value) -> Value {
        json!({
            "aud": "nats-authorization-request",
            "iss": self.server.public_key(),
            "sub": self.authorizer.issuer.public_key(),
            "jti": "request-1",
            "nats": {
                "server_id": {
                    "id": self.server.public_key(), "name": "n1", "xkey": self.server_curve.public_key(),
                },
                "user_nkey": KeyPair::new_user().public_key(),
                "client_info": { "host": host, "id": 7, "type": "nats", "nonce": NONCE },
                "connect_opts": connect,
                "type": "authorization_request",
                "version": 2,
            },
        })
    }

    fn token(&self, claims: &Value) -> Vec<u8> {
        let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(self.server.sign(signed.as_bytes()).unwrap());
        format!("{signed}.{signature}").into_bytes()
    }

    fn seal(&self, claims: &Value) -> Vec<u8> {
        let ours = XKey::from_public_key(&self.authorizer.servers.public_key().unwrap()).unwrap();
        self.server_curve.seal(&self.token(claims), &ours).unwrap()
    }

    /// The user's claims, or the error, of the answer.
    async fn ask(&self, host: &str, connect: Value) -> Result<Value, String> {
        let claims = self.claims(host, connect);
        let header = self.server_curve.public_key();
        let sealed = self.authorizer.answer(Some(&header), &self.seal(&claims)).await.unwrap();
        let ours = XKey::from_public_key(&self.authorizer.servers.public_key().unwrap()).unwrap();
        let answer = payload(&self.server_curve.open(&sealed, &ours).unwrap());
        assert_eq!(answer["aud"], claims["iss"], "for this server");
        assert_eq!(answer["sub"], claims["nats"]["user_nkey"], "for this user");
        match answer["nats"]["jwt"].as_str() {
            Some(user) => {
                let user = payload(user.as_bytes());
                assert_eq!(user["sub"], claims["nats"]["user_nkey"]);
                assert_eq!(user["aud"], "FLEET");
                Ok(user)
            }
            None => Err(answer["nats"]["error"].as_str().unwrap().to_owned()),
        }
    }

    fn login(&self) -> Value {
        signed(&self.device, NONCE)
    }

    fn count(&self, login: &'static str, decision: &'static str, reason: &'static str) -> u64 {
        let labels = AuthorizationLabels { login, decision, reason };
        self.authorizer.metrics.authorizations.get_or_create(&labels).get()
    }
}

fn signed(key: &KeyPair, nonce: &str) -> Value {
    json!({ "nkey": key.public_key(), "sig": URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes()).unwrap()) })
}

fn payload(token: &[u8]) -> Value {
    let part = token.split(|byte| *byte == b'.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_device_gets_a_user_with_its_own_subjects() {
    let case = Case::new();
    let user = case.ask("192.0.2.1", case.login()).await.unwrap();
    assert_eq!(user["name"], "device:pi-7");
    let permissions = Permissions::of(&fleet_wire::permissions::Identity::Device("pi-7".parse().unwrap()));
    assert_eq!(user["nats"]["pub"]["allow"], json!(permissions.publish));
    assert_eq!(user["nats"]["sub"]["allow"], json!(permissions.subscribe));
    let lifetime = user["exp"].as_i64().unwrap() - user["iat"].as_i64().unwrap();
    assert!((600..=900).contains(&lifetime), "{lifetime}");
    assert_eq!(case.count("registry", "admit", ""), 1);
}

#[tokio::test]
async fn who_cannot_show_the_key_is_refused_and_told_nothing() {
    let case = Case::new();
    let stranger = KeyPair::new_user();
    let replayed = signed(&case.device, "the nonce of another connection");
    let mut borrowed = signed(&stranger, NONCE);
    borrowed["nkey"] = json!(case.device.public_key());
    for connect in [replayed, borrowed, signed(&stranger, NONCE), json!({}), json!({ "user": "device:pi-7" })]
    {
        assert_eq!(case.ask("192.0.2.1", connect).await.unwrap_err(), REFUSED);
    }
    assert_eq!(case.count("registry", "refuse", "signature"), 2);
    assert_eq!(case.count("registry", "refuse", "unknown-key"), 1);
    assert_eq!(case.count("none", "refuse", "anonymous"), 1);
    assert_eq!(case.count("none", "refuse", "unknown-user"), 1);
}

#[tokio::test]
async fn a_device_whose_node_was_deleted_is_out_at_once() {
    let case = Case::new();
    case.ask("192.0.2.1", case.login()).await.unwrap();
    case.authorizer.registry.update().remove_node("pi-7", &case.record.node_uid);
    case.ask("192.0.2.1", case.login()).await.unwrap_err();
    assert_eq!(case.count("registry", "refuse", "without-node"), 1);
}

#[tokio::test]
async fn a_token_holder_and_an_applicant_get_their_own_door_only() {
    let case = Case::new();
    let user = case.ask("192.0.2.1", json!({ "user": "enrollment:0123456789abcdef0123" })).await.unwrap();
    assert_eq!(user["name"], "token:0123456789abcdef0123");
    let door = "fleet.enroll.v1.token.0123456789abcdef0123";
    assert_eq!(user["nats"]["pub"]["allow"], json!([door]));
    let stranger = KeyPair::new_user();
    let mut connect = signed(&stranger, NONCE);
    connect["user"] = json!("request");
    let user = case.ask("192.0.2.1", connect).await.unwrap();
    assert_eq!(
        user["nats"]["pub"]["allow"],
        json!([format!("fleet.enroll.v1.key.{}", stranger.public_key())])
    );
}

#[tokio::test]
async fn a_component_gets_in_with_a_token_of_the_cluster() {
    let case = Case::new();
    let mut connect = signed(&KeyPair::new_user(), NONCE);
    connect["auth_token"] = json!(component_token());
    assert_eq!(case.ask("192.0.2.1", connect.clone()).await.unwrap()["name"], "component:vk-nats");
    assert_eq!(case.count("service-account", "admit", ""), 1);
    connect["sig"] = signed(&KeyPair::new_user(), NONCE)["sig"].clone();
    case.ask("192.0.2.1", connect).await.unwrap_err();
    assert_eq!(case.count("service-account", "refuse", "signature"), 1);
}

#[tokio::test]
async fn wrong_attempts_do_not_lock_a_device_out_behind_the_same_address() {
    let case = Case::new();
    let id = json!({ "user": "enrollment:0123456789abcdef0123" });
    for _ in 0..300 {
        case.ask("192.0.2.1", signed(&case.device, "wrong")).await.unwrap_err();
    }
    case.ask("192.0.2.1", id.clone()).await.unwrap_err();
    assert_eq!(case.count("enrollment-token", "refuse", "rate-limited"), 1);
    assert!(case.ask("192.0.2.1", case.login()).await.is_ok(), "who proves its key is not held up");
    assert!(case.ask("192.0.2.2", id).await.is_ok(), "nor is another address");
}

#[tokio::test]
async fn a_device_that_reconnects_without_end_is_slowed_down() {
    let case = Case::new();
    let mut refused = 0;
    for _ in 0..100 {
        refused += u32::from(case.ask("192.0.2.1", case.login()).await.is_err());
    }
    assert!(refused > 50, "{refused}");
    assert_eq!(case.count("registry", "refuse", "rate-limited"), u64::from(refused));
}

#[tokio::test]
async fn only_sealed_requests_of_the_server_that_signed_them_are_answered() {
    let case = Case::new();
    let claims = case.claims("192.0.2.1", case.login());
    let (header, sealed) = (case.server_curve.public_key(), case.seal(&claims));
    let label = async |header: Option<&str>, payload: &[u8]| {
        case.authorizer.answer(header, payload).await.unwrap_err().label()
    };
    assert_eq!(label(None, &case.token(&claims)).await, "plain");
    assert_eq!(label(None, &sealed).await, "plain");
    assert_eq!(label(Some(&header), &case.token(&claims)).await, "box");
    assert_eq!(label(Some("X"), &sealed).await, "header");
    assert_eq!(label(Some(&XKey::new().public_key()), &sealed).await, "box");

    // Sealed by somebody else than the server that signed it.
    let other = XKey::new();
    let ours = XKey::from_public_key(&case.authorizer.servers.public_key().unwrap()).unwrap();
    let passed_on = other.seal(&case.token(&claims), &ours).unwrap();
    assert_eq!(label(Some(&other.public_key()), &passed_on).await, "server-key");

    let mut without = claims.clone();
    without["nats"]["server_id"]["xkey"] = json!("");
    assert_eq!(label(Some(&header), &case.seal(&without)).await, "server-key");
    let mut other_issuer = claims.clone();
    other_issuer["sub"] = json!(KeyPair::new_account().public_key());
    assert_eq!(label(Some(&header), &case.seal(&other_issuer)).await, "issuer");
    let mut user = claims.clone();
    user["nats"]["type"] = json!("user");
    assert_eq!(label(Some(&header), &case.seal(&user)).await, "request");
    assert!(case.authorizer.answer(Some(&header), &sealed).await.is_ok());
}

#[tokio::test]
async fn servers_with_the_old_and_with_the_new_configuration_are_answered_during_a_rotation() {
    let mut case = Case::new();
    let seal = |case: &Case, curve: &XKey, issuer: &Issuer| {
        let mut claims = case.claims("192.0.2.1", case.login());
        claims["sub"] = json!(issuer.public_key());
        let curve = XKey::from_public_key(&curve.public_key()).unwrap();
        case.server_curve.seal(&case.token(&claims), &curve).unwrap()
    };
    let (old_curve, new_curve) = (XKey::new(), XKey::new());
    let fresh = || Issuer::new(&KeyPair::new_account().seed().unwrap(), "FLEET").unwrap();
    let old_issuer = std::mem::replace(&mut case.authorizer.issuer, fresh());
    case.authorizer.servers = Servers::new([new_curve.clone()]);
    let header = case.server_curve.public_key();
    let from_old = seal(&case, &old_curve, &old_issuer);
    let refused = case.authorizer.answer(Some(&header), &from_old).await.unwrap_err();
    assert_eq!(refused.label(), "box", "without the spare keys");

    let expected = [old_issuer.public_key().to_owned(), case.authorizer.issuer.public_key().to_owned()];
    let from_new = seal(&case, &new_curve, &case.authorizer.issuer);
    let curves = [old_curve.public_key(), new_curve.public_key()];
    case.authorizer.spare_issuers = vec![old_issuer];
    case.authorizer.servers = Servers::new([new_curve, old_curve]);
    for ((request, issuer), curve) in [from_old, from_new].iter().zip(expected).zip(curves) {
        let sealed = case.authorizer.answer(Some(&header), request).await.unwrap();
        let curve = XKey::from_public_key(&curve).unwrap();
        let answer = payload(&case.server_curve.open(&sealed, &curve).unwrap());
        assert_eq!(answer["iss"], issuer, "by the issuer that this server expects");
        let user = payload(answer["nats"]["jwt"].as_str().unwrap().as_bytes());
        assert_eq!(user["iss"], issuer);
    }
}

#[test]
fn users_end_apart_from_each_other_and_never_after_their_token() {
    let case = Case::new();
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let after =
        |not_after, random| case.authorizer.expiry(now, not_after, random).as_second() - now.as_second();
    assert_eq!((after(None, 0.0), after(None, 1.0)), (600, 900));
    let token_end = Some(Timestamp::from_second(1_800_000_060).unwrap());
    assert_eq!(after(token_end, 0.5), 60);
}
