//! Registry logins per second on one core, without nats-server: open, verify, decide, sign, seal.
//!
//! `cargo bench -p callout`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use callout::{
    authorize::{Authorizer, Complaints},
    claims::Issuer,
    decide::Policy,
    limits::Limits,
    metrics::Metrics,
    registry::Registry,
    servers::Servers,
    tokens::{Oidc, ReviewError, ServiceAccounts, TokenReviews, Tokens},
};
use fleet_wire::enrollment::{Enrollment, Record};
use futures::future::BoxFuture;
use nkeys::{KeyPair, XKey};

const DEVICES: usize = 2000;
const ROUNDS: usize = 5;
const NONCE: &str = "c0OFu2Fh7AQzOcY";

/// Nobody has a token here.
struct Nobody;

impl TokenReviews for Nobody {
    fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

fn main() {
    let (server, server_curve, curve) = (KeyPair::new_server(), XKey::new(), XKey::new());
    let issuer = Issuer::new(&KeyPair::new_account().seed().unwrap(), "FLEET").unwrap();
    let ours = XKey::from_public_key(&curve.public_key()).unwrap();
    let registry = Registry::default();
    let requests: Vec<Vec<u8>> = (0..DEVICES)
        .map(|n| {
            let (key, name) = (KeyPair::new_user(), format!("pi-{n}"));
            let enrollment = Enrollment {
                device: name.parse().unwrap(),
                identity_key: key.public_key().parse().unwrap(),
                curve_key: XKey::new().public_key().parse().unwrap(),
                subject: None,
                labels: Default::default(),
                taint: true,
                pod_cidr: None,
                report_pod_ip: false,
            };
            registry.update().put_node(name, "uid");
            registry.update().put_record(Record::new(enrollment, "uid"));
            let claims = serde_json::json!({
                "aud": "nats-authorization-request",
                "iss": server.public_key(),
                "sub": issuer.public_key(),
                "nats": {
                    "server_id": {
                        "id": server.public_key(), "name": "n1", "xkey": server_curve.public_key(),
                    },
                    "user_nkey": KeyPair::new_user().public_key(),
                    "client_info": { "host": "192.0.2.1", "id": n, "type": "nats", "nonce": NONCE },
                    "connect_opts": {
                        "nkey": key.public_key(),
                        "sig": URL_SAFE_NO_PAD.encode(key.sign(NONCE.as_bytes()).unwrap()),
                        "lang": "rust", "version": "0.51.0", "protocol": 1,
                    },
                    "client_tls": { "version": "1.3", "cipher": "TLS_AES_128_GCM_SHA256" },
                    "type": "authorization_request",
                    "version": 2,
                },
            });
            let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
            let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
            let signature = URL_SAFE_NO_PAD.encode(server.sign(signed.as_bytes()).unwrap());
            server_curve.seal(format!("{signed}.{signature}").as_bytes(), &ours).unwrap()
        })
        .collect();
    let authorizer = Authorizer {
        issuer,
        servers: Servers::new([curve]),
        spare_issuers: Vec::new(),
        registry,
        tokens: Tokens::new(Oidc::default(), ServiceAccounts::new(Nobody)),
        policy: Policy {
            device_requests: false,
            components: Default::default(),
            admin_role: "fleet-admin".to_owned(),
        },
        lifetime: Duration::from_secs(720),
        limits: Limits::default(),
        metrics: Arc::new(Metrics::new(&mut Default::default())),
        complaints: Complaints::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let header = server_curve.public_key();
    let mut took = Vec::with_capacity(DEVICES * ROUNDS);
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for request in &requests {
            let begun = Instant::now();
            runtime.block_on(authorizer.answer(Some(&header), request)).unwrap();
            took.push(begun.elapsed());
        }
    }
    let all = started.elapsed();
    took.sort_unstable();
    let admitted: u64 = {
        let labels =
            callout::metrics::AuthorizationLabels { login: "registry", decision: "admit", reason: "" };
        authorizer.metrics.authorizations.get_or_create(&labels).get()
    };
    assert_eq!(admitted as usize, took.len(), "everybody is admitted");
    println!(
        "{:.0} registry logins/s on one core, p50 {:?}, p99 {:?} ({} of them)",
        took.len() as f64 / all.as_secs_f64(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
        took.len(),
    );
}
