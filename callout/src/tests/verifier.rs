//! Which verifier a token gets, and what it may make of its holder.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::tokens::{ReviewError, TokenReviews};

/// Believes everything: which one is asked is what matters here.
struct Trusting(&'static str);

impl OidcVerifier for Trusting {
    fn issuer(&self) -> &str {
        self.0
    }

    fn verify<'a>(&'a self, _: &'a str, now: Timestamp) -> BoxFuture<'a, Result<Verified, OidcError>> {
        let token = Verified { subject: "someone".into(), roles: BTreeSet::new(), expires: now };
        Box::pin(std::future::ready(Ok(token)))
    }
}

impl TokenReviews for Trusting {
    fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
        Box::pin(std::future::ready(Ok(Some(self.0.to_owned()))))
    }
}

fn tokens(device: Option<&'static str>, person: Option<&'static str>) -> Tokens {
    let verifier = |issuer: Option<&'static str>| -> Option<Arc<dyn OidcVerifier>> {
        issuer.map(|issuer| Arc::new(Trusting(issuer)) as Arc<dyn OidcVerifier>)
    };
    let oidc = Oidc { device: verifier(device), person: verifier(person) };
    Tokens::new(oidc, ServiceAccounts::new(Trusting("system:serviceaccount:harmony-fleet:vk-nats")))
}

fn token(claims: serde_json::Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

#[test]
fn the_issuer_chooses_the_verifier() {
    let tokens = tokens(Some("https://devices"), Some("https://people"));
    let kind = |issuer: &str, device_key| tokens.kind(&token(json!({ "iss": issuer })), device_key);
    for device_key in [false, true] {
        assert_eq!(kind("https://devices", device_key), Kind::OidcDevice);
        assert_eq!(kind("https://people", device_key), Kind::OidcPerson);
        assert_eq!(kind("https://kubernetes.default.svc", device_key), Kind::ServiceAccount);
    }
    for junk in ["", "a", "a.b", "a.b.c", "..", "e30.e30.e30", &token(json!([])), &token(json!({ "iss": 1 }))]
    {
        assert_eq!(tokens.kind(junk, false), Kind::Token, "{junk}");
    }
}

#[test]
fn where_devices_and_persons_share_an_issuer_the_key_decides() {
    let tokens = tokens(Some("https://idp"), Some("https://idp"));
    let token = token(json!({ "iss": "https://idp" }));
    assert_eq!(tokens.kind(&token, true), Kind::OidcDevice);
    assert_eq!(tokens.kind(&token, false), Kind::OidcPerson);
}

#[tokio::test]
async fn the_kind_fixes_what_the_holder_is() {
    let tokens = tokens(Some("https://devices"), Some("https://people"));
    let (now, never) = (Timestamp::UNIX_EPOCH, || panic!("nobody is asked over the network"));
    let text = token(json!({ "iss": "whoever", "exp": 1_800_000_000 }));
    let device = tokens.holder(Kind::OidcDevice, &text, now, never).await.unwrap();
    assert_eq!(device, Holder::Device { subject: "someone".into(), expires: now });
    let person = tokens.holder(Kind::OidcPerson, &text, now, never).await.unwrap();
    assert!(matches!(person, Holder::Person { .. }));
    let account = tokens.holder(Kind::ServiceAccount, &text, now, || true).await.unwrap();
    let Holder::ServiceAccount { user, expires } = account else { panic!("{account:?}") };
    assert_eq!(user, "system:serviceaccount:harmony-fleet:vk-nats");
    assert_eq!(expires, Timestamp::from_second(1_800_000_000).ok());
    let refused = tokens.holder(Kind::Token, &text, now, never).await.unwrap_err();
    assert_eq!(refused, TokenRefusal::UnknownIssuer);
}

#[tokio::test]
async fn tokens_take_no_more_than_their_part_of_the_process() {
    /// An API server that never answers.
    struct Hanging;
    impl TokenReviews for Hanging {
        fn review<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<String>, ReviewError>> {
            Box::pin(std::future::pending())
        }
    }
    let tokens = Tokens::new(Oidc::default(), ServiceAccounts::new(Hanging));
    let ask = || tokens.holder(Kind::ServiceAccount, "a.b.c", Timestamp::UNIX_EPOCH, || true);
    let mut waiting: Vec<_> = (0..CONCURRENCY).map(|_| Box::pin(ask())).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    assert_eq!(ask().await, Err(TokenRefusal::RateLimited));
    waiting.pop();
    assert!(futures::poll!(Box::pin(ask())).is_pending(), "who gives up makes room");
}

#[tokio::test]
async fn a_verifier_that_is_not_set_up_verifies_nothing() {
    let tokens = tokens(None, None);
    let text = token(json!({ "iss": "https://devices" }));
    let refused = tokens.holder(Kind::OidcDevice, &text, Timestamp::UNIX_EPOCH, || true).await.unwrap_err();
    assert_eq!(refused, TokenRefusal::UnknownIssuer);
}
