//! A provider on loopback (real HTTP), and keys that sign as it would.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair,
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::super::*;

pub const AUDIENCE: &str = "nats";
pub const ROLES: &str = "urn:zitadel:iam:org:project:roles";

/// A key of the provider.
pub struct Signer {
    pub id: &'static str,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

pub fn rsa(id: &'static str) -> Signer {
    let pem = match id {
        "stranger" => include_str!("rsa-2.pem"),
        _ => include_str!("rsa-1.pem"),
    };
    let der = rustls_pemfile::private_key(&mut pem.as_bytes()).unwrap().unwrap();
    Signer { id, pair: Pair::Rsa(RsaKeyPair::from_pkcs8(der.secret_der()).unwrap()) }
}

pub fn ecdsa(id: &'static str) -> Signer {
    let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    Signer { id, pair: Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).unwrap()) }
}

pub fn ed25519(id: &'static str) -> Signer {
    let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Signer { id, pair: Pair::Ed25519(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap()) }
}

impl Signer {
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ecdsa(_) => "ES256",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    pub fn jwk(&self) -> Value {
        let mut jwk = json!({ "kid": self.id, "use": "sig", "alg": self.algorithm() });
        let more = match &self.pair {
            Pair::Rsa(pair) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({ "kty": "RSA", "n": encode(public.n), "e": encode(public.e) })
            }
            Pair::Ecdsa(pair) => {
                let point = pair.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
            }
            Pair::Ed25519(pair) => json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key()) }),
        };
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }

    pub fn header(&self) -> Value {
        json!({ "alg": self.algorithm(), "typ": "at+jwt", "kid": self.id })
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    /// Signs whatever the header says.
    pub fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let random = SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ecdsa(pair) => {
                pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(signature))
    }
}

/// An HMAC with a secret of the attacker's choice.
pub fn hmac_signed(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encode(tag))
}

pub fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[derive(Default)]
struct Script {
    keys: Vec<Value>,
    hangs: bool,
    down: bool,
    asked: BTreeMap<String, usize>,
}

/// The provider.
pub struct Server {
    pub issuer: String,
    script: Arc<Mutex<Script>>,
    _task: JoinSet<()>,
}

impl Server {
    pub async fn start(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let mut task = JoinSet::new();
        let (answers, base) = (Arc::clone(&script), issuer.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, base) = (Arc::clone(&answers), base.clone());
                connections.spawn(async move {
                    let service = service_fn(|request| answer(&script, &base, request));
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let server = Self { issuer, script, _task: task };
        server.rotate(keys);
        server
    }

    pub fn rotate(&self, keys: &[&Signer]) {
        self.script.lock().unwrap().keys = keys.iter().map(|key| key.jwk()).collect();
    }

    pub fn serve_keys(&self, keys: Vec<Value>) {
        self.script.lock().unwrap().keys = keys;
    }

    pub fn hang(&self, hangs: bool) {
        self.script.lock().unwrap().hangs = hangs;
    }

    pub fn down(&self, down: bool) {
        self.script.lock().unwrap().down = down;
    }

    /// How often the keys were asked for.
    pub fn asked(&self) -> usize {
        self.script.lock().unwrap().asked.get("/keys").copied().unwrap_or_default()
    }

    pub fn settings(&self) -> ProviderSettings {
        ProviderSettings {
            issuer: self.issuer.clone(),
            audience: AUDIENCE.to_owned(),
            ca_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/src/oidc/tests/ca.pem").into()),
            roles_claim: ROLES.to_owned(),
        }
    }

    pub fn provider(&self) -> Provider {
        Provider::new(self.settings()).unwrap()
    }

    /// Claims that pass.
    pub fn claims(&self) -> Value {
        let now = now().as_second();
        json!({
            "iss": self.issuer, "sub": "pi-7", "aud": ["other", AUDIENCE], "azp": "somebody",
            "iat": now - 10, "nbf": now - 10, "exp": now + 300, "jti": "1",
            ROLES: { "fleet-admin": { "123": "example.com" }, "viewer": {} },
        })
    }
}

/// When all tests take place.
pub fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

async fn answer(
    script: &Mutex<Script>,
    base: &str,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let (hangs, down, keys) = {
        let mut script = script.lock().unwrap();
        *script.asked.entry(path.clone()).or_default() += 1;
        (script.hangs, script.down, script.keys.clone())
    };
    let body = match path.as_str() {
        "/.well-known/openid-configuration" => json!({
            "issuer": base,
            "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"),
            "jwks_uri": format!("{base}/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }),
        _ if hangs => std::future::pending().await,
        _ => json!({ "keys": keys }),
    };
    let response = Response::builder().status(if down { 503 } else { 200 });
    Ok(response.header("content-type", "application/json").body(Full::from(body.to_string())).unwrap())
}
