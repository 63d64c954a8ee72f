//! Against the vectors that the official Go library made (`callout/tests/vectors`).

use std::collections::BTreeMap;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use fleet_wire::permissions::Identity;
use jiff::Timestamp;
use nkeys::{KeyPair, XKey};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vectors {
    seeds: Seeds,
    request: String,
    sealed: String,
    refused: BTreeMap<String, String>,
    user_claims: String,
    user_claims_without_publish: String,
    admitted: String,
    denied: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seeds {
    server: String,
    server_xkey: String,
    issuer: String,
    callout_xkey: String,
    user: String,
    device: String,
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("../../tests/vectors/vectors.json")).unwrap()
}

fn public(seed: &str) -> String {
    KeyPair::from_seed(seed).unwrap().public_key()
}

fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn is_signed_by(token: &str, seed: &str) -> bool {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    KeyPair::from_seed(seed).unwrap().verify(signed.as_bytes(), &signature).is_ok()
}

/// Without what depends on the clock, and without the hash that nobody checks.
fn timeless(token: &str) -> Value {
    let mut claims = payload(token);
    for key in ["iat", "jti"] {
        claims.as_object_mut().unwrap().remove(key);
    }
    if let Some(inner) = claims.pointer_mut("/nats/jwt") {
        *inner = timeless(inner.as_str().unwrap());
    }
    claims
}

#[test]
fn a_request_of_the_official_library_is_read() {
    let vectors = vectors();
    let request = AuthorizationRequest::decode(vectors.request.as_bytes()).unwrap();
    let device = public(&vectors.seeds.device);
    assert_eq!(request.issuer, public(&vectors.seeds.issuer));
    assert_eq!(request.user_nkey.as_str(), public(&vectors.seeds.user));
    assert_eq!(request.server.id, public(&vectors.seeds.server));
    assert_eq!(request.server.name, "nats-1");
    let xkey = XKey::from_seed(&vectors.seeds.server_xkey).unwrap().public_key();
    assert_eq!(request.server.xkey.unwrap().as_str(), xkey);
    assert_eq!((request.client.host.as_str(), request.client.id), ("192.0.2.7", 42));
    assert_eq!(request.client.kind, "nats");
    assert_eq!(request.connect.nkey, device);
    let key: fleet_wire::keys::IdentityKey = device.parse().unwrap();
    let signature = URL_SAFE_NO_PAD.decode(&request.connect.sig).unwrap();
    assert!(key.verifies(request.client.nonce.as_bytes(), &signature));
}

#[test]
fn a_sealed_request_of_the_official_library_opens() {
    let vectors = vectors();
    let curve = XKey::from_seed(&vectors.seeds.callout_xkey).unwrap();
    let server = XKey::from_seed(&vectors.seeds.server_xkey).unwrap();
    let opened = curve.open(&STANDARD.decode(&vectors.sealed).unwrap(), &server).unwrap();
    assert_eq!(opened, vectors.request.as_bytes());
}

#[test]
fn requests_that_are_not_a_servers_own_are_refused() {
    let vectors = vectors();
    assert!(vectors.refused.len() > 10);
    for (what, token) in &vectors.refused {
        let refused = AuthorizationRequest::decode(token.as_bytes());
        assert!(refused.is_err(), "{what} was believed");
    }
    let reason = |what: &str| AuthorizationRequest::decode(vectors.refused[what].as_bytes()).unwrap_err();
    assert_eq!(reason("algorithm none"), RequestError::Token(TokenError::Header));
    assert_eq!(reason("algorithm HS256"), RequestError::Token(TokenError::Header));
    assert_eq!(reason("changed signature"), RequestError::Token(TokenError::Signature));
    assert_eq!(reason("signature of another server"), RequestError::Token(TokenError::Signature));
    assert_eq!(reason("issuer signs with its account"), RequestError::Token(TokenError::Issuer("server")));
    assert_eq!(reason("issuer is not the server"), RequestError::Server);
    assert_eq!(reason("another audience"), RequestError::Audience);
    assert_eq!(reason("user key is not one"), RequestError::Key("user_nkey"));
}

#[test]
fn our_answers_are_those_of_the_official_library() {
    let vectors = vectors();
    let issuer = Issuer::new(&vectors.seeds.issuer, "FLEET").unwrap();
    let user = public(&vectors.seeds.user).parse().unwrap();
    let server = public(&vectors.seeds.server);
    let (now, expires) = (Timestamp::now(), Timestamp::from_second(4_102_444_800).unwrap());
    let grant = Grant::of(&Identity::Device("pi-7".parse().unwrap()));
    let admitted = issuer.admit(&server, &user, &grant, now, expires).unwrap();
    assert!(is_signed_by(&admitted, &vectors.seeds.issuer));
    assert!(is_signed_by(payload(&admitted)["nats"]["jwt"].as_str().unwrap(), &vectors.seeds.issuer));
    assert_eq!(payload(&admitted)["iat"], now.as_second());
    let (mut ours, mut theirs) = (timeless(&admitted), timeless(&vectors.admitted));
    assert_eq!(theirs["nats"]["jwt"], timeless(&vectors.user_claims), "the vectors belong together");
    // The subjects of the vector are an example; ours are tested where they are made.
    for claims in [&mut ours, &mut theirs] {
        for list in ["pub", "sub"] {
            claims["nats"]["jwt"]["nats"][list] = json!(null);
        }
    }
    assert_eq!(ours, theirs);

    let denied = issuer.refuse(&server, &user, now, "not authorized").unwrap();
    assert!(is_signed_by(&denied, &vectors.seeds.issuer));
    assert_eq!(timeless(&denied), timeless(&vectors.denied));
}

