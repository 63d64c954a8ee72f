//! Tokens of identity providers: which are believed, and why the others are not.

mod provider;
mod rotation;

use std::time::Instant as Clock;

use openidconnect::core::CoreJsonWebKey;
use proptest::prelude::*;
use provider::*;
use serde_json::{Value, json};

use super::*;

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn each_of_the_three_algorithms_is_accepted() {
    let signers = [rsa("r"), ecdsa("e"), ed25519("d")];
    let server = Server::start(&signers.each_ref()).await;
    let provider = server.provider();
    for signer in &signers {
        let verified = provider.verify(&signer.sign(&server.claims()), now()).await.unwrap();
        assert_eq!(verified.subject, "pi-7");
        assert_eq!(verified.roles, ["fleet-admin".to_owned(), "viewer".to_owned()].into());
        assert_eq!(verified.expires.as_second(), now().as_second() + 300);
    }
    assert_eq!(server.asked(), 1, "known keys need no I/O");
}

#[tokio::test]
async fn harmless_differences_are_accepted() {
    let signer = rsa("r");
    let server = Server::start(&[&signer]).await;
    let provider = server.provider();
    let (claims, at) = (server.claims(), now().as_second());
    for claims in [
        with(claims.clone(), "aud", json!(AUDIENCE)),
        with(claims.clone(), "exp", json!(at - 59)),
        with(claims.clone(), "exp", json!(at as f64 + 0.5)),
        with(claims.clone(), "nbf", json!(at + 59)),
        with(claims.clone(), "iat", json!(at + 59)),
        without(without(claims.clone(), "nbf"), "iat"),
        with(claims.clone(), "nonce", json!("n")),
    ] {
        provider
            .verify(&signer.sign(&claims), now())
            .await
            .unwrap_or_else(|error| panic!("{claims}: {error}"));
    }
    for header in [
        json!({ "alg": "RS256" }),
        json!({ "alg": "RS256", "kid": "r" }),
        json!({ "alg": "RS256", "kid": "r", "typ": "JWT" }),
        json!({ "alg": "RS256", "kid": "r", "typ": "application/at+jwt", "x5t": "ignored" }),
    ] {
        provider
            .verify(&signer.sign_as(&header, &claims), now())
            .await
            .unwrap_or_else(|e| panic!("{header}: {e}"));
    }
}

#[tokio::test]
async fn roles_are_read_in_both_shapes_and_no_other() {
    let signer = ed25519("d");
    let server = Server::start(&[&signer]).await;
    let provider = server.provider();
    let roles = async |value: Value| {
        let token = signer.sign(&with(server.claims(), ROLES, value));
        provider.verify(&token, now()).await.map(|verified| verified.roles.into_iter().collect::<Vec<_>>())
    };
    assert_eq!(roles(json!(["b", "a", "a"])).await.unwrap(), ["a", "b"]);
    assert_eq!(roles(json!({ "a": {} })).await.unwrap(), ["a"]);
    assert!(roles(json!({})).await.unwrap().is_empty());
    assert!(roles(Value::Null).await.unwrap().is_empty());
    for wrong in [json!("a b"), json!(true), json!(["a", 1]), json!([["a"]])] {
        assert_eq!(roles(wrong).await.unwrap_err().label(), "malformed");
    }
    let none = signer.sign(&without(server.claims(), ROLES));
    assert!(provider.verify(&none, now()).await.unwrap().roles.is_empty());
}

