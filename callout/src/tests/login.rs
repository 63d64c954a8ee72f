//! The ways to log in, and that there is none between them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::*;

const NONCE: &str = "c0OFu2Fh7AQzOcY";

fn client(nonce: &str) -> Client {
    Client { host: "192.0.2.1".into(), id: 1, kind: "nats".into(), nonce: nonce.into() }
}

fn parse(connect: Value) -> Result<Login, LoginError> {
    Login::parse(serde_json::from_value(connect).unwrap(), &client(NONCE))
}

fn signed(key: &KeyPair, nonce: &str) -> String {
    URL_SAFE_NO_PAD.encode(key.sign(nonce.as_bytes()).unwrap())
}

#[test]
fn each_row_of_the_table_is_one_login() {
    let key = KeyPair::new_user();
    let (nkey, sig) = (key.public_key(), signed(&key, NONCE));
    let kind = |connect| parse(connect).unwrap().kind();
    assert_eq!(kind(json!({ "nkey": nkey, "sig": sig })), Kind::Registry);
    assert_eq!(kind(json!({ "nkey": nkey, "sig": sig, "auth_token": "t" })), Kind::Token);
    assert_eq!(kind(json!({ "user": "enrollment:0123456789abcdef0123" })), Kind::EnrollmentToken);
    assert_eq!(kind(json!({ "nkey": nkey, "sig": sig, "user": "request" })), Kind::Applicant);
}

#[test]
fn nothing_between_the_rows_is_a_login() {
    let key = KeyPair::new_user();
    let (nkey, sig) = (key.public_key(), signed(&key, NONCE));
    let account = KeyPair::new_account().public_key();
    let token = "enrollment:0123456789abcdef0123";
    let cases = [
        (json!({}), LoginError::Anonymous),
        (json!({ "auth_token": "t" }), LoginError::Unsigned),
        (json!({ "auth_token": "t", "user": token }), LoginError::Mixed),
        (json!({ "nkey": nkey }), LoginError::Unsigned),
        (json!({ "sig": sig }), LoginError::Unsigned),
        (json!({ "nkey": account, "sig": sig }), LoginError::Key),
        (json!({ "nkey": nkey, "sig": "*" }), LoginError::Key),
        (json!({ "nkey": nkey, "sig": sig, "user": token }), LoginError::Mixed),
        (json!({ "nkey": nkey, "sig": sig, "user": "device:pi-7" }), LoginError::Mixed),
        (json!({ "nkey": nkey, "sig": sig, "user": "request", "auth_token": "t" }), LoginError::Mixed),
        (json!({ "nkey": nkey, "sig": sig, "pass": "p" }), LoginError::Foreign),
        (json!({ "nkey": nkey, "sig": sig, "jwt": "eyJ" }), LoginError::Foreign),
        (json!({ "user": "request" }), LoginError::User),
        (json!({ "user": "enrollment:" }), LoginError::User),
        (json!({ "user": "enrollment:0123456789abcdef0123.secret" }), LoginError::User),
        (json!({ "user": "enrollment:0123456789abcdef012*" }), LoginError::User),
        (json!({ "user": "pi-7" }), LoginError::User),
        (json!({ "user": token, "pass": "p" }), LoginError::Foreign),
    ];
    for (connect, expected) in cases {
        let shown = connect.to_string();
        assert_eq!(parse(connect).unwrap_err(), expected, "{shown}");
    }
    let huge = json!({ "nkey": nkey, "sig": sig, "auth_token": "t".repeat(MAX_BEARER + 1) });
    assert_eq!(parse(huge).unwrap_err(), LoginError::BearerSize);
}

#[test]
fn a_signature_holds_for_its_own_nonce_and_key_only() {
    let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
    let holds = |nkey: &KeyPair, sig: String| {
        let login = parse(json!({ "nkey": nkey.public_key(), "sig": sig })).unwrap();
        login.proof().unwrap().holds()
    };
    assert!(holds(&key, signed(&key, NONCE)));
    assert!(!holds(&key, signed(&key, "another nonce")), "replayed from another connection");
    assert!(!holds(&key, signed(&other, NONCE)));
    assert!(!holds(&other, signed(&key, NONCE)));
    assert!(!holds(&key, URL_SAFE_NO_PAD.encode([0; 64])));
    assert!(!holds(&key, URL_SAFE_NO_PAD.encode("short")));
}

#[test]
fn without_a_nonce_no_signature_counts() {
    let key = KeyPair::new_user();
    let connect = json!({ "nkey": key.public_key(), "sig": signed(&key, "") });
    let refused = Login::parse(serde_json::from_value(connect).unwrap(), &client("")).unwrap_err();
    assert_eq!(refused, LoginError::Unsigned);
}

#[test]
fn other_protocols_have_no_login() {
    let connect = serde_json::from_value(json!({ "user": "enrollment:0123456789abcdef0123" })).unwrap();
    let client = Client { kind: "mqtt".into(), ..client(NONCE) };
    assert_eq!(Login::parse(connect, &client).unwrap_err(), LoginError::Protocol);
}