/// For `callout/tests/vectors`: `cargo test -p callout --lib an_answer -- --ignored --nocapture | grep response
/// | go run . check` shows what the official library thinks of ours.
#[test]
#[ignore = "its output is for the checker that the Go library is in"]
fn an_answer_for_the_official_library() {
    let vectors = vectors();
    let issuer = Issuer::new(&vectors.seeds.issuer, "FLEET").unwrap();
    let user = public(&vectors.seeds.user).parse().unwrap();
    let (now, expires) = (Timestamp::now(), Timestamp::from_second(4_102_444_800).unwrap());
    let grant = Grant::of(&Identity::Device("pi-7".parse().unwrap()));
    let answer = issuer.admit(&public(&vectors.seeds.server), &user, &grant, now, expires).unwrap();
    let curve = XKey::from_seed(&vectors.seeds.callout_xkey).unwrap();
    let server = XKey::from_seed(&vectors.seeds.server_xkey).unwrap();
    let sealed = STANDARD.encode(curve.seal(answer.as_bytes(), &server).unwrap());
    println!("\n{}", json!({ "response": sealed }));
}

#[test]
fn who_may_publish_nothing_is_denied_everything() {
    let key = public(&vectors().seeds.device).parse().unwrap();
    let grant = Grant::of(&Identity::Administrator(key));
    let claims: Value = serde_json::from_str(&format!("{{{}}}", grant.as_json_members())).unwrap();
    // To nats-server an empty list allows all.
    assert_eq!(claims["nats"]["pub"], json!({ "deny": [">"] }));
    assert_eq!(payload(&vectors().user_claims_without_publish)["nats"]["pub"], json!({ "deny": [">"] }));
    assert_eq!(claims["nats"]["payload"], 0);
}

#[test]
fn no_grant_lets_anybody_answer_where_it_was_not_allowed_to_publish() {
    let key: fleet_wire::keys::IdentityKey = public(&vectors().seeds.device).parse().unwrap();
    let identities = [
        Identity::Device("pi-7".parse().unwrap()),
        Identity::ClusterSide,
        Identity::Enroller,
        Identity::TokenHolder("00112233445566778899".parse().unwrap()),
        Identity::Applicant(key.clone()),
        Identity::Administrator(key),
    ];
    for identity in identities {
        let grant = Grant::of(&identity);
        let claims: Value = serde_json::from_str(&format!("{{{}}}", grant.as_json_members())).unwrap();
        assert_eq!(claims["nats"].get("resp"), None, "{identity}");
        assert_eq!(claims["nats"]["allowed_connection_types"], json!(["STANDARD"]), "{identity}");
        assert_eq!(claims["name"], identity.to_string());
    }
}

#[test]
fn a_key_of_another_kind_issues_nothing() {
    let seeds = vectors().seeds;
    assert_eq!(Issuer::new(&seeds.user, "FLEET").unwrap_err(), IssuerError::Seed);
    assert_eq!(Issuer::new("SA", "FLEET").unwrap_err(), IssuerError::Seed);
    assert_eq!(Issuer::new(&seeds.issuer, " ").unwrap_err(), IssuerError::Account);
}

#[test]
fn what_is_too_large_is_not_read() {
    let token = vec![b'a'; MAX_TOKEN + 1];
    let refused = AuthorizationRequest::decode(&token).unwrap_err();
    assert_eq!(refused, RequestError::Token(TokenError::TooLarge(MAX_TOKEN + 1)));
}

#[test]
fn errors_and_debug_output_hold_no_secret() {
    let options: ConnectOptions = serde_json::from_value(json!({
        "nkey": "U", "sig": "hunter1", "auth_token": "hunter2", "pass": "hunter3", "jwt": "hunter4", "new": 1,
    }))
    .unwrap();
    assert!(!format!("{options:?}").contains("hunter"));
    let seeds = vectors().seeds;
    let claims = json!({ "iss": public(&seeds.server), "sub": ["hunter2"], "nats": {} }).to_string();
    let server = KeyPair::from_seed(&seeds.server).unwrap();
    let token = token::encode(&claims, &server).unwrap();
    let refused = AuthorizationRequest::decode(token.as_bytes()).unwrap_err();
    assert!(!refused.to_string().contains("hunter"), "{refused}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = AuthorizationRequest::decode(&bytes);
    }

    #[test]
    fn no_payload_makes_the_decoder_panic(payload in "[ -~]{0,300}") {
        let server = KeyPair::from_seed(&vectors().seeds.server).unwrap();
        let token = token::encode(&payload, &server).unwrap();
        prop_assert!(AuthorizationRequest::decode(token.as_bytes()).is_err());
    }

    #[test]
    fn no_changed_byte_is_believed(at in 0_usize..2000, bit in 0_u8..8) {
        let vectors = vectors();
        let mut token = vectors.request.into_bytes();
        let at = at % token.len();
        token[at] ^= 1 << bit;
        prop_assert!(AuthorizationRequest::decode(&token).is_err());
    }
}