/// The table of refusals; what is refused before the signature needs no provider at all.
#[tokio::test]
async fn what_is_not_a_good_token_is_refused_and_costs_no_question() {
    let signer = rsa("r");
    let server = Server::start(&[&signer]).await;
    let provider = server.provider();
    let (claims, at) = (server.claims(), now().as_second());
    let header = signer.header();
    let none = |alg: &str| format!("{}.", message(&json!({ "alg": alg, "kid": "r" }), &claims));
    let public = signer.jwk()["n"].as_str().unwrap().to_owned();
    let hs256 = json!({ "alg": "HS256", "kid": "r" });
    let header_with = |name: &str, value: Value| signer.sign_as(&with(header.clone(), name, value), &claims);
    let claims_with = |name: &str, value: Value| signer.sign(&with(claims.clone(), name, value));
    let good = signer.sign(&claims);

    let table: Vec<(&str, &str, String)> = vec![
        ("no algorithm", "algorithm", none("none")),
        ("no algorithm, other case", "algorithm", none("nOnE")),
        ("no algorithm but a signature", "algorithm", header_with("alg", json!("none"))),
        ("the public key as HMAC secret", "algorithm", hmac_signed(public.as_bytes(), &hs256, &claims)),
        ("an algorithm that is not accepted", "algorithm", header_with("alg", json!("RS384"))),
        ("PSS", "algorithm", header_with("alg", json!("PS256"))),
        ("expired", "expired", claims_with("exp", json!(at - 61))),
        ("long expired", "expired", claims_with("exp", json!(0))),
        ("not yet valid", "not-yet-valid", claims_with("nbf", json!(at + 61))),
        ("issued in the future", "not-yet-valid", claims_with("iat", json!(at + 61))),
        ("another audience", "audience", claims_with("aud", json!(["other"]))),
        ("part of an audience", "audience", claims_with("aud", json!("nats2"))),
        ("no audience", "audience", signer.sign(&without(claims.clone(), "aud"))),
        ("an audience that is no text", "audience", claims_with("aud", json!([{ "nats": 1 }]))),
        ("another issuer", "issuer", claims_with("iss", json!("https://id.example.com"))),
        ("a longer issuer", "issuer", claims_with("iss", json!(format!("{}/", server.issuer)))),
        ("no issuer", "issuer", signer.sign(&without(claims.clone(), "iss"))),
        ("no expiry", "malformed", signer.sign(&without(claims.clone(), "exp"))),
        ("an expiry in words", "malformed", claims_with("exp", json!("tomorrow"))),
        ("an expiry beyond time", "malformed", claims_with("exp", json!(1e300))),
        ("no subject", "malformed", signer.sign(&without(claims.clone(), "sub"))),
        ("an empty subject", "malformed", claims_with("sub", json!(""))),
        ("a subject with a line break", "malformed", claims_with("sub", json!("a\nb"))),
        ("a long subject", "malformed", claims_with("sub", json!("x".repeat(256)))),
        ("a critical extension", "malformed", header_with("crit", json!(["exp"]))),
        ("a token in a token", "malformed", header_with("cty", json!("JWT"))),
        ("a logout token", "malformed", header_with("typ", json!("logout+jwt"))),
        ("a client's assertion", "malformed", header_with("typ", json!("client-authentication+jwt"))),
        ("too large", "malformed", claims_with("padding", json!("x".repeat(16 * 1024)))),
        ("nothing", "malformed", String::new()),
        ("dots", "malformed", "..".into()),
        ("one part missing", "malformed", good.rsplit_once('.').unwrap().0.into()),
        ("five parts", "malformed", format!("{good}.x.y")),
        ("padded base64", "malformed", format!("{good}=")),
        ("white space", "malformed", format!(" {good}")),
        ("claims that are no object", "malformed", signer.sign(&json!([1]))),
        ("not JSON", "malformed", format!("{}.{}.x", encode("{"), encode("{}"))),
    ];
    for (what, label, token) in table {
        let refused = provider.verify(&token, now()).await.expect_err(what);
        assert_eq!(refused.label(), label, "{what}: {refused}");
        assert!(!refused.to_string().contains("example.com"), "{what} is repeated: {refused}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_wrong_signature_is_refused() {
    let (signer, stranger, curve) = (rsa("r"), rsa("stranger"), ecdsa("e"));
    let server = Server::start(&[&signer, &curve]).await;
    let provider = server.provider();
    let claims = server.claims();
    let good = signer.sign(&claims);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let other = with(claims.clone(), "sub", json!("pi-8"));
    let swapped = format!("{}.{signature}", provider::message(&signer.header(), &other));
    for (what, token) in [
        ("a stranger's key under a known id", stranger.sign_as(&signer.header(), &claims)),
        ("claims exchanged", swapped),
        ("no signature", format!("{message}.")),
        ("a short signature", format!("{message}.AAAA")),
        ("an elliptic signature of zeros", {
            format!("{}.{}", provider::message(&curve.header(), &claims), encode([0; 64]))
        }),
    ] {
        assert_eq!(provider.verify(&token, now()).await, Err(OidcError::Signature), "{what}");
    }
    // A key is used for what the provider says that it is for.
    let confused = json!({ "alg": "RS256", "kid": "e" });
    let token = signer.sign_as(&confused, &claims);
    assert_eq!(provider.verify(&token, now()).await, Err(OidcError::UnknownKey));
}

#[tokio::test]
async fn keys_that_are_not_for_signatures_or_too_weak_are_not_used() {
    let signer = rsa("r");
    let server = Server::start(&[&signer]).await;
    let symmetric = json!({ "kty": "oct", "kid": "h", "k": encode("secret"), "alg": "HS256" });
    let encryption = with(signer.jwk(), "use", json!("enc"));
    let weak = json!({ "kty": "RSA", "kid": "r", "alg": "RS256", "n": encode([255; 128]), "e": "AQAB" });
    server.serve_keys(vec![symmetric, weak, json!({ "kty": "new", "kid": "?" }), json!(7)]);
    let provider = server.provider();
    let refused = provider.verify(&signer.sign(&server.claims()), now()).await;
    assert_eq!(refused, Err(OidcError::Unavailable), "a provider without a usable key");
    server.serve_keys(vec![encryption]);
    let refused = server.provider().verify(&signer.sign(&server.claims()), now()).await;
    assert_eq!(refused, Err(OidcError::Signature));
}

#[test]
fn the_library_reads_the_keys_of_these_tests() {
    for signer in [rsa("r"), ecdsa("e"), ed25519("d")] {
        serde_json::from_value::<CoreJsonWebKey>(signer.jwk()).unwrap();
    }
}

#[tokio::test]
async fn keys_that_hang_are_given_up_within_a_second() {
    let signer = rsa("r");
    let server = Server::start(&[&signer]).await;
    server.hang(true);
    let provider = server.provider();
    let begun = Clock::now();
    let refused = provider.verify(&signer.sign(&server.claims()), now()).await;
    assert_eq!(refused, Err(OidcError::Unavailable));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let settings = |issuer: &str, audience: &str| ProviderSettings {
        issuer: issuer.into(),
        audience: audience.into(),
        ca_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/src/oidc/tests/ca.pem").into()),
        roles_claim: ROLES.into(),
    };
    assert!(Provider::new(settings("https://id.example.com", "nats")).is_ok());
    assert!(matches!(
        Provider::new(settings("http://id.example.com", "nats")),
        Err(ProviderError::Issuer { .. })
    ));
    assert!(matches!(Provider::new(settings("id", "nats")), Err(ProviderError::Issuer { .. })));
    assert!(matches!(Provider::new(settings("https://id", "")), Err(ProviderError::Audience { .. })));
    let mut missing = settings("https://id", "nats");
    missing.ca_file = Some("/nowhere/ca.pem".into());
    assert!(matches!(Provider::new(missing), Err(ProviderError::Client(_))));
}

#[test]
fn the_issuer_of_a_token_chooses_its_verifier() {
    let token = |claims: Value| format!("x.{}.x", encode(claims.to_string()));
    assert_eq!(unverified_issuer(&token(json!({ "iss": "a" }))), Some("a".into()));
    for none in [token(json!({ "iss": 7 })), token(json!({})), "".into(), "a.b.c".into(), "x".repeat(20_000)]
    {
        assert_eq!(unverified_issuer(&none), None);
    }
}

proptest! {
    #[test]
    fn any_text_is_refused_or_taken_apart_without_panic(text in "\\PC{0,200}", json in "[{}\\[\\]\":,a-z0-9.e-]{0,60}") {
        let _ = (unverified_issuer(&text), token::Token::parse(&text).is_ok());
        let built = format!("{}.{}.{}", encode(r#"{"alg":"RS256"}"#), encode(&json), encode("x"));
        if let Ok(token) = token::Token::parse(&built) {
            prop_assert!(token.check("i", "a", "r", now()).is_err());
        }
    }

    #[test]
    fn any_time_is_handled_without_panic(exp in any::<f64>(), nbf in any::<i64>()) {
        let claims = json!({ "iss": "i", "aud": "a", "sub": "s", "exp": exp, "nbf": nbf });
        let built = format!("{}.x", message(&json!({ "alg": "EdDSA" }), &claims));
        let built = built.replace(".x", ".eA");
        let _ = token::Token::parse(&built).unwrap().check("i", "a", "r", now());
    }
}
